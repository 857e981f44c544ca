"""START-HERE.txt and the lines typed on a server: what follows from a recipe's name alone.

SHA256SUMS does not list START-HERE.txt: it is read before anything is verified, and must never pass
for evidence. So that no byte of it is free, it is made again from what is listed, and compared.
"""

START_NAME = "START-HERE.txt"
MAX_START_BYTES = 16 * 1024


def contact_lines(
    bundle: str, bundle_id: str, key: str | None = None, *, index: bool = False
) -> tuple[str, ...]:
    """Return what is typed on the server for the first installation.

    Args:
        bundle: its folder there.
        bundle_id: that the installer holds it against.
        key: fingerprint of the signing key, which is pinned then: upgrades need no card.
        index: the bundle leaves wheels out; a package index has to be named.
    """
    trusted = "" if key is None else f" --trust-key {key}"
    named = " --index URL" if index else ""
    return (
        f'B={bundle}; D=$(mktemp -d) && cp "$B"/install.sh "$B"/SHA256SUMS "$D" && cd "$D"',
        "sha256sum SHA256SUMS",
        "grep '  install.sh$' SHA256SUMS | sha256sum -c -",
        f'sh install.sh --bundle "$B" --expect {bundle_id}{trusted}{named}',
    )


def start_here(recipe: str, title: str, *, python: str | None = None, index: bool = False) -> str:
    """Return START-HERE.txt: it cannot hold the id, and is never evidence.

    Args:
        recipe: its name.
        title: for people.
        python: the version that the server must have, None where the bundle carries one.
        index: the bundle leaves wheels out.
    """
    own = f"No Python is inside: the server needs Python {python}, on its PATH or named with\n"
    needs = "" if python is None else f"{own}install.sh --python FILE.\n\n"
    lines = contact_lines("/path/to/this/folder", "ID", index=index)
    steps = "\n".join(f"  {line}" for line in lines)
    need = "one host, URL" if index else "no network"
    url = "URL is the package index of the server, which fetches packages there.\n" if index else ""
    return (
        f"llava-pack bundle: {recipe}\n{title}\n\n"
        "This folder holds a vision-language model, its Python packages and an installer that\n"
        f"needs {need}. It was made by `llava-pack build`, which printed a card with the\n"
        "bundle's id. Take ID from that card, never from this folder.\n\n"
        f"{needs}On the server:\n\n{steps}\n\n"
        "The second line must print the id of the card, the third must print `install.sh: OK`.\n"
        f"{url}The installer's last line is the next command to type.\n"
    )
