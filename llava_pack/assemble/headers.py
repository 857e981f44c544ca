"""The headers of a source's weight files, asked for before anything large is fetched."""

from collections.abc import Mapping

from llava_pack.checkpoint.defects import Defect, defect_of
from llava_pack.checkpoint.pieces import AbsentError, Pieces
from llava_pack.checkpoint.weight_file import Held, first_spans, header_entries
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.pieces import Span
from llava_pack.fetch.source import ListedFile, Source
from llava_pack.format.errors import CheckpointError

_ROUNDS = 4
"""A pickle's are its two ends, a directory, a program and a marker that lie elsewhere."""


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
        Span(name, *span)
        for name, file in files.items()
        for span in first_spans(name, file.size_bytes)
    }
    held: Held = {}
    defects: list[Defect] = []
    for _ in range(_ROUNDS):
        pieces = source.pieces(files, wanted, cache)
        for span, data in pieces.items():
            here[span.path].put(span.start, data)
        refused = {span.path for span in wanted - pieces.keys()}
        asked, wanted = {span.path for span in wanted} - refused, set()
        for name in sorted(asked):
            try:
                held[name] = {one.name: one for one in header_entries(here[name], name)}
            except AbsentError as absent:
                wanted.add(Span(name, absent.start, absent.end))
            except CheckpointError as error:
                defects.append(defect_of(error))
        if not wanted:
            break
    return held, defects
