"""The last step of a build: manifest, sums, START-HERE, and one rename that makes it a bundle."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from llava_pack.assemble.signing import Signer, sign
from llava_pack.assemble.staging import Staging
from llava_pack.assemble.welcome import welcome
from llava_pack.format import files
from llava_pack.format.errors import IntegrityError, UsageError
from llava_pack.format.manifest import Manifest, parse_manifest, render_manifest
from llava_pack.format.signature import KEY_NAME, SIG_NAME, SSHSIG_NAME
from llava_pack.format.sums import MANIFEST_NAME, SUMS_NAME, bundle_id, render_sums
from llava_pack.format.welcome import START_NAME

_SIGNATURES = (SIG_NAME, SSHSIG_NAME, KEY_NAME)


@dataclass(frozen=True, kw_only=True)
class StandingBundle:
    """A bundle that is where another one shall be.

    Attributes:
        folder: it.
        recipe: its name; empty where its manifest cannot be read.
        release: UTC seconds.
    """

    folder: Path
    bundle_id: str
    recipe: str = ""
    release: int = 0

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.release, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"{self.recipe or 'a bundle'} of {when}, id {self.bundle_id}"

    def check(self, *, replace: bool) -> None:
        """Refuse to replace it unasked.

        Raises:
            UsageError: nobody said that it may be replaced.
        """
        if not replace:
            raise UsageError(
                f"holds another bundle, {self}",
                subject=str(self.folder),
                hint="add --replace, or choose another folder with --out",
            )


def standing_bundle(out: Path) -> StandingBundle | None:
    """Return the bundle that is at `out`, None where there is none."""
    try:
        identity = sha256((out / SUMS_NAME).read_bytes()).hexdigest()
        described = (out / MANIFEST_NAME).read_bytes()
    except OSError:
        return None
    try:
        manifest = parse_manifest(described)
    except IntegrityError:
        return StandingBundle(folder=out, bundle_id=identity)
    return StandingBundle(
        folder=out,
        bundle_id=identity,
        recipe=manifest.recipe.name,
        release=manifest.release,
    )


def seal(
    staging: Staging,
    manifest: Manifest,
    out: Path,
    signer: Signer | None = None,
    *,
    replacing: bool = False,
) -> str:
    """Write what describes the bundle, move it to `out`, and return the bundle id.

    Args:
        staging: holds every other file; moved away by this.
        manifest: complete, with the entries of `staging`.
        out: where the bundle shall be; a bundle that is there is replaced in one rename.
        signer: None for a bundle that only its id vouches for; signatures of the same bundle,
            which are as good as ever, stay then.
        replacing: a bundle with another id may be replaced.

    Raises:
        UsageError: `out` holds a bundle that may not be replaced; what was built waits beside it.
        SignatureError: openssl did not sign.
    """
    told = welcome(manifest)
    manifest = replace(manifest, start_here_sha256=sha256(told).hexdigest())
    described = render_manifest(manifest)
    digests = {entry.path: entry.sha256 for entry in staging.entries if entry.carried}
    digests[MANIFEST_NAME] = sha256(described).hexdigest()
    sums = render_sums(digests)
    contents = {MANIFEST_NAME: described, START_NAME: told, SUMS_NAME: sums}
    identity, standing = bundle_id(sums), standing_bundle(out)
    if standing is not None and standing.bundle_id != identity:
        standing.check(replace=replacing)
    elif standing is not None:
        contents |= _signatures(out)
    if signer is not None:
        signatures = sign(signer, sums)
        contents |= {SIG_NAME: signatures.der, SSHSIG_NAME: signatures.sshsig}
        contents[KEY_NAME] = signer.public.pem
    staging.remove_strangers()
    for name, content in contents.items():
        files.write(staging.root / name, content, 0o644)
    _replace(staging.root, out)
    return identity


def own_python(manifest: Manifest) -> str | None:
    """Return the Python that the target must have, None where the bundle carries one."""
    return manifest.python.version if manifest.python.kind == "target" else None


def check_output(out: Path) -> None:
    """Refuse to replace anything that is not an earlier bundle.

    One that a build moved aside and was killed before it had the new one in its place is put back.

    Raises:
        UsageError: `out` exists and is no bundle.
    """
    aside = _aside(out)
    if not out.exists() and not out.is_symlink() and standing_bundle(aside) is not None:
        files.move(aside, out)
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


def _signatures(bundle: Path) -> Mapping[str, bytes]:
    """Return the signatures of a bundle, by name; all of them, or none."""
    try:
        return {name: (bundle / name).read_bytes() for name in _SIGNATURES}
    except OSError:
        return {}


def _aside(out: Path) -> Path:
    return out.with_name(f"{out.name}.old")


def _replace(staged: Path, out: Path) -> None:
    """Put what is staged in the place of what is there, which stays where that fails."""
    old = _aside(out)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        files.move(out, old)
    try:
        files.move(staged, out)
    except BaseException:
        if old.exists():
            files.move(old, out)
        raise
    for folder in (out.parent, *(Path(each) for each, _, _ in os.walk(out))):
        files.sync(folder)
    shutil.rmtree(old, ignore_errors=True)
