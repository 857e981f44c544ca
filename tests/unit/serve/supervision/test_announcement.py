"""What a person is told when a server is ready."""

from llava_pack.engine.port import EngineInfo
from llava_pack.serve.run_state import RunState
from llava_pack.serve.supervision.announcement import Announcement, announcement, ready_lines
from llava_pack.serve.tunnel_lines import endpoint


def _told(
    token: str = "", *, web: bool = True, socket: str | None = None, public_url: str = ""
) -> Announcement:
    state = RunState(
        pid=1, host="127.0.0.1", port=7861, token=token, socket=socket, models=("demo",),
        started=1, bundle_id=None, public_url=public_url,
    )  # fmt: skip
    to = endpoint(
        ssh_connection="192.0.2.1 5 8.8.4.4 2222", user="ada", hostname="gpu01",
        host=state.host, port=state.port, socket=socket,
    )  # fmt: skip
    return announcement(state, to, web=web)


def test_the_tunnel_and_the_page_fit_together() -> None:
    told = _told("t0k")
    assert "-L 7861:127.0.0.1:7861" in told.tunnel
    assert told.tunnel.endswith("ada@8.8.4.4 -p 2222")
    assert told.page == "http://localhost:7861/#token=t0k"


def test_each_model_has_a_line() -> None:
    state = RunState(
        pid=1, host="", port=1, token="", socket=None, models=("demo",), started=1, bundle_id=None
    )
    info = EngineInfo(
        model="llava", precision="nf4", device="cpu", context_tokens=1024, slots=4,
        conv_mode="llava_v1", image_tokens=16,
    )  # fmt: skip
    assert ready_lines(state, [info]) == ("demo: nf4 on cpu, 1024 tokens, 4 slots",)


def test_every_other_way_is_there() -> None:
    more = "\n".join(_told("t0k").more)
    for word in (
        "to a container",
        "-J YOU@BASTION",
        "Host llava-pack",
        "plink -N",
        "VS Code",
        "/v1, API key t0k",
    ):
        assert word in more


def test_a_token_is_told_to_end_with_its_start_and_what_does_not() -> None:
    assert "ends with this start" in _told("t0k").more[-1]
    assert "llava-pack keys add NAME" in _told("t0k").more[-1]


def test_a_public_name_is_what_to_open_and_the_tunnel_stays() -> None:
    told = _told("t0k", public_url="https://llava.corp/vlm")
    assert told.page == "https://llava.corp/vlm/#token=t0k"
    assert "-L 7861:127.0.0.1:7861" in told.tunnel
    assert "Through the tunnel: http://localhost:7861/#token=t0k" in told.more
    assert "OpenAI-compatible API: https://llava.corp/vlm/v1, API key t0k" in told.more
    assert "For LLaVA's own programs: --controller-url https://llava.corp/vlm" in told.more
    without = _told(web=False, public_url="https://llava.corp/vlm")
    assert without.page == "https://llava.corp/vlm/v1"
    assert not any("Through the tunnel" in line for line in without.more)


def test_without_a_token_none_is_shown() -> None:
    told = _told()
    assert told.page == "http://localhost:7861/"
    assert "key" not in told.more[-1]


def test_without_a_page_the_api_is_what_to_open() -> None:
    assert _told(web=False).page == "http://localhost:7861/v1"


def test_a_socket_is_not_offered_to_putty() -> None:
    more = "\n".join(_told(socket="/run/s").more)
    assert "plink" not in more
    assert "VS Code" not in more
