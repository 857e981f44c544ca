"""The bill of materials: what is in a bundle and where it came from, as CycloneDX 1.6.

Everything in it follows from the bundle's other files and its release: two builds of one lock give
the same bytes.

Source: CycloneDX 1.6 (ECMA-424), JSON; the package URL specification.
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from llava_pack import __version__
from llava_pack.assemble.wheel_facts import spdx
from llava_pack.fetch.source import Source
from llava_pack.format.manifest import FileEntry, PythonEntry
from llava_pack.lock.pylock import LockedWheel

PATH = "sbom/bundle.cdx.json"
_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_BUNDLE = "bundle"
_PYTHON_LICENCE = "PSF-2.0"
"""Source: CPython's LICENSE."""


@dataclass(frozen=True, kw_only=True)
class PackedModel:
    """One model of a bundle.

    Attributes:
        folder: its folder below `model/`.
        pinned: where it came from, at its commit.
        role: `model`, `base` or `vision_tower`.
        licence: what its publisher calls it, empty where a recipe does not say.
        url: of the licence.
    """

    folder: str
    pinned: Source
    role: str
    licence: str = ""
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class BillContents:
    """What a bill is written from.

    Attributes:
        name: of the recipe.
        entries: every file but the bill and the manifest.
        models: what lies below `model/`, or went into it.
        licences: of wheels, by file name.
        programs: the wheels that programs of `runtime/` are taken from, by the program's path.
        unverified: what the recipe could not check against the real source.
    """

    name: str
    release: int
    entries: Sequence[FileEntry]
    models: Sequence[PackedModel]
    licences: Mapping[str, str]
    python: PythonEntry
    programs: Mapping[str, LockedWheel]
    unverified: Sequence[str] = ()


def render_sbom(contents: BillContents) -> bytes:
    """Return the bytes of `sbom/bundle.cdx.json`."""
    components = [*_models(contents), *_wheels(contents), *_runtime(contents)]
    components.sort(key=lambda one: str(one["bom-ref"]))
    references = [str(one["bom-ref"]) for one in components]
    moment = datetime.fromtimestamp(contents.release, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    bill = {
        "$schema": _SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{_serial(contents)}",
        "version": 1,
        "metadata": {
            "timestamp": moment,
            "tools": {
                "components": [
                    {"type": "application", "name": "llava-pack", "version": __version__}
                ]
            },
            "component": {
                "type": "application",
                "bom-ref": _BUNDLE,
                "name": contents.name,
                "version": str(contents.release),
                **_unverified(contents),
            },
        },
        "components": components,
        "dependencies": [
            {"ref": _BUNDLE, "dependsOn": references},
            *({"ref": one} for one in references),
        ],
    }
    return json.dumps(bill, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def licence_field(text: str, url: str = "") -> dict[str, Any]:
    """Return the `licenses` of a component: an SPDX expression, else the publisher's words.

    >>> licence_field("MIT OR Apache-2.0")
    {'licenses': [{'expression': 'MIT OR Apache-2.0'}]}
    >>> licence_field("Llama-2-Community", "https://example.org")
    {'licenses': [{'license': {'name': 'Llama-2-Community', 'url': 'https://example.org'}}]}
    """
    if not text:
        return {}
    if (known := spdx(text)) is not None:
        return {"licenses": [{"expression": known}]}
    return {"licenses": [{"license": {"name": text, **({"url": url} if url else {})}}]}


def _unverified(contents: BillContents) -> dict[str, Any]:
    lines = [prop for text in contents.unverified for prop in _properties(unverified=text)]
    return {"properties": lines} if lines else {}


def _models(contents: BillContents) -> Iterator[dict[str, Any]]:
    for part in contents.models:
        files = [e for e in contents.entries if e.path.startswith(f"model/{part.folder}/")]
        component = {
            "type": "machine-learning-model",
            "bom-ref": f"model/{part.folder}",
            "name": part.folder,
            "version": part.pinned.revision,
            "purl": part.pinned.purl,
            **licence_field(part.licence, part.url),
            "modelCard": {"modelParameters": {"task": "image-text-to-text"}}
            if part.role == "model"
            else {},
            "properties": _properties(role=part.role, source=part.pinned.public),
            "components": [_file(entry) for entry in files],
        }
        yield {name: value for name, value in component.items() if value}


def _wheels(contents: BillContents) -> Iterator[dict[str, Any]]:
    for entry in contents.entries:
        if entry.path.startswith("wheels/"):
            filename = entry.path.rpartition("/")[2]
            name, version = filename.split("-")[:2]
            yield _package(
                entry, name.replace("_", "-").lower(), version, contents.licences[filename]
            )


def _runtime(contents: BillContents) -> Iterator[dict[str, Any]]:
    for entry in contents.entries:
        if (wheel := contents.programs.get(entry.path)) is not None:
            licence = contents.licences.get(wheel.filename, "")
            yield _package(entry, wheel.name, wheel.version, licence)
        elif entry.path == contents.python.path:
            version = contents.python.version
            yield {
                "type": "platform",
                "bom-ref": entry.path,
                "name": "cpython",
                "version": version,
                "purl": f"pkg:generic/cpython@{version}",
                "hashes": _hashes(entry.sha256),
                **licence_field(_PYTHON_LICENCE),
                "properties": _properties(path=entry.path),
            }


def _package(entry: FileEntry, name: str, version: str, licence: str) -> dict[str, Any]:
    return {
        "type": "application" if entry.path.startswith("runtime/") else "library",
        "bom-ref": entry.path,
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{quote(version)}",
        "hashes": _hashes(entry.sha256),
        **licence_field(licence),
        "properties": _properties(path=entry.path),
    }


def _file(entry: FileEntry) -> dict[str, Any]:
    """Return a file of a model, and what it was made from."""
    origins = entry.origin.get("inputs") or [entry.origin]
    return {
        "type": "file",
        "bom-ref": entry.path,
        "name": entry.path,
        "hashes": _hashes(entry.sha256),
        "pedigree": {"ancestors": [_ancestor(origin) for origin in origins]},
        "properties": _properties(origin=entry.origin["kind"], tool=entry.origin.get("tool")),
    }


def _ancestor(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return a published file; the Hub knows small ones by Git's own digest."""
    kind, _, digest = str(origin.get("digest", "")).partition(":")
    named = {"repo": origin.get("repo"), "commit": origin.get("commit")}
    return {
        "type": "file",
        "name": str(origin.get("path", "unknown")),
        **({"hashes": _hashes(digest)} if kind == "sha256" else {}),
        "properties": _properties(**named, **({} if kind == "sha256" else {kind: digest})),
    }


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


def _properties(**facts: Any) -> list[dict[str, str]]:
    return [
        {"name": f"llava-pack:{name}", "value": str(value)}
        for name, value in sorted(facts.items())
        if name and value
    ]


def _serial(contents: BillContents) -> uuid.UUID:
    """Return a number that follows from the content."""
    lines: Iterable[str] = (f"{e.sha256}  {e.path}\n" for e in contents.entries)
    whole = f"{contents.name} {contents.release}\n{''.join(lines)}"
    return uuid.uuid5(uuid.NAMESPACE_OID, sha256(whole.encode()).hexdigest())
