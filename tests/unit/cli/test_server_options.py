"""The options of `serve` that contradict each other are refused, in words that name them."""

from pathlib import Path
from typing import Any

import pytest

from llava_pack.cli import main
from llava_pack.cli.server.serving import ServerOptions
from llava_pack.format.errors import UsageError


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"allow_origin": ["*"], "token": False}, "--allow-origin * and --no-token"),
        ({"allow_origin": ["*", "https://chat.corp"]}, "--allow-origin"),
        ({"trusted_proxy": ["unix"]}, "--trusted-proxy"),
        ({"trusted_proxy": ["10.0.0.7"], "socket": Path("s")}, "--trusted-proxy"),
        ({"trusted_proxy": ["unix", "10.0.0.7"], "socket": Path("s")}, "--trusted-proxy"),
        ({"public_url": "https://llava.corp", "root_path": "/vlm"}, "--public-url and --root-path"),
        ({"fence": False, "require_fence": True}, "--no-fence and --require-fence"),
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        ServerOptions(**given)
    assert caught.value.subject == words


@pytest.mark.parametrize(
    "given",
    [
        {"allow_origin": ["https://chat.corp"], "token": False},
        {"allow_origin": ["*"]},
        {"trusted_proxy": ["unix"], "socket": Path("s")},
        {"public_url": "https://llava.corp/vlm", "root_path": "/vlm", "trusted_proxy": ["::1"]},
    ],
)
def test_what_goes_together_is_taken(given: dict[str, Any]) -> None:
    assert ServerOptions(**given).name


def test_a_mistake_is_exit_code_2_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve", "--public-url", "llava.corp", "--model-path", "absent"]) == 2
    assert "--public-url: expected http(s)://NAME" in capsys.readouterr().err
