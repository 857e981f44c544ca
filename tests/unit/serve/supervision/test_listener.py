"""Where the gateway listens, and what is said when it cannot."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.run_state import RunState
from llava_pack.serve.supervision.listener import listen_on_port, listen_on_socket


def test_a_taken_port_names_its_holder_and_another_port() -> None:
    with listen_on_port("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(
            ServeError, match=rf"port {port} is taken by .*process {os.getpid()}"
        ) as caught:
            listen_on_port("127.0.0.1", port)
        assert "--port " in caught.value.hint
        assert str(port) not in caught.value.hint.rpartition("--port ")[2]


def test_another_server_of_ours_is_known_by_what_it_serves() -> None:
    with listen_on_port("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        state = RunState(
            pid=77, host="127.0.0.1", port=port, token="", socket=None,
            models=("llava-v1.5-7b",), started=1, bundle_id=None,
        )  # fmt: skip
        with pytest.raises(
            ServeError, match=r"llava-pack serve, process 77, serving llava-v1\.5-7b"
        ):
            listen_on_port("127.0.0.1", port, (state,))


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-name.invalid"])
def test_an_address_of_another_machine_is_a_usage_error(host: str) -> None:
    with pytest.raises(UsageError, match="not an address of this machine"):
        listen_on_port(host, 0)


def test_a_socket_can_be_opened_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listen_on_socket(path):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(ServeError, match="already listening"):
            listen_on_socket(path)


def test_a_socket_left_behind_makes_room(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listen_on_socket(path).close()
    assert path.exists()
    listen_on_socket(path).close()


def test_a_file_in_the_way_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(ServeError, match="not a socket"):
        listen_on_socket(path)
    assert path.read_text() == "mine"


def test_a_path_that_the_kernel_would_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at most 107 bytes"):
        listen_on_socket(tmp_path / ("x" * 120))


def test_no_socket_stays_open_after_a_failure(recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(UsageError):
        listen_on_port("192.0.2.1", 0)
    assert not [w for w in recwarn if issubclass(w.category, ResourceWarning)]


def test_what_is_written_leaves_at_once() -> None:
    async def nodelay() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("socket")
            found.set_result(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = listen_on_port("127.0.0.1", 0)
        async with await asyncio.start_server(accepted, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            answer = await found
            writer.close()
            await writer.wait_closed()
            return answer

    assert asyncio.run(nodelay()) == 1
