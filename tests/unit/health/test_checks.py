"""The rules of health: what each state of the world is called, and what fixes it."""

from dataclasses import replace

import pytest

from llava_pack.health.checks import (
    check_answer,
    check_engine,
    check_environment,
    check_fences,
    check_installed,
    check_page,
    metrics_of,
)
from llava_pack.health.facts import (
    AnswerFacts,
    EnvironmentFacts,
    FenceFacts,
    InstalledFacts,
    ModelFacts,
    PageFacts,
    ServerFacts,
)
from llava_pack.health.known_answers import Grade

_PROGRAM = "/opt/llava-pack/bin/llava-pack"
_INSTALLED = InstalledFacts(
    recipe="demo",
    generation=3,
    program=_PROGRAM,
    files=7,
    size_bytes=10,
    changed=(),
    deep=False,
)
_ENVIRONMENT = EnvironmentFacts(
    python="3.11.9", wanted={"torch": "2.13.0"}, found={"torch": "2.13.0"}
)
_MODEL = ModelFacts(phase="ready", detail="", device="cuda", running=0, waiting=0, stalled_s=0.0)
_SERVER = ServerFacts(
    url="http://127.0.0.1:7860", pid=77, live=True, ready=True, models={"m": _MODEL}
)
_GRADE = Grade(name="red", ok=True, text="red", missing=())
_ANSWER = AnswerFacts(model="m", grade=_GRADE, device="cuda", ttft_s=0.2, tokens_per_s=30.0)


def test_untouched_files_are_fine() -> None:
    assert check_installed(_INSTALLED).level == "ok"
    assert "every byte" in check_installed(replace(_INSTALLED, deep=True)).text


def test_touched_files_ask_for_a_deep_check_and_bad_ones_for_the_bundle() -> None:
    changed = ("model/m/a", "model/m/b")
    quick = check_installed(replace(_INSTALLED, changed=changed))
    assert (quick.level, quick.fix) == ("fail", f"{_PROGRAM} health --deep")
    deep = check_installed(replace(_INSTALLED, changed=changed, deep=True))
    assert deep.level == "fail"
    assert deep.fix == f"{_PROGRAM} install BUNDLE --expect ID"
    assert "model/m/a, model/m/b" in deep.text


def test_other_permissions_alone_are_a_warning_and_left_to_the_deep_check() -> None:
    touched = replace(_INSTALLED, touched=("model/m/a",))
    found = check_installed(touched)
    assert (found.level, "model/m/a" in found.text) == ("warn", True)
    assert "health --deep" in found.fix
    assert check_installed(replace(touched, changed=("model/m/b",))).level == "fail"


def test_many_changed_files_are_counted_not_listed() -> None:
    changed = tuple(f"f{n}" for n in range(9))
    assert check_installed(replace(_INSTALLED, changed=changed)).text.endswith("f4 and 4 more")


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (replace(_ENVIRONMENT, python=""), "Python does not run"),
        (replace(_ENVIRONMENT, found={}), "torch absent, locked 2.13.0"),
        (replace(_ENVIRONMENT, found={"torch": "2.6.0"}), "torch 2.6.0, locked 2.13.0"),
        (replace(_ENVIRONMENT, failed_imports={"gradio": "ImportError: x"}), "gradio cannot be"),
    ],
)
def test_an_environment_that_differs_is_broken(facts: EnvironmentFacts, text: str) -> None:
    (finding,) = check_environment(facts, _PROGRAM)
    assert finding.level == "fail"
    assert text in finding.text
    assert finding.fix


def test_packages_beside_the_lock_do_not_matter() -> None:
    facts = replace(_ENVIRONMENT, found={"torch": "2.13.0", "pip": "25"})
    assert [finding.level for finding in check_environment(facts, _PROGRAM)] == ["ok"]


@pytest.mark.parametrize(
    ("model", "level", "text"),
    [
        (_MODEL, "ok", "ready on cuda"),
        (replace(_MODEL, phase="loading", detail="weights"), "warn", "loading weights"),
        (replace(_MODEL, phase="starting"), "warn", "starting"),
        (replace(_MODEL, phase="restarting", detail="SIGKILL"), "fail", "restarting: SIGKILL"),
        (
            replace(_MODEL, running=2, stalled_s=61, stalled=True),
            "fail",
            "no step for 61 s with 2 running",
        ),
        (replace(_MODEL, running=2, stalled_s=61), "ok", "2 running"),
    ],
)
def test_engines_are_judged_by_progress(model: ModelFacts, level: str, text: str) -> None:
    (finding,) = check_engine(replace(_SERVER, models={"m": model}), _PROGRAM)
    assert finding.level == level
    assert text in finding.text
    assert bool(finding.fix) == (level != "ok")


