"""Laws of recipes and locks: every field counts; the machine that builds does not."""

import contextlib
import functools
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import typing
import zipfile
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from llava_pack.cli import main
from llava_pack.lock import configuration
from llava_pack.recipe import Recipe
from llava_pack.shipped import shipped
from tests.support.checkpoints import (
    TinyLlava,
    TinyTower,
    make_language,
    make_projector,
    make_tower,
)
from tests.support.memory_disk import memory_disk
from tests.support.tiny_wheels import write_tiny_wheels

ZEROS = "0" * 64
LICENCE = {"id": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0", "gated": True}
EXAMPLE: dict[str, Any] = {
    "name": "tiny",
    "title": "A tiny LLaVA of parts",
    "unverified": ["the whole of it"],
    "licence": LICENCE,
    "model": {
        "source": "dir:projector",
        "name": "llava-tiny",
        "format": "original",
        "conv_mode": "llava_v1",
        "files": [{"path": "mm_projector.bin", "size_bytes": 0, "sha256": ZEROS}],
        "base": {
            "source": "dir:language",
            "name": "vicuna-tiny",
            "files": [{"path": "tokenizer.model", "size_bytes": 0, "sha256": ZEROS}],
            "licence": LICENCE | {"id": "MIT"},
        },
        "values": {"mm_vision_select_layer": -2, "mm_projector_type": "mlp2x_gelu"},
    },
    "vision_tower": {
        "source": "dir:tower",
        "name": "clip-tiny",
        "files": [{"path": "notes.txt", "size_bytes": 0, "sha256": ZEROS}],
        "licence": LICENCE | {"id": "BSD-3-Clause"},
    },
    "runtime": {
        "engine": "transformers",
        "python": "3.11",
        "cuda": "none",
        "requirements": ["numpy>=1"],
    },
    "serving": {"precision": "fp32", "context_tokens": 128, "slots": 2},
    "known_answers": [
        {"name": "red", "picture": "red.png", "prompt": "What is it?", "contains": ["circle"]}
    ],
}
"""Says every field that there is; sizes and digests are filled in where the files are made."""

Path_ = tuple[str | int, ...]


def leaves(value: object, kind: object, at: Path_ = ()) -> Iterator[tuple[Path_, object]]:
    """Yield the path and the type of everything that a recipe can say, by the types of its parts.

    The first item of a list speaks for all. What the example leaves out fails here.
    """
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from leaves(getattr(value, name), field.annotation, (*at, name))
    elif isinstance(value, tuple | Mapping):
        assert value, f"the example does not say {at}"
        keys = value if isinstance(value, Mapping) else range(1)
        for key in keys:
            yield from leaves(value[key], type(value[key]), (*at, key))
    else:
        assert value is not None, f"the example does not say {at}"
        yield at, kind


LEAVES = dict(leaves(Recipe.model_validate(EXAMPLE), Recipe))


def changed(fields: dict[str, Any], at: Path_, kind: object) -> dict[str, Any]:
    """Return a recipe that says something else there, as valid where that can be."""
    copy: dict[str, Any] = {}
    for other in _others(_get(fields, at), kind):
        copy = json.loads(json.dumps(fields))
        _get(copy, at[:-1])[at[-1]] = other
        with contextlib.suppress(ValidationError):
            Recipe.model_validate(copy)
            return copy
    assert copy, f"no other value is known for {at}"
    return copy


def _others(value: Any, kind: object) -> Iterator[object]:
    for one in (kind, *typing.get_args(kind)):
        if typing.get_origin(one) is typing.Literal:
            yield from (word for word in typing.get_args(one) if word != value)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1)
    elif isinstance(value, str):
        yield from (f"{value}x", ZEROS, "3.12")


def _get(fields: Any, at: Path_) -> Any:
    return functools.reduce(lambda value, key: value[key], at, fields)


