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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from llava_pack.assemble.locking import lock_of
from llava_pack.assemble.planning import BuildOptions, plan_build
from llava_pack.cli import main
from llava_pack.fetch.cache import Cache
from llava_pack.format.progress import Silent
from llava_pack.lock import configuration
from llava_pack.lock.choice import Asked, choose
from llava_pack.recipe import Recipe, read_recipe
from llava_pack.shipped import shipped
from tests.support.checkpoints import (
    TinyLlava,
    TinyTower,
    make_language,
    make_lora,
    make_projector,
    make_tower,
)
from tests.support.memory_disk import memory_disk
from tests.support.tiny_wheels import write_tiny_wheels

ZEROS = "0" * 64
LICENCES = ("Apache-2.0", "MIT", "BSD-3-Clause")
LICENCE = {"id": LICENCES[0], "url": "https://www.apache.org/licenses/LICENSE-2.0", "gated": True}
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
            "licence": LICENCE | {"id": LICENCES[1]},
        },
        "values": {"mm_vision_select_layer": -2, "mm_projector_type": "mlp2x_gelu"},
    },
    "vision_tower": {
        "source": "dir:tower",
        "name": "clip-tiny",
        "files": [{"path": "notes.txt", "size_bytes": 0, "sha256": ZEROS}],
        "licence": LICENCE | {"id": LICENCES[2]},
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
    index = {"PIP_FIND_LINKS": str(wheels), "PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}
    return index | {"SOURCE_DATE_EPOCH": "1790000000", "LLAVA_PACK_CACHE": str(place / "cache")}


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
        command += [part for name in LICENCES for part in ("--accept-license", name)]
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(io.StringIO()) as said,
        ):
            for name, value in offline.items():
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


def test_a_model_that_was_trained_here_does_not_say_where(example, place, offline, monkeypatch):
    for name, value in offline.items():
        monkeypatch.setenv(name, value)
    folder = place / "trained"
    spec = TinyLlava(tower=TinyTower())
    make_lora(folder / "adapter", spec)
    make_language(folder / "language", spec)
    make_tower(folder / "tower", spec.tower)
    _say(folder / "adapter/adapter_config.json", base_model_name_or_path=f"{folder}/language")
    _say(folder / "adapter/config.json", mm_vision_tower=f"{folder}/tower", _name_or_path="/x/y")
    _say(folder / "language/config.json", _name_or_path=f"{folder}/language")
    _say(folder / "tower/config.json", _name_or_path=f"{folder}/tower")
    fields = json.loads(json.dumps(example))
    fields["model"] |= {"source": f"dir:{folder}/adapter", "files": []}
    del fields["model"]["values"]
    fields["model"]["base"] |= {"source": "dir:language", "files": []}
    fields["vision_tower"] |= {"source": "dir:tower", "files": []}
    fields["known_answers"] = []
    (folder / "tiny.toml").write_text(toml(fields))
    command = ["build", str(folder / "tiny.toml"), "--python", "target", "--no-record"]
    command += [part for name in LICENCES for part in ("--accept-license", name)]
    assert main([*command, "--out", str(folder / "out")]) == 0
    assert traces(folder / "out", [str(place), "/x/y"]) == []


def _say(path: Path, **values: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_recipe_is_read_once_whatever_becomes_of_its_file(example, place, offline, monkeypatch):
    for name, value in offline.items():
        monkeypatch.setenv(name, value)
    file = place / "example" / "once.toml"
    file.write_text(toml(example))
    recipe, cache = read_recipe(file), Cache()
    choice = choose(recipe.value, None, Asked(python="target"))
    options = BuildOptions(recipe=recipe, out=place / "once", choice=choice, release=1)
    before = lock_of(plan_build(options, cache, Silent()), options, cache)
    file.write_text("another = 1")
    assert lock_of(plan_build(options, cache, Silent()), options, cache) == before
    assert plan_build(replace(options, locked=before), cache, Silent()).recipe == recipe.value


@pytest.fixture(scope="session")
def demos(place, offline):
    """Build the demo from one lock as two people do: one says where it is, one is there."""
    built, lock = {}, place / "demo.lock.json"
    for user, umask in (("ada", 0o022), ("grace", 0o077)):
        home = place / f"home-of-{user}"
        shutil.copytree(shipped("bundles"), home / "recipes")
        (home / "scratch").mkdir()
        environ = os.environ | offline | {"HOME": str(home), "USER": user, "LOGNAME": user}
        environ |= {"LLAVA_PACK_CACHE": str(home / "cache"), "TMPDIR": str(home / "scratch")}
        recipe = "demo.toml" if built else str(home / "recipes" / "demo.toml")
        commands = [["build", recipe, "--locked", lock, "--no-record", "--out", home / "demo"]]
        if not built:
            commands.insert(0, ["lock", recipe, "--python", "target", "--out", lock])
        for command in commands:
            subprocess.run(
                [sys.executable, "-m", "llava_pack", *map(str, command)],
                cwd=home / "recipes", env=environ, umask=umask, check=True, capture_output=True,
            )  # fmt: skip
        built[user] = home / "demo"
    return built


def test_one_lock_gives_one_bundle_whoever_builds_it_and_where(demos):
    sums = [(bundle / "SHA256SUMS").read_bytes() for bundle in demos.values()]
    assert sums[0] == sums[1]


def test_what_an_account_keeps_to_itself_does_not_show_in_the_files_of_a_bundle(demos):
    modes = [
        {
            path.relative_to(bundle): path.stat().st_mode
            for path in bundle.rglob("*")
            if path.is_file()
        }
        for bundle in demos.values()
    ]
    assert [path for path, mode in modes[1].items() if modes[0][path] != mode] == []


def test_no_file_of_a_bundle_and_no_lock_says_where_or_by_whom_it_was_built(demos, place):
    told = [str(place), str(shipped("bundles")), sys.prefix]
    assert traces(demos["ada"], told) == []
    assert not [one for one in told if one in (place / "demo.lock.json").read_text()]
    assert traces(demos["ada"], ["clip-demo"]), "what is there would be found"


def traces(bundle: Path, told: Iterable[str]) -> list[tuple[str, str]]:
    """Return the files of a bundle in which a text is, with that text."""
    return [
        (name, one)
        for path in bundle.rglob("*")
        if path.is_file()
        for name, data in _contents(path)
        for one in told
        if one.encode() in data
    ]


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes of a file, and of what is packed in it."""
    yield path.name, path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield f"{path.name}: {name}", archive.read(name)
