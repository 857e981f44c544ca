"""The headers of a source's weight files, asked for before anything large is fetched."""

from collections.abc import Mapping

from llava_pack.checkpoint.defects import Defect, defect_of
from llava_pack.checkpoint.pieces import AbsentError, Pieces
from llava_pack.checkpoint.weight_file import Held, first_spans, header_entries
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.pieces import Span
from llava_pack.fetch.source import ListedFile, Source
from llava_pack.format.errors import CheckpointError

_ROUNDS = 6
"""A pickle's are its two ends, and a directory, a program and a marker that lie elsewhere."""
_PIECE_BYTES = 1 << 16
"""Asked for at least: what is read next mostly lies behind."""


def remote_headers(
    source: Source, files: Mapping[str, ListedFile], cache: Cache
) -> tuple[Held, list[Defect]]:
    """Return the tensors of weight files by their headers, and what is wrong with the files.

    Pieces of all files are asked for together; what a header lacks then, in a further round. Files
    whose server gives no pieces are left out.

    Args:
        source: at the commit that was listed.
        files: by name.
        cache: a file that is in it is read there.
    """
    here = {name: Pieces(name, file.size_bytes) for name, file in files.items()}
    wanted = {
        name: [Span(name, *span) for span in first_spans(name, file.size_bytes)]
        for name, file in files.items()
    }
    held: Held = {}
    defects: list[Defect] = []
    for _ in range(_ROUNDS):
        pieces = source.pieces(files, [span for spans in wanted.values() for span in spans], cache)
        for span, data in pieces.items():
            here[span.path].put(span.start, data)
        asked, wanted = wanted, {}
        for name, spans in asked.items():
            if not pieces.keys() >= {*spans}:
                continue
            try:
                held[name] = {one.name: one for one in header_entries(here[name], name)}
            except AbsentError as absent:
                end = max(absent.end, absent.start + _PIECE_BYTES)
                wanted[name] = [Span(name, absent.start, min(end, files[name].size_bytes))]
            except CheckpointError as error:
                defects.append(defect_of(error))
        if not wanted:
            break
    return held, defects
