import shlex
from dataclasses import replace

from llava_pack.assemble.card import Card


def card(bundle):
    return Card(recipe="demo", bundle=bundle, bundle_id="ab" * 32, release=0, size_bytes=5, files=2)


def test_paths_with_spaces_can_be_pasted():
    lines = [line.strip() for line in card("/media/my disk/a bundle").lines()]
    (copy,) = [line for line in lines if line.startswith("scp ")]
    assert shlex.split(copy)[-2:] == ["/media/my disk/a bundle", "USER@SERVER:"]
    (contact,) = [line for line in lines if line.startswith("B=")]
    assert contact.startswith("B=~/'a bundle';")


def test_each_way_of_carrying_it_over_is_a_line_to_paste():
    lines = [line.strip() for line in card("demo-bundle").lines()]
    copies = ["rsync", "-a", "--partial", "--append-verify", "-e", "ssh -p PORT"]
    assert shlex.join([*copies, "demo-bundle/", "USER@SERVER:demo-bundle/"]) in lines
    assert "scp -P PORT -r demo-bundle USER@SERVER:" in lines
    assert any(line.startswith("cp -r demo-bundle /media/USB/") for line in lines)


def test_on_windows_the_lines_to_copy_are_for_cmd_and_the_servers_for_sh():
    lines = [line.strip() for line in card(r"D:\my models\a bundle").lines("win32")]
    assert r'scp -P PORT -r "D:\my models\a bundle" USER@SERVER:' in lines
    assert r'robocopy "D:\my models\a bundle" "E:\a bundle" /E' in lines
    assert not [line for line in lines if line.startswith(("rsync", "cp "))]
    assert any(line.startswith("B=~/'a bundle';") for line in lines)


def test_it_says_that_no_python_is_inside():
    there = replace(card("demo-bundle"), python="3.12").lines()
    assert [line for line in there if "needs 3.12;" in line and "--python FILE" in line]
    assert not [line for line in card("demo-bundle").lines() if "--python" in line]


def test_it_ends_with_the_line_that_installs():
    assert card("demo-bundle").lines()[-1].strip() == (
        f'sh install.sh --bundle "$B" --expect {"ab" * 32}'
    )
