import socket
import tempfile

from llava_pack.serve.scratch import Scratch


def test_a_long_temporary_folder_still_has_room_for_a_socket(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with Scratch() as scratch, socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(scratch.socket(12)))
    assert not scratch.root.exists()
