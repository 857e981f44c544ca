"""What root may do beyond files is given up: parts of a fence do not hold who keeps it.

Source: linux/capability.h; CAP_PERFMON, for one, reads other processes whatever Landlock says.
"""

import ctypes
import os
import struct

_VERSION_3 = 0x20080522
_READS_EVERY_FILE = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


class CapabilitiesError(Exception):
    """The kernel does not do it, and why."""


def give_up() -> None:
    """Keep the right to open files of other accounts, which Landlock holds, and no other.

    Raises:
        CapabilitiesError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    head = struct.pack("=Ii", _VERSION_3, 0)
    had = ctypes.create_string_buffer(24)
    if libc.capget(head, had) == 0:
        _, low, _, _, high, _ = struct.unpack("=6I", had)
        kept = low & _READS_EVERY_FILE
        if (low, high) == (kept, 0):  # as an account that is not root, where capset may be refused
            return
        if libc.capset(head, struct.pack("=6I", kept, kept, 0, 0, 0, 0)) == 0:
            return
    raise CapabilitiesError(f"capabilities cannot be dropped: {os.strerror(ctypes.get_errno())}")
