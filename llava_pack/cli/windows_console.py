"""What Windows' console has to be told once: that colours and progress bars come as escapes."""

import ctypes
from typing import Any

_HANDLES = (-11, -12)  # Source: GetStdHandle, STD_OUTPUT_HANDLE and STD_ERROR_HANDLE
_ESCAPES = 0x0004  # Source: SetConsoleMode, ENABLE_VIRTUAL_TERMINAL_PROCESSING


def takes_escapes() -> bool:
    """Switch escapes on, and return False where a console is too old for them.

    A handle that is no console at all is left alone.
    """
    system: Any = vars(ctypes)["windll"].kernel32
    for number in _HANDLES:
        handle, mode = system.GetStdHandle(number), ctypes.c_ulong()
        is_console = system.GetConsoleMode(handle, ctypes.byref(mode))
        if is_console and not system.SetConsoleMode(handle, mode.value | _ESCAPES):
            return False
    return True
