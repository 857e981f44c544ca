"""The smoke test of an engine of others: it is imported, and nothing is asked of it yet."""

import argparse
from dataclasses import replace
from pathlib import Path

from llava_pack.format.manifest import render_manifest
from llava_pack.format.sums import ENGINE_LOCK
from llava_pack.health.smoke import run
from tests.support import engine_program
from tests.support.bundle import BundleSimulator


def test_what_is_accepted_is_in_the_report_although_nobody_asked(tmp_path: Path) -> None:
    engine_program.environment(tmp_path / "engine", "vllm")
    bundle = BundleSimulator()
    whole = bundle.manifest(bundle.payload())
    lock = replace(whole.files[0], path=ENGINE_LOCK)
    serving = replace(whole.serving, engine="vllm")
    whole = replace(whole, serving=serving, files=(*whole.files, lock), format=3)
    path = tmp_path / "MANIFEST.json"
    path.write_bytes(render_manifest(whole))
    given = argparse.Namespace(
        manifest=path, precision="fp16", device="cuda", accept_answer=["square"]
    )
    report = run(given)
    assert report["ok"] is True
    assert report["answers"] == [{"name": "square", "ok": False, "accepted": True}]
    given.accept_answer = []
    assert run(given)["answers"] == []
