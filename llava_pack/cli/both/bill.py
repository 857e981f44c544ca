"""What `inspect` says of a bundle's bill of materials."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_pack.format.manifest import Manifest

BILL = "sbom/bundle.cdx.json"
_MAX_BYTES = 32 << 20
_UNSTATED = "not stated"


def bill_summary(folder: Path, manifest: "Manifest") -> dict[str, Any] | None:
    """Return how many components of which kind and licence there are; None without a bill.

    Nothing is verified; what is no CycloneDX is said to be none.
    """
    if all(entry.path != BILL for entry in manifest.files):
        return None
    try:
        with (folder / BILL).open("rb") as stream:
            bill = json.loads(stream.read(_MAX_BYTES))
        components = list(bill["components"])
        return {
            "path": BILL,
            "format": f"{bill['bomFormat']} {bill['specVersion']}",
            "serial_number": bill["serialNumber"],
            "components": _counted(str(one["type"]) for one in components),
            "licences": _counted(name for one in components for name in _licences(one)),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {"path": BILL, "error": f"cannot be read: {error}"}


def _licences(component: Mapping[str, Any]) -> Iterator[str]:
    stated = component.get("licenses") or [{"expression": _UNSTATED}]
    for one in stated:
        licence = one.get("license") or {}
        yield one.get("expression") or licence.get("id") or licence.get("name") or _UNSTATED


def _counted(names: Iterator[str]) -> dict[str, int]:
    """Return how often each is there, the most frequent first."""
    return dict(sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0])))
