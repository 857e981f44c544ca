import tomllib

import pytest

from llava_pack.format import errors
from llava_pack.format.text import LANGUAGES
from llava_pack.health.knowledge import known_failures, look_up, recognise
from tests.conftest import ROOT

FAILURES = known_failures()
SYMPTOMS = tomllib.loads((ROOT / "tests/fixtures/failures/symptoms.toml").read_text())


def test_every_failure_is_told_in_both_languages_and_has_one_code():
    ids = [failure.id for failure in FAILURES]
    assert len(ids) == len(set(ids))
    for failure in FAILURES:
        for language in LANGUAGES:
            advice = failure.advice[language]
            assert advice.title
            assert advice.cause
            assert advice.fix, failure.id
        assert failure.sources, failure.id


def test_every_failure_that_has_a_look_has_a_recorded_symptom():
    assert {failure.id for failure in FAILURES if failure.signatures} == set(SYMPTOMS)


@pytest.mark.parametrize("code", sorted(SYMPTOMS))
def test_a_symptom_is_recognised_as_what_it_is_first(code):
    assert recognise(f"a line before\n{SYMPTOMS[code]}\n", FAILURES)[0].id == code


PASTED = {
    "localhost 拒绝了我们的连接请求。": "browser-refused",
    "This site can't be reached. localhost refused to connect.": "browser-refused",
    "ERR_CONNECTION_REFUSED": "browser-refused",
    "kex_exchange_identification: read: Connection reset by peer": "ssh-closed-before-login",
    "ssh_exchange_identification: Connection closed by remote host": "ssh-closed-before-login",
    "'ssh' 不是内部或外部命令": "ssh-not-installed",
    "'ssh' is not recognized as an internal or external command,": "ssh-not-installed",
    "ssh : The term 'ssh' is not recognized as the name of a cmdlet": "ssh-not-installed",
    "ssh : 无法将“ssh”项识别为 cmdlet、函数、脚本文件或可运行程序的名称。": "ssh-not-installed",
    "'llava-pack' 不是内部或外部命令": "command-not-on-path",
    "'uv' is not recognized as an internal or external command,": "command-not-on-path",
    "uv : 无法将“uv”项识别为 cmdlet、函数、脚本文件或可运行程序的名称。": "command-not-on-path",
    "uv : The term 'uv' is not recognized as the name of a cmdlet": "command-not-on-path",
    "-bash: llava-pack: command not found": "command-not-on-path",
    "No matching distribution found for llava-pack": "llava-pack-in-no-registry",
    "NVIDIA-SMI has failed because it couldn't communicate": "driver-not-loaded",
    "Failed to initialize NVML: Driver/library version mismatch": "driver-not-loaded",
    "install.sh: 11: ^M: not found": "windows-line-ends",
    "install.sh: 11: \r: not found": "windows-line-ends",
    "-bash: ./install.sh: /bin/sh^M: bad interpreter: No such file": "windows-line-ends",
    "install.sh: line 11: $'\\r': command not found": "windows-line-ends",
    "connect: Network is unreachable": "network-unreachable",
    "OSError: [Errno 101] Network is unreachable": "network-unreachable",
    "ssh: connect to host gpu01 port 22: Network is unreachable": "ssh-unreachable",
    "OSError: We couldn't connect to 'https://huggingface.co' to load the files": "hub-unreachable",
    "We couldn't connect to 'https://huggingface.co'": "hub-unreachable",
    "error: externally-managed-environment": "pip-externally-managed",
    "ERROR: Could not find a version that satisfies the requirement x": "pip-no-version",
    "ERROR: No matching distribution found for bitsandbytes==0.41.0": "pip-no-version",
}
"""What people paste, as short as they paste it."""


@pytest.mark.parametrize(("text", "code"), PASTED.items(), ids=range(len(PASTED)))
def test_what_a_person_pastes_is_recognised_as_what_it_is_first(text, code):
    assert recognise(text, FAILURES)[0].id == code


def test_every_exit_code_can_be_looked_up_by_number_and_word():
    kinds = [
        error
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.PackError)
    ]
    for error in kinds:
        by_number = look_up(str(int(error.exit_code)), FAILURES)
        assert by_number is not None
        assert by_number is look_up(error.kind, FAILURES)
        assert by_number.exit_code == error.exit_code


def test_what_goes_well_is_not_taken_for_a_failure():
    fine = [
        "INFO: llava-v1.5-7b is ready on cuda in nf4, 8 slots of 4096 tokens",
        "loading 13.5 GB of 13.5 GB (100 %), 812.0 MB/s, 0 s left",
        "Loading checkpoint shards: 100%|##########| 2/2",
        "fetch openai/clip-vit-large-patch14-336 pytorch_model.bin: 1.7 GB at 90 MB/s",
        "Accepted publickey for me from 10.1.2.3 port 51122 ssh2",
        "127.0.0.1 GET /readyz 200",
    ]
    for text in fine:
        assert not recognise(text, FAILURES), text


def test_the_end_of_a_long_log_is_what_counts():
    long = "CUDA out of memory\n" + "fine\n" * 100_000
    assert not recognise(long, FAILURES)
    assert [one.id for one in recognise(long + "_queue.Empty", FAILURES)] == [
        "first-token-too-late"
    ]
