import json

import pytest

from llava_pack.format import canonical, records
from llava_pack.format.errors import IntegrityError
from llava_pack.format.manifest import parse_manifest, render_manifest
from tests.support.bundle import BundleSimulator


@pytest.fixture
def manifest():
    simulator = BundleSimulator()
    return simulator.manifest(simulator.payload())


def edited(manifest, edit):
    value = json.loads(render_manifest(manifest))
    edit(value)
    return canonical.dumps(value)


def test_it_comes_back_as_it_was_written(manifest):
    data = render_manifest(manifest)
    again = parse_manifest(data)
    assert render_manifest(again) == data
    assert records.encode(again)["floors"] == records.encode(manifest)["floors"]
    assert [entry.path for entry in again.files] == sorted(entry.path for entry in manifest.files)


def test_a_later_writer_may_say_more(manifest):
    def more(value):
        value["more"] = {"size_bytes": 1}
        value["files"][0]["more"] = []

    assert parse_manifest(edited(manifest, more)) == parse_manifest(render_manifest(manifest))


def test_a_later_format_names_the_llava_pack_to_use(manifest):
    data = edited(manifest, lambda value: value.update(format=4, files="elsewhere"))
    with pytest.raises(IntegrityError, match="bundle format 4") as caught:
        parse_manifest(data)
    assert "llava-pack that reads bundle format 4" in caught.value.hint


def test_every_defect_is_named_in_one_error(manifest):
    def spoil(value):
        del value["release"]
        value["files"][0]["size_bytes"] = -1
        value["files"][1]["sha256"] = 5
        value["serving"]["device"] = "tpu"
        value["licence"]["gated"] = "no"

    with pytest.raises(IntegrityError) as caught:
        parse_manifest(edited(manifest, spoil))
    places = (
        "release",
        "files[0].size_bytes",
        "files[1].sha256",
        "serving.device",
        "licence.gated",
    )
    for place in places:
        assert place in str(caught.value)


@pytest.mark.parametrize(
    ("where", "edit"),
    [
        ("files[0].path", lambda v: v["files"][0].update(path="../x")),
        ("files[0].path", lambda v: v["files"][0].update(path="/etc/x")),
        ("files[0].path", lambda v: v["files"][0].update(path="START-HERE.txt")),
        ("files[0].mode", lambda v: v["files"][0].update(mode=0o4755)),
        ("files[0].sha256", lambda v: v["files"][0].update(sha256="0" * 63)),
        ("clashes", lambda v: v["files"].append({**v["files"][0], "path": "INSTALL.SH"})),
        ("recipe.name", lambda v: v["recipe"].update(name="../../root")),
        ("model.name", lambda v: v["model"].update(name="a/b")),
        ("model.path", lambda v: v["model"].update(path="wheels")),
        ("model.vision_tower", lambda v: v["model"].update(vision_tower="model/../lock")),
        ("model.vision_tower", lambda v: v["model"].update(vision_tower="model/absent")),
        ("python.path", lambda v: v["python"].update(kind="standalone")),
        ("python.version", lambda v: v["python"].update(version="3.1")),
        ("rewrites[0].path", lambda v: v["rewrites"][0].update(path="lock/pylock.toml")),
        ("rewrites[0].pointer", lambda v: v["rewrites"][0].update(pointer="mm_vision_tower")),
        ("rewrites[0].installed", lambda v: v["rewrites"][0].update(installed="/etc/passwd")),
        ("rewrites[0].installed", lambda v: v["rewrites"][0].update(installed="{model_root}/../x")),
        ("format", lambda v: v.pop("format")),
        ("format", lambda v: v.update(format="1")),
        ("format", lambda v: v.update(format=0)),
        ("release", lambda v: v.update(release=2**60)),
        ("release", lambda v: v.update(release=True)),
    ],
)
def test_what_could_escape_or_mislead_is_refused(manifest, where, edit):
    with pytest.raises(IntegrityError) as caught:
        parse_manifest(edited(manifest, edit))
    assert where in str(caught.value)


@pytest.mark.parametrize("data", [b"[]", b"null", b'"x"', b"{}", b'{"format":1}'])
def test_another_document_is_no_manifest(data):
    with pytest.raises(IntegrityError):
        parse_manifest(data)


def test_a_million_files_are_refused_by_size():
    with pytest.raises(IntegrityError, match="too large"):
        parse_manifest(b" " * (32 * 1024 * 1024 + 1))
