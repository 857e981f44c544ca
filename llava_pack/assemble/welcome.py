"""START-HERE.txt of a new bundle: what the format has said since its first version, and more.

The manifest states its digest, so it may say what it likes; of old bundles that state none, the
text is `format.welcome.start_here` alone, which therefore stays as it is.
"""

from collections.abc import Iterable
from pathlib import Path
from shlex import join

from llava_pack.assemble.card import carry_lines
from llava_pack.assemble.needs import media, server_needs
from llava_pack.format.manifest import Manifest
from llava_pack.format.translation import read_catalogue
from llava_pack.format.welcome import contact_lines, start_here

_CHINESE = Path(__file__).with_name("welcome.zh.txt")
_WORDS = Path(__file__).parents[1] / "cli" / "zh.toml"
_HERE = "FOLDER"
"""What stands for the name of the bundle's folder, on the laptop and there."""
_TYPED_AGAIN = f"""\
To copy it, type on the laptop, in the folder above this one, whose name {_HERE} stands for. Each
way can be typed again after any failure, repairs and updates. The first prints what to type on the
server, the last is for a medium, which a Mac has as /Volumes/USB.

"""
_PROGRAM = "/opt/llava-pack/bin/llava-pack"
"""Where root installs."""
_FOLDER = "/path/to/this/folder"
_NO_INSTALLER = """\
Is no install.sh in this folder? Then the server has it. Where this model is installed, type

"""
_COPY_THERE = """\
or, where another account than root installed it, ~/.local/share/llava-pack/bin/llava-pack install.
Where only an incomplete copy of the bundle lies, type the four lines with the path of that copy,
and add to the last one: --bundle /path/to/this/folder
"""


def welcome(manifest: Manifest) -> bytes:
    """Return START-HERE.txt, in English and in Chinese: what to type, and what the server needs.

    Args:
        manifest: all of it but the digest of this text.
    """
    index, named = bool(manifest.left_out), manifest.recipe
    python = manifest.python.version if manifest.python.kind == "target" else None
    needs = list(server_needs(manifest))
    installed = installed_line(_FOLDER, "ID", index=index)
    fits = media(entry.size_bytes for entry in manifest.files if entry.carried)
    return (
        f"{start_here(named.name, named.title, python=python, index=index)}\n"
        f"The server needs: {', '.join(needs)}.\n\n"
        f"The bundle fits on {fits}.\n\n"
        f"{_TYPED_AGAIN}{_indented(carry_lines(_HERE, 'linux'))}\n\n"
        "On Windows, in PowerShell or cmd.exe:\n\n"
        f"{_indented(carry_lines(_HERE, 'win32'))}\n\n"
        "Is this copy incomplete or damaged? Type the line that made it once more.\n\n"
        "Is PART.json in this folder? Then it is one medium of several, or holds only what a\n"
        "server lacked: add --collect to the last line for the server, and take the media in any\n"
        "order.\n\n"
        f"{_NO_INSTALLER}{_indented([installed])}\n\n{_COPY_THERE}\n"
        f"{_chinese(needs, fits, python, installed, index=index)}"
    ).encode()


def installed_line(folder: str, bundle_id: str, *, index: bool) -> str:
    """Return what is typed where llava-pack is installed, as `contact_lines` are where it is not.

    >>> installed_line("/media/my disk/tiny", "ID", index=True)
    "/opt/llava-pack/bin/llava-pack install '/media/my disk/tiny' --expect ID --index URL"
    """
    words = [_PROGRAM, "install", folder, "--expect", bundle_id]
    return join([*words, *(["--index", "URL"] if index else [])])


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _chinese(
    needs: list[str], fits: str, python: str | None, installed: str, *, index: bool
) -> str:
    """Return the Chinese part; the file has it, then what is said of Python, and of an index."""
    text, own, url = _CHINESE.read_text(encoding="utf-8").split("====\n")
    words = read_catalogue(_WORDS, _WORDS.parents[1] / "target" / "zh.toml")
    return text.format(
        needs="、".join(map(words.translated, needs)),
        media=words.translated(fits),
        python="" if python is None else own.format(python),
        steps=_indented(contact_lines(_FOLDER, "ID", index=index)),
        copies=_indented(carry_lines(_HERE, "linux")),
        windows=_indented(carry_lines(_HERE, "win32")),
        installed=installed,
        url=url if index else "",
    )
