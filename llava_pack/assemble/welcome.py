"""START-HERE.txt of a new bundle: what the format has said since its first version, and more.

The manifest states its digest, so it may say what it likes; of old bundles that state none, the
text is `format.welcome.start_here` alone, which therefore stays as it is.
"""

from pathlib import Path

from llava_pack.assemble.needs import server_needs
from llava_pack.format.manifest import Manifest
from llava_pack.format.welcome import contact_lines, start_here

_CHINESE = Path(__file__).with_name("welcome.zh.txt")


def welcome(manifest: Manifest) -> bytes:
    """Return START-HERE.txt, in English and in Chinese: what to type, and what the server needs.

    Args:
        manifest: all of it but the digest of this text.
    """
    index, named = bool(manifest.left_out), manifest.recipe
    python = manifest.python.version if manifest.python.kind == "target" else None
    needs = ", ".join(server_needs(manifest))
    lines = contact_lines("/path/to/this/folder", "ID", index=index)
    chinese = _CHINESE.read_text(encoding="utf-8")
    return (
        f"{start_here(named.name, named.title, python=python, index=index)}\n"
        f"The server needs: {needs}.\n\n"
        "Is this copy incomplete or damaged? Type the line of the card that made it once more:\n"
        "each of them repairs and updates.\n\n"
        f"{chinese.format(needs=needs, steps=chr(10).join(f'  {line}' for line in lines))}"
    ).encode()