def test_a_server_that_does_not_answer_is_to_be_killed_by_its_number() -> None:
    (finding,) = check_engine(replace(_SERVER, error="timed out"), _PROGRAM)
    assert (finding.level, finding.fix) == ("fail", f"kill 77; {_PROGRAM} serve")


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        (PageFacts(status=200, is_page=True), "ok"),
        (PageFacts(status=200, is_page=False), "fail"),
        (PageFacts(status=500, is_page=False), "fail"),
        (PageFacts(status=0, is_page=False, error="refused"), "fail"),
    ],
)
def test_the_page_must_be_the_page(facts: PageFacts, level: str) -> None:
    assert check_page(facts, _PROGRAM).level == level


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        (_ANSWER, "ok"),
        (replace(_ANSWER, ttft_s=2.5), "warn"),
        (replace(_ANSWER, ttft_s=5.5), "fail"),
        (replace(_ANSWER, ttft_s=50.0, device="cpu"), "warn"),
        (replace(_ANSWER, error="HTTP 503"), "fail"),
        (
            replace(_ANSWER, grade=Grade(name="red", ok=False, text="a dog", missing=("red",))),
            "fail",
        ),
    ],
)
def test_an_answer_must_come_be_right_and_be_quick(facts: AnswerFacts, level: str) -> None:
    assert check_answer(facts, _PROGRAM).level == level


def test_a_wrong_answer_shows_what_was_expected_and_what_came() -> None:
    wrong = replace(_ANSWER, grade=Grade(name="red", ok=False, text="a dog", missing=("red",)))
    assert "expected 'red' in the answer, got 'a dog'" in check_answer(wrong, _PROGRAM).text


def test_the_figures_are_the_worst_and_leave_out_what_failed() -> None:
    slow = replace(_ANSWER, ttft_s=1.5, tokens_per_s=10.0)
    failed = replace(_ANSWER, error="x", ttft_s=99)
    figures = [str(metric) for metric in metrics_of([_ANSWER, slow, failed])]
    assert figures == ["ttft=1.5s;2;5", "tokens_per_s=10"]
    assert metrics_of([failed]) == ()


def test_each_fence_is_told_and_what_is_missing_is_a_warning() -> None:
    whole = FenceFacts(said="Landlock ABI 7 and seccomp", whole=True)
    part = FenceFacts(said="seccomp alone: Linux 5.4 has no Landlock", whole=False)
    off = FenceFacts(said="none: switched off by --no-fence", whole=False)
    models = {
        "held": replace(_MODEL, fence=whole),
        "part": replace(_MODEL, fence=part),
        "off": replace(_MODEL, fence=off),
        "old": _MODEL,
        "loading": replace(_MODEL, phase="loading"),
    }
    found = check_fences(replace(_SERVER, fence=whole, models=models), _PROGRAM)
    told = {one.text.partition(":")[0]: one for one in found}
    assert list(told) == ["gateway", "held", "part", "off", "old"]
    assert [one.level for one in found] == ["ok", "ok", "warn", "warn", "warn"]
    assert (told["part"].code, told["off"].code) == ("no-fence", "")
    assert told["part"].fix == f"{_PROGRAM} explain no-fence"
    assert "without --no-fence" in told["off"].fix
    assert [one.text for one in check_fences(_SERVER, _PROGRAM)] == [f"m: {told['old'].text[5:]}"]


def test_the_fences_of_llavas_own_programs_are_told_in_place_of_an_engines() -> None:
    whole = FenceFacts(said="Landlock ABI 7 and seccomp", whole=True)
    part = FenceFacts(
        said="Landlock ABI 3 and seccomp, but Linux 6.6 cannot restrict TCP ports", whole=False
    )
    programs = {"controller": whole, "worker": part, "page": whole}
    found = check_fences(replace(_SERVER, programs=programs), _PROGRAM)
    assert [one.text for one in found] == [f"{name}: {one.said}" for name, one in programs.items()]
    assert [(one.level, one.code) for one in found] == [
        ("ok", ""),
        ("warn", "no-fence"),
        ("ok", ""),
    ]
    earlier = check_fences(replace(_SERVER, programs={}), _PROGRAM)
    assert ["reports no fence" in one.text for one in earlier] == [True]
