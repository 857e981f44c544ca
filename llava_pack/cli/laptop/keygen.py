"""`llava-pack keygen`: the key pair that signs bundles."""

from pathlib import Path
from typing import Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson
from llava_pack.cli.laptop.side import need_laptop
from llava_pack.cli.signing_keys import PassphraseFile, ask_passphrase, read_passphrase


def keygen(
    key: Annotated[
        Path, typer.Argument(help="The private key to write; never overwritten.")
    ] = Path("llava-pack.key"),
    no_passphrase: Annotated[
        bool,
        typer.Option(
            "--no-passphrase", help="Do not encrypt the key: anyone who can read it can sign."
        ),
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Generate a key to sign bundles, and print its fingerprint.

    openssl generates a P-256 key, which servers identify by its fingerprint. The private key stays
    here, protected by a passphrase. Copy its public half, KEY.pub.pem, to the servers separately
    from the bundles.

    \b
    Examples:
      llava-pack keygen
      llava-pack keygen release.key --passphrase-file secret.txt
      llava-pack keygen ci.key --no-passphrase
    """
    need_laptop("keygen")
    from llava_pack.assemble.signing import generate, write_public
    from llava_pack.format.errors import UsageError

    if no_passphrase and passphrase_file is not None:
        raise UsageError("pass only one of --no-passphrase and --passphrase-file", subject="keygen")
    if no_passphrase:
        passphrase = ""
        console.say(
            f"! no passphrase: anyone who can read {key} can sign bundles that servers accept"
        )
    elif passphrase_file is not None:
        passphrase = read_passphrase(passphrase_file)
    else:
        passphrase = ask_passphrase("passphrase for the new key", twice=True)
    public = generate(key, passphrase, protected=not no_passphrase)
    public_file = write_public(key, public)
    if as_json:
        files = {"key": str(key), "public_key": str(public_file)}
        console.document("keygen", {**files, "fingerprint": public.fingerprint})
        return
    console.say(f"private key  {key}, for build --sign: keep it secret")
    console.say(f"public key   {public_file}, for install --trust-key")
    console.verbatim(public.fingerprint)
