"""`llava-pack inspect`: what a bundle, or a checkpoint, holds."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson
from llava_pack.cli.both.bill import bill_summary
from llava_pack.cli.language import translated
from llava_pack.cli.parameters import refuse_options
from llava_pack.format import records
from llava_pack.format.errors import UsageError
from llava_pack.format.exit_codes import ExitCode
from llava_pack.format.sums import SUMS_NAME
from llava_pack.format.text import human_bytes
from llava_pack.shells import pasted

if TYPE_CHECKING:
    from llava_pack.format.manifest import FileEntry, Manifest


_OF_A_CHECKPOINT = ("vision_tower", "context", "slots")


def inspect(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A bundle, or a checkpoint's folder.")],
    vision_tower: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The checkpoint's vision tower, if it is elsewhere."),
    ] = None,
    context: Annotated[
        int, typer.Option(min=1, help="Context length, in tokens, to predict memory for.")
    ] = 4096,
    slots: Annotated[
        int, typer.Option(min=1, help="Concurrent requests to predict memory for.")
    ] = 1,
    everything: Annotated[
        bool, typer.Option("--all", help="Of a bundle, show all that its manifest says.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a bundle or a checkpoint contains and needs.

    Nothing is verified. Of a bundle, 15 lines show what it is, needs and serves, and where it came
    from; --all and --json show the whole manifest. For a checkpoint, it also shows every defect,
    and the memory that the model will need.

    \b
    Examples:
      llava-pack inspect /media/usb/llava-v1.5-7b
      llava-pack inspect ./demo-bundle --all
      llava-pack inspect ./demo-bundle --json
      llava-pack inspect ./llava-v1.5-7b
      llava-pack inspect ./llava-v1.5-7b --context 2048 --slots 8
    """
    if (folder / SUMS_NAME).is_file():
        refuse_options(ctx, _OF_A_CHECKPOINT, "has no meaning for a bundle, only for a checkpoint")
        if not (as_json or everything):
            _show_bundle(folder)
            return
        kind, facts = "bundle", _bundle(folder)
    elif _is_checkpoint(folder):
        refuse_options(ctx, ("everything",), "has no meaning for a checkpoint, only for a bundle")
        kind = "checkpoint"
        from llava_pack.checkpoint.summary import summarise

        facts = summarise(folder, vision_tower, context_tokens=context, requests=slots)
    else:
        raise UsageError(
            f"expected a bundle (with {SUMS_NAME}) or a checkpoint (with config.json or weights)",
            subject=str(folder),
            hint="llava-pack build RECIPE creates a bundle",
        )
    defects = facts.get("defects", [])
    if as_json:
        console.document(kind, facts)
    else:
        for line in _lines({name: value for name, value in facts.items() if name != "defects"}):
            console.verbatim(line)
        _show_defects(defects)
    if any(defect["level"] == "fail" for defect in defects):
        raise typer.Exit(int(ExitCode.CHECKPOINT))


def _show_bundle(folder: Path) -> None:
    """Print a bundle in a few lines, and how to see more."""
    from llava_pack.cli.both.bundle_lines import bundle_lines
    from llava_pack.target.inventory import read_listing, read_manifest

    listing = read_listing(folder, expect=None)
    manifest, _ = read_manifest(listing)
    for line in bundle_lines(folder, listing.bundle_id, manifest):
        console.verbatim(line)
    check = pasted(["llava-pack", "verify", str(folder)])
    console.say(f"nothing was verified: {check}; more: --all")


def _is_checkpoint(folder: Path) -> bool:
    """Say whether a folder is meant as a checkpoint; one without config.json is a broken one."""
    from llava_pack.checkpoint.folder import checkpoint_folder

    if not folder.is_dir():
        return False
    return any(
        path.name == "config.json" or path.suffix in {".safetensors", ".bin", ".gguf"}
        for path in checkpoint_folder(folder.absolute()).iterdir()
    )


def _bundle(folder: Path) -> dict[str, Any]:
    from llava_pack.target.inventory import read_listing, read_manifest

    listing = read_listing(folder, expect=None)
    manifest, _ = read_manifest(listing)
    stated: dict[str, Any] = records.encode(manifest)
    files = stated.pop("files")
    answers = stated.pop("known_answers")
    carried = [entry for entry in manifest.files if entry.carried]
    return {
        "bundle_id": listing.bundle_id,
        **stated,
        "size_bytes": sum(entry.size_bytes for entry in carried),
        **_left_out(manifest),
        "parts": _parts(carried),
        "provenance": _provenance(carried),
        "sbom": bill_summary(folder, manifest),
        "known_answers": [
            {name: answer[name] for name in ("name", "prompt", "contains")} for answer in answers
        ],
        "files": files,
    }


def _left_out(manifest: "Manifest") -> dict[str, Any]:
    """Return the wheels that a server fetches itself, nothing for a whole bundle."""
    sizes = [entry.size_bytes for entry in manifest.left_out]
    return {"left_out": {"files": len(sizes), "size_bytes": sum(sizes)}} if sizes else {}


def _parts(files: "Sequence[FileEntry]") -> dict[str, dict[str, int]]:
    parts: dict[str, dict[str, int]] = defaultdict(lambda: {"files": 0, "size_bytes": 0})
    for entry in files:
        names = entry.path.split("/")
        depth = 2 if names[0] == "model" else 1
        part = "/".join(names[:depth]) if len(names) > 1 else "(top)"
        parts[part]["files"] += 1
        parts[part]["size_bytes"] += entry.size_bytes
    return dict(parts)


def _provenance(files: "Sequence[FileEntry]") -> list[dict[str, Any]]:
    """Return the origins with how much came from each, digests and names of single files aside."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in files:
        origin = {
            key: entry.origin[key]
            for key in ("kind", "name", "repo", "commit", "tool", "version")
            if entry.origin.get(key)
        }
        row = rows.setdefault(repr(origin), {**origin, "files": 0, "size_bytes": 0})
        row["files"] += 1
        row["size_bytes"] += entry.size_bytes
    return sorted(rows.values(), key=lambda row: -int(row["size_bytes"]))


def _show_defects(defects: list[dict[str, Any]]) -> None:
    for defect in defects:
        mark, message = console.mark(defect["level"]), translated(defect["message"])
        console.verbatim(f"{mark} {defect['subject']}: {message}")
        if defect["hint"]:
            console.data(f"  {defect['hint']}")


def _lines(facts: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in facts.items():
        if name == "files" and isinstance(value, list):
            continue
        if isinstance(value, Mapping) and _is_table(value):
            yield f"{indent}{name}:"
            yield from (f"{indent}  - {part}: {_one_line(row)}" for part, row in value.items())
        elif isinstance(value, Mapping) and value and "bytes" in name:
            sizes = (f"{part} {_scalar(name, size)}" for part, size in value.items())
            yield f"{indent}{name}: {', '.join(sizes)}"
        elif isinstance(value, Mapping) and value:
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield f"{indent}{name}:"
            yield from (f"{indent}  - {_one_line(item)}" for item in value)
        else:
            yield f"{indent}{name}: {_scalar(name, value)}"


def _one_line(item: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {_scalar(name, value)}" for name, value in item.items())


def _scalar(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    if isinstance(value, int) and not isinstance(value, bool) and "bytes" in name:
        return human_bytes(value)
    return "none" if value is None or value == {} else str(value)


def _is_table(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(isinstance(row, Mapping) for row in value.values())