def toml(fields: Mapping[str, Any]) -> str:
    return "".join(f"{name} = {_inline(value)}\n" for name, value in fields.items())


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_inline(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """Give a folder where a flush costs nothing."""
    with tempfile.TemporaryDirectory(prefix="llava-pack-", dir=memory_disk()) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def offline(place):
    """Give the environment of a machine whose only packages are tiny ones."""
    wheels = write_tiny_wheels(place / "wheels")
    return {"PIP_FIND_LINKS": str(wheels), "PIP_NO_INDEX": "1", "SOURCE_DATE_EPOCH": "1790000000"}


@pytest.fixture(scope="session")
def example(place):
    """Write the example's sources; return what its recipe says."""
    folder = place / "example"
    spec = TinyLlava(tower=TinyTower())
    (make_projector(folder / "projector", spec) / "config.json").unlink()
    make_language(folder / "language", spec)
    make_tower(folder / "tower", spec.tower)
    (folder / "tower" / "notes.txt").write_text("of no use to a bundle, and still pinned\n")
    (folder / "red.png").write_bytes(b"a picture")
    fields = json.loads(json.dumps(EXAMPLE))
    for part in (fields["model"], fields["model"]["base"], fields["vision_tower"]):
        for file in part["files"]:
            path = folder / part["source"].removeprefix("dir:") / file["path"]
            file["size_bytes"] = path.stat().st_size
            file["sha256"] = sha256(path.read_bytes()).hexdigest()
    return fields


@pytest.fixture(scope="session")
def outcome(place, offline):
    """Build a recipe; return the exit code and the bundle's id."""
    number = itertools.count()
    pip = configuration._pip_says([sys.executable, "-m", "pip"], os.environ | offline)

    def build(fields: dict[str, Any]) -> tuple[int, str]:
        recipe = place / "example" / "tiny.toml"
        recipe.write_text(toml(fields))
        out = place / f"bundle-{next(number)}"
        command = ["build", str(recipe), "--python", "target", "--no-record", "--json"]
        for name in ("Apache-2.0", "MIT", "BSD-3-Clause"):
            command += ["--accept-license", name]
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(io.StringIO()) as said,
        ):
            for name, value in (offline | {"LLAVA_PACK_CACHE": str(place / "cache")}).items():
                patch.setenv(name, value)
            patch.setattr(configuration, "_pip_says", lambda *_: pip)
            code = main([*command, "--out", str(out)])
        shutil.rmtree(out, ignore_errors=True)
        return code, json.loads(said.getvalue().splitlines()[-1]).get("bundle_id", "")

    return build


@pytest.fixture(scope="session")
def unchanged(outcome, example):
    found = outcome(example)
    assert found[0] == 0
    return found


def test_the_same_recipe_gives_the_same_bundle(outcome, example, unchanged):
    assert outcome(example) == unchanged


@pytest.mark.parametrize("at", LEAVES, ids=lambda at: ".".join(map(str, at)))
def test_every_field_of_a_recipe_changes_the_bundle_or_the_exit_code(
    outcome, example, unchanged, at
):
    assert outcome(changed(example, at, LEAVES[at])) != unchanged


def test_values_that_a_configuration_of_the_source_would_hide_are_refused(outcome, example, place):
    make_projector(place / "example" / "configured", TinyLlava(tower=TinyTower()))
    model = example["model"] | {"source": "dir:configured", "files": []}
    assert outcome(example | {"model": model})[0] == 10


@pytest.fixture(scope="session")
def demos(place, offline):
    """Build the demo from one lock as two people do, in folders of their own."""
    built = {}
    for user, umask in (("ada", 0o022), ("grace", 0o077)):
        home = place / f"home-of-{user}"
        shutil.copytree(shipped("bundles"), home / "recipes")
        environ = offline | {"HOME": str(home), "USER": user, "LOGNAME": user}
        environ |= {"LLAVA_PACK_CACHE": str(home / "cache"), "TMPDIR": str(home / "scratch")}
        (home / "scratch").mkdir()
        lock = place / "demo.lock.json"

        def run(command, *options, home=home, environ=environ, umask=umask):
            """Run a command on the demo beside the recipes."""
            subprocess.run(
                [sys.executable, "-m", "llava_pack", command, "demo.toml", *map(str, options)],
                cwd=home / "recipes", env=os.environ | environ, umask=umask, check=True,
                stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

        if not built:
            run("lock", "--python", "target", "--out", lock)
        run("build", "--locked", lock, "--no-record", "--out", home / "demo")
        built[user] = home / "demo"
    return built


def test_one_lock_gives_one_bundle_whoever_builds_it_and_where(demos):
    sums = [(bundle / "SHA256SUMS").read_bytes() for bundle in demos.values()]
    assert sums[0] == sums[1]


def test_no_file_of_a_bundle_and_no_lock_says_where_or_by_whom_it_was_built(demos, place):
    traces = [str(place), str(shipped("bundles")), sys.prefix]
    found = [
        (name, trace)
        for path in (*demos["ada"].rglob("*"), place / "demo.lock.json")
        if path.is_file()
        for name, data in _contents(path)
        for trace in traces
        if trace.encode() in data
    ]
    assert found == []


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes of a file, and of what is packed in it."""
    yield path.name, path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield f"{path.name}: {name}", archive.read(name)
