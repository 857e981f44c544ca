"""START-HERE.txt of a new bundle: what the format has said since its first version, and more.

The manifest states its digest, so it may say what it likes; of old bundles that state none, the
text is `format.welcome.start_here` alone, which therefore stays as it is.
"""

from pathlib import Path

from llava_pack.assemble.needs import server_needs
from llava_pack.format.manifest import Manifest
from llava_pack.format.translation import read_catalogue
from llava_pack.format.welcome import contact_lines, start_here

_CHINESE = Path(__file__).with_name("welcome.zh.txt")
_WORDS = Path(__file__).parents[1] / "cli" / "zh.toml"


def welcome(manifest: Manifest) -> bytes:
    """Return START-HERE.txt, in English and in Chinese: what to type, and what the server needs.

    Args:
        manifest: all of it but the digest of this text.
    """
    index, named = bool(manifest.left_out), manifest.recipe
    python = manifest.python.version if manifest.python.kind == "target" else None
    needs = list(server_needs(manifest))
    return (
        f"{start_here(named.name, named.title, python=python, index=index)}\n"
        f"The server needs: {', '.join(needs)}.\n\n"
        "Is PART.json in this folder? Then it is one medium of several, or holds only what a\n"
        "server lacked: add --collect to the last line, and take the media in any order.\n\n"
        "Is this copy incomplete or damaged? Type the line of the card that made it once more:\n"
        "each of them repairs and updates.\n\n"
        f"{_chinese(needs, python, index=index)}"
    ).encode()


def _chinese(needs: list[str], python: str | None, *, index: bool) -> str:
    """Return the Chinese part; the file has it, then what is said of Python, and of an index."""
    text, own, url = _CHINESE.read_text(encoding="utf-8").split("====\n")
    words = read_catalogue(_WORDS, _WORDS.parents[1] / "target" / "zh.toml")
    lines = contact_lines("/path/to/this/folder", "ID", index=index)
    return text.format(
        needs="、".join(map(words.translated, needs)),
        python="" if python is None else own.format(python),
        steps="\n".join(f"  {line}" for line in lines),
        url=url if index else "",
    )
