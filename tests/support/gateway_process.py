"""The gateway's process with a check left out, or telling whom it calls.

Run by `gateway.py`: `python gateway_process.py WITHOUT NOTES CHANNEL LISTENING`; `-` leaves out
nothing, and notes nothing; several checks have commas between them.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from llava_pack.serve.gateway.process import main
from tests.support.mutations import MUTATIONS


def _note_calls(path: Path) -> None:
    """Write down every name that is looked up and every address that is connected to.

    The file is open before the fence stands: behind it nothing could be written down.
    """
    file = path.open("a", buffering=1)

    def note(event: str, details: tuple[Any, ...]) -> None:
        if event.startswith(("socket.connect", "socket.get")):
            file.write(f"{event} {details[-1] if 'connect' in event else details}\n")

    sys.addaudithook(note)


if __name__ == "__main__":
    without, notes, *descriptors = sys.argv[1:]
    if notes != "-":
        _note_calls(Path(notes))
    if without != "-":
        for check in without.split(","):
            MUTATIONS[check]()
    main(descriptors)
