"""`--mirror`: what a table or a person's file says, and what goes before it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.fetch.mirrors import USUAL, Mirror, find_mirror, own_settings
from llava_pack.format.errors import UsageError
from tests.conftest import ROOT

MIRROR = Mirror(
    hub="https://hub.example",
    index="https://me:secret@index.example/simple",
    python="https://python.example",
    torch="https://torch.example/whl",
)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which nobody has set anything."""
    return {
        "PATH": os.environ["PATH"],
        "PIP_CONFIG_FILE": os.devnull,
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_CONFIG_DIRS": str(tmp_path / "shared"),
        "HOME": str(tmp_path),
    }


def test_what_nobody_has_set_is_the_mirrors(environ: dict[str, str], tmp_path: Path) -> None:
    assert MIRROR.beside(own_settings(environ, tmp_path)) == MIRROR
    lines = "\n".join(MIRROR.lines("ours", own_settings(environ, tmp_path), token=False))
    assert lines.count("mirror ours: ") == 4
    assert "https://index.example/simple" in lines
    assert "secret" not in lines


@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("HF_ENDPOINT", "hub"),
        ("UV_DEFAULT_INDEX", "index"),
        ("UV_INDEX_URL", "index"),
        ("PIP_INDEX_URL", "index"),
        ("UV_PYTHON_INSTALL_MIRROR", "python"),
        ("UV_PYTHON_DOWNLOADS_JSON_URL", "python"),
    ],
)
def test_a_variable_goes_first(
    environ: dict[str, str], tmp_path: Path, variable: str, key: str
) -> None:
    environ[variable] = "https://own.example"
    left = MIRROR.beside(own_settings(environ, tmp_path))
    changed = [name for name in vars(MIRROR) if getattr(left, name) != getattr(MIRROR, name)]
    assert changed == [key]
    assert getattr(left, key) is None
    told = [
        line
        for line in MIRROR.lines("ours", own_settings(environ, tmp_path), token=False)
        if "your own stays" in line
    ]
    assert len(told) == 1


def test_a_file_of_uv_goes_first(environ: dict[str, str], tmp_path: Path) -> None:
    place = tmp_path / "config" / "uv"
    place.mkdir(parents=True)
    (place / "uv.toml").write_text(
        'python-install-mirror = "https://own.example"\n'
        '[[index]]\nurl = "https://own.example/simple"\ndefault = true\n'
    )
    left = MIRROR.beside(own_settings(environ, tmp_path))
    assert (left.index, left.python) == (None, None)
    assert left.hub == MIRROR.hub


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes an account that is not there")
def test_an_account_without_a_home(environ: dict[str, str]) -> None:
    program = (
        "import os; from pathlib import Path; from llava_pack.fetch.mirrors import own_settings; "
        "os.setuid(54321); print(own_settings(os.environ, Path('/'))['hub'])"
    )
    env = {**environ, "HF_ENDPOINT": "https://own.example"}
    del env["HOME"], env["XDG_CONFIG_HOME"]
    said = subprocess.check_output([sys.executable, "-c", program], env=env, cwd=ROOT, text=True)
    assert said.strip() == "HF_ENDPOINT"


def test_an_extra_index_of_ones_own_is_no_default(environ: dict[str, str], tmp_path: Path) -> None:
    environ["PIP_EXTRA_INDEX_URL"] = "https://extra.example/simple"
    assert MIRROR.beside(own_settings(environ, tmp_path)) == MIRROR


def test_a_token_is_said_not_to_be_sent() -> None:
    [line] = [line for line in MIRROR.lines("ours", {}, token=True) if "token" in line]
    assert "not sent" in line
    assert not [one for one in MIRROR.lines("o", {"hub": "x"}, token=True) if "token" in one]


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    file.write_text('hub = "https://hub.example/"\n')
    assert find_mirror(str(file)) == Mirror(hub="https://hub.example")
    file.write_text("")
    assert find_mirror(str(file)) == USUAL
    for here in ("http://localhost:8", "http://127.0.0.1:8", "http://[::1]:8"):
        file.write_text(f'hub = "{here}"\n')
        assert find_mirror(str(file)) == Mirror(hub=here)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('hubb = "https://x.example"', "expected hub, index, python, torch, got 'hubb'"),
        ('hub = "hub.example"', "begins with https://"),
        ('hub = "https:///x"', "begins with https://"),
        ('hub = "http://hub.example"', "begins with https://"),
        ('hub = "http://127.hub.example"', "begins with https://"),
        ('hub = "https://[bad/"', "cannot be read"),
        ("hub = 3", "begins with https://"),
        ("hub = ", "cannot be read"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        find_mirror(str(file))


@pytest.mark.parametrize("text", ["us", "no/such.toml", "."])
def test_no_such_mirror(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape("expected cn, or the path")):
        find_mirror(text)


def test_every_address_of_the_table_is_in_its_page() -> None:
    page = (ROOT / "docs" / "how-to" / "mirrors.md").read_text()
    for address in vars(find_mirror("cn")).values():
        assert f"`{address}`" in page
