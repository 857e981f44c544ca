import socket
import tempfile
from pathlib import Path

from llava_pack.serve.supervision.run_folder import Scratch


def test_a_long_temporary_folder_still_has_room_for_a_socket(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with Scratch() as scratch, socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(scratch.socket(12)))
    assert not scratch.root.exists()


def test_only_who_is_told_knows_the_control_sockets_name(tmp_path: Path) -> None:
    """An attack: a gateway that was taken over connects to it, which no fence holds."""
    with Scratch(tmp_path) as one, Scratch(tmp_path) as other:
        assert one.control.parent == one.root
        assert one.control.name != other.control.name
        assert 16 < len(one.control.name) <= len("engine-9999999.sock"), "unix(7): 107 bytes in all"
