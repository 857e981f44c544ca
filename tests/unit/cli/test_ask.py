"""`ask` where something that it needs is not there."""

import pytest

from llava_pack.cli import main


@pytest.mark.parametrize("options", [(), ("--shrink",)])
def test_without_pillow_it_says_what_to_install(options, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setattr("llava_pack.client.libraries.find_spec", lambda _name: None)
    asked = ["ask", "--images", str(tmp_path), "--prompt", "x", "--out", str(tmp_path / "o.jsonl")]
    assert main([*asked, *options]) == 15
    said = capsys.readouterr().err
    assert "this installation has no PIL, which asking needs" in said
    assert 'uv tool install --force ".[serve]"' in said
    assert main([*asked, "--url", "http://localhost:1", *options]) == (15 if options else 9)
