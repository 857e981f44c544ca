"""What each engine of the field is started with, release by release: exactly, and nothing else."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_pack.format.manifest import Engine
from llava_pack.profiles.profile import Launch, Node, Profile
from llava_pack.runtimes import RUNTIMES

FIXTURES = Path(__file__).parents[2] / "fixtures" / "profiles"
OPTIONS: Mapping[str, list[str]] = json.loads((FIXTURES / "options.json").read_text())
"""Every option of a release. Source: the wheels' own parsers, read without running them."""
LAUNCHES = FIXTURES / "launches.json"
VERSIONS: Mapping[Engine, tuple[str, ...]] = {
    "vllm": ("0.33.0", "0.19.1", "0.11.2"),
    "sglang": ("0.5.23", "0.5.10.post1"),
    "lmdeploy": ("0.18.0",),
}
HEAD = Node(rank=0, count=2, head="10.0.0.1", port=29501, own="10.0.0.1", interface="eth1")
FOLDER = Path("/run/engine-0")
MODEL = Path("/srv/model/llava")
FILES = (FOLDER, MODEL, Path("/srv/model/tokenizer"), Path("/run/engine-0.sock"))
CASES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "own context": {"context_tokens": None},
    "bf16, 4 GPUs": {"precision": "bf16", "gpus": 4},
    "head of two": {"node": HEAD, "gpus": 2},
    "second of two": {"node": replace(HEAD, rank=1, own="10.0.0.2")},
    "CPU": {"device": "cpu"},
    "second CPU of two": {"device": "cpu", "node": replace(HEAD, rank=1, own="10.0.0.2")},
    "original layout": {
        "tokenizer_dir": Path("/srv/model/tokenizer"),
        "architecture": "LlavaLlamaForCausalLM",
    },
    "InternVL": {"architecture": "InternVLForConditionalGeneration"},
}


def launch(profile: Profile, version: str, **given: Any) -> Launch:
    """Return a start of an engine, as its profile has it listen."""
    unix = profile.way == "unix"
    usual = Launch(
        version=version,
        python=Path("/srv/engine/bin/python"),
        model_dir=MODEL,
        name="llava",
        architecture="LlavaForConditionalGeneration",
        precision="fp16",
        device="cuda",
        context_tokens=4096,
        slots=8,
        pictures=16,
        socket=Path("/run/engine-0.sock") if unix else None,
        port=0 if unix else 30001,
        folder=FOLDER,
        compiled=FOLDER / "compiled",
    )
    return replace(usual, **given)


def cases() -> dict[str, tuple[Profile, str, Launch]]:
    """Return every case that a profile has, by its name."""
    found = {}
    for engine, versions in VERSIONS.items():
        profile = RUNTIMES[engine].profile
        assert profile is not None
        for version in versions:
            for name, given in CASES.items():
                if "node" in given and not profile.nodes:
                    continue
                start = launch(profile, version, **given)
                found[f"{engine} {version}, {name}"] = profile, f"{engine} {version}", start
    return found


def lines(profile: Profile, start: Launch) -> dict[str, Any]:
    """Return the command line, an option with its value a line, and the environment."""
    said: list[str] = []
    for word in profile.argv(start):
        if word.startswith("-") or not said or " " in said[-1]:
            said.append(word)
        else:
            said[-1] += f" {word}"
    return {"argv": said, "environment": dict(profile.environment(start))}


@pytest.mark.parametrize("name", cases())
def test_a_launch_is_exactly_that(name: str) -> None:
    profile, _, start = cases()[name]
    assert lines(profile, start) == json.loads(LAUNCHES.read_text())[name]


def test_no_launch_is_forgotten() -> None:
    assert json.loads(LAUNCHES.read_text()).keys() == cases().keys()


@pytest.mark.parametrize("name", cases())
def test_every_option_is_one_of_that_release(name: str) -> None:
    profile, release, start = cases()[name]
    given = {word for word in (*profile.argv(start), *profile.keys) if word.startswith("--")}
    assert given <= {*OPTIONS[release]}


@pytest.mark.parametrize("name", cases())
def test_every_path_is_of_the_run_or_the_model(name: str) -> None:
    profile, _, start = cases()[name]
    words = [*profile.argv(start), *profile.environment(start).values()]
    paths = [Path(word.removeprefix("file://")) for word in words if "/" in word]
    assert paths
    assert all(any(path.is_relative_to(one) for one in FILES) for path in paths)


@pytest.mark.parametrize("name", cases())
def test_nobody_is_told_or_asked(name: str) -> None:
    profile, _, start = cases()[name]
    environment = profile.environment(start)
    assert environment["HF_HUB_OFFLINE"] == environment["DO_NOT_TRACK"] == "1"
    assert environment["NCCL_SOCKET_IFNAME"] == ("eth1" if start.node else "lo")
    argv = profile.argv(start)
    assert not {"0.0.0.0", *profile.keys} & {*argv}
    if profile.way == "loopback":
        assert argv[argv.index("127.0.0.1") + 2] == "30001"


@pytest.mark.parametrize("name", cases())
def test_an_option_is_given_once(name: str) -> None:
    profile, _, start = cases()[name]
    options = [word for word in profile.argv(start) if word.startswith("--")]
    assert len(options) == len({*options})


if __name__ == "__main__":  # writes down how they are now, to be looked at
    kept = {name: lines(profile, start) for name, (profile, _, start) in cases().items()}
    LAUNCHES.write_text(json.dumps(kept, indent=1) + "\n")
