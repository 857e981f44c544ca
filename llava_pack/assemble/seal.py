"""The last step of a build: manifest, sums, START-HERE, and one rename that makes it a bundle."""

import os
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from llava_pack.assemble.signing import Signer, sign
from llava_pack.assemble.staging import Staging
from llava_pack.format import files
from llava_pack.format.errors import UsageError
from llava_pack.format.manifest import Manifest, render_manifest
from llava_pack.format.signature import KEY_NAME, SIG_NAME, SSHSIG_NAME
from llava_pack.format.sums import MANIFEST_NAME, SUMS_NAME, bundle_id, render_sums
from llava_pack.format.welcome import START_NAME, start_here


def seal(staging: Staging, manifest: Manifest, out: Path, signer: Signer | None = None) -> str:
    """Write what describes the bundle, move it to `out`, and return the bundle id.

    Args:
        staging: holds every other file; moved away by this.
        manifest: complete, with the entries of `staging`.
        out: where the bundle shall be; a bundle that is there is replaced in one rename.
        signer: None for a bundle that only its id vouches for.

    Raises:
        SignatureError: openssl did not sign.
    """
    named, python = manifest.recipe, own_python(manifest)
    index = bool(manifest.left_out)
    welcome = start_here(named.name, named.title, python=python, index=index).encode()
    manifest = replace(manifest, start_here_sha256=sha256(welcome).hexdigest())
    described = render_manifest(manifest)
    digests = {entry.path: entry.sha256 for entry in staging.entries if entry.carried}
    digests[MANIFEST_NAME] = sha256(described).hexdigest()
    sums = render_sums(digests)
    contents = {MANIFEST_NAME: described, START_NAME: welcome, SUMS_NAME: sums}
    if signer is not None:
        signatures = sign(signer, sums)
        contents |= {SIG_NAME: signatures.der, SSHSIG_NAME: signatures.sshsig}
        contents[KEY_NAME] = signer.public.pem
    staging.remove_strangers()
    for name, content in contents.items():
        files.write(staging.root / name, content, 0o644)
    _replace(staging.root, out)
    return bundle_id(sums)


def own_python(manifest: Manifest) -> str | None:
    """Return the Python that the target must have, None where the bundle carries one."""
    return manifest.python.version if manifest.python.kind == "target" else None


def check_output(out: Path) -> None:
    """Refuse to replace anything that is not an earlier bundle.

    Raises:
        UsageError: `out` exists and is no bundle.
    """
    if out.is_symlink() or (out.exists() and not _looks_like_bundle(out)):
        raise UsageError(
            "exists and is not a bundle, so it is left alone",
            subject=str(out),
            hint="choose another folder with --out",
        )


def _looks_like_bundle(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or names >= {MANIFEST_NAME, SUMS_NAME}


def _replace(staged: Path, out: Path) -> None:
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        files.move(out, old)
    files.move(staged, out)
    for folder in (out.parent, *(Path(each) for each, _, _ in os.walk(out))):
        files.sync(folder)
    shutil.rmtree(old, ignore_errors=True)
