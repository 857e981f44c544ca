import re
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.assemble.card import Card
from llava_pack.assemble.needs import media


def card(bundle):
    return Card(recipe="demo", bundle=bundle, bundle_id="ab" * 32, release=0, size_bytes=5, files=2)


def copies(bundle, platform):
    lines = [line.strip() for line in card(bundle).lines(platform)]
    start = next(n for n, line in enumerate(lines) if line.startswith("copy it to the server"))
    return lines[start + 2 : lines.index("", start)]


def test_paths_with_spaces_can_be_pasted_and_are_called_by_a_plain_name_there():
    here = "/media/my disk/a bundle"
    send, rsync, scp, stick = map(shlex.split, copies(here, "linux"))
    assert send == ["llava-pack", "send", here, "USER@SERVER", "-p", "PORT"]
    assert rsync[-2:] == [f"{here}/", "USER@SERVER:a-bundle/"]
    assert scp[-2:] == [here, "USER@SERVER:a-bundle"]
    assert scp[: scp.index("&&")] == ["ssh", "-p", "PORT", "USER@SERVER", "rm", "-rf", "a-bundle"]
    assert stick[-2:] == [f"{here}/", "/media/USB/a-bundle/"]
    lines = [line.strip() for line in card(here).lines("linux")]
    assert [line for line in lines if line.startswith("B=~/a-bundle;")]


def test_on_macos_the_same_options_and_its_own_place_for_a_stick():
    linux, macos = (copies("demo-bundle", one) for one in ("linux", "darwin"))
    assert [line.replace("/media/USB", "/Volumes/USB") for line in linux] == macos


def test_on_windows_the_lines_to_copy_are_for_cmd_and_powershell_and_the_servers_for_sh():
    lines = copies(r"D:\my models\a bundle", "win32")
    assert lines == [
        r'llava-pack send "D:\my models\a bundle" USER@SERVER -p PORT',
        "ssh -p PORT USER@SERVER rm -rf a-bundle",
        r'scp -P PORT -r "D:\my models\a bundle" USER@SERVER:a-bundle',
        r'robocopy "D:\my models\a bundle" E:\a-bundle /MIR /IS /IT /R:3 /W:5',
    ]
    said = [line.strip() for line in card(r"D:\my models\a bundle").lines("win32")]
    assert any(line.startswith("B=~/a-bundle;") for line in said)


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_what_is_pasted_holds_no_remark_which_cmd_and_zsh_would_take_for_arguments(platform):
    pasted = [line for line in card("/x/a # b").lines(platform) if line.startswith("  ")]
    assert len(pasted) >= 8
    for line in pasted:
        assert shlex.split(line, comments=True) == shlex.split(line), line


@pytest.mark.parametrize("name", ["-rf", "a;b", "$(id)", "..", "模型"])
def test_no_shell_of_the_server_reads_more_than_a_name(name):
    line = copies(f"/x/{name}", "linux")[2]
    assert re.fullmatch(
        r"ssh -p PORT USER@SERVER rm -rf \w[\w.+-]*", line.split(" && ")[0], re.ASCII
    )


def test_it_begins_with_what_is_compared_and_says_what_the_server_and_the_medium_need():
    needs = ("x86_64", "glibc 2.28", "8.1 GB of GPU memory", "no Python", "port 7860")
    shown = replace(card("demo-bundle"), needs=needs, media=media([3_900_000_000] * 3)).lines()
    assert [line.split()[0] for line in shown[:3]] == ["recipe", "id", "needs"]
    assert "needs     x86_64; glibc 2.28; 8.1 GB of GPU memory; no Python; port 7860" in shown
    assert "media     1 x 16 GB stick, 3 x DVD, or 1 x Blu-ray" in shown


@given(st.lists(st.integers(1, 3_900_000_000), min_size=1, max_size=60))
def test_no_fewer_discs_than_bytes_and_no_more_than_files(sizes):
    discs = int(re.search(r"(\d+) x DVD", media(sizes))[1])
    assert sum(sizes) / 4_700_000_000 <= discs <= len(sizes)


def test_it_says_that_no_python_is_inside():
    there = replace(card("demo-bundle"), python="3.12").lines()
    assert [line for line in there if "needs 3.12;" in line and "--python FILE" in line]
    assert not [line for line in card("demo-bundle").lines() if "--python" in line]


def test_it_ends_with_the_line_that_installs():
    assert card("demo-bundle").lines()[-1].strip() == (
        f'sh install.sh --bundle "$B" --expect {"ab" * 32}'
    )
