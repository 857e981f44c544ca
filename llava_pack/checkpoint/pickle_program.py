"""A state dict's pickle, read as data: a small machine that knows what a state dict needs, no more.

Nothing is imported and nothing is called: a global is a pair of words looked up in a fixed table,
a tensor is a record of where its bytes lie. An opcode, a class or a shape of value that a state
dict does not need ends the reading.

Source: Python `pickletools` (opcode arguments); torch/_utils.py, torch/serialization.py (records).
"""

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llava_pack.checkpoint.state_records import (
    Global,
    TensorRecord,
    is_known,
    kind_of,
    record_of,
    storage_of,
)
from llava_pack.format.errors import CheckpointError

MAX_PROGRAM_BYTES = 8 << 20
MAX_OPCODES = 1_000_000
"""So that every one may leave a value in memory. A tensor of a state dict takes about 40."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where a group of stack values begins."""


def read_state_dict(program: bytes, *, subject: str) -> dict[str, TensorRecord]:
    """Return the tensors of a pickled state dict, by name, in their order.

    Raises:
        CheckpointError: the pickle is not a flat dict of tensors; nothing of it was executed.
    """
    if len(program) > MAX_PROGRAM_BYTES:
        raise CheckpointError(
            f"its pickle has {len(program)} bytes, expected at most {MAX_PROGRAM_BYTES}",
            subject=subject,
        )
    value = _Machine(subject).run(program)
    if not isinstance(value, dict):
        raise CheckpointError(
            f"the file holds a {kind_of(value)}, expected a state dict (names to tensors)",
            subject=subject,
            hint="only weight files are packed; leave out training files",
        )
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, TensorRecord):
            # a number may have more digits than Python is willing to write down
            short = isinstance(name, str) or name.bit_length() <= 64
            shown = repr(name)[:200] if short else "a very large number"
            raise CheckpointError(
                f"{shown} is a {kind_of(tensor)}, expected a tensor", subject=subject
            )
    return value


class _Machine:
    """Stack, memo and the handful of opcodes; refuses everything else."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._opcodes: dict[str, Callable[[Any], None]] = _opcode_table(self)

    def run(self, program: bytes) -> Any:
        """Return the value that the program leaves behind."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of an escape in a name that Python does not know
                return self._run(program)
        except (ValueError, IndexError, KeyError, TypeError, Warning) as error:
            raise CheckpointError(
                f"its pickle is damaged: {error}", subject=self._subject, hint="download it again"
            ) from error

    def _run(self, program: bytes) -> Any:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(program)):
            if count >= MAX_OPCODES:
                self.refuse(f"a pickle of more than {MAX_OPCODES} opcodes")
            if opcode.name == "STOP":
                return self._finish(position, len(program))
            action = self._opcodes.get(opcode.name)
            if action is None:
                self.refuse(f"pickle opcode {opcode.name} at byte {position}")
            else:
                action(argument)
        return None  # never: without its end, `genops` raises

    def refuse(self, what: str) -> None:
        """Stop reading: the program asks for something that a state dict does not need."""
        raise CheckpointError(
            f"{what} is not allowed in a weight file; nothing of it was executed",
            subject=self._subject,
            hint="take the checkpoint from its publisher, as safetensors if available",
        )

    def _finish(self, position: int | None, size_bytes: int) -> Any:
        if position is None or position + 1 != size_bytes:
            self.refuse("data after the end of the pickle")
        if len(self._stack) != 1:
            raise ValueError(f"{len(self._stack)} values are left, expected 1")
        return self._stack[0]

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Take the newest value; a mark is none."""
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise TypeError("a value was expected, got a mark")
        return value

    def pop_group(self) -> list[Any]:
        """Take every value above the newest mark, and the mark."""
        for start in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[start], _Mark):
                group = self._stack[start + 1 :]
                del self._stack[start:]
                return group
        raise IndexError("no mark on the stack")

    def push_global(self, module: str, name: str) -> None:
        """Put a known name on the stack."""
        found = Global(module, name)
        if not is_known(found):
            self.refuse(f"{module}.{name}")
        self.push(found)

    def stack_global(self) -> None:
        """Put the name made of two strings on the stack."""
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a global's name is not text")
        self.push_global(module, name)

    def remember(self, slot: int) -> None:
        """Keep the newest value under a number."""
        if isinstance(self._stack[-1], _Mark):
            raise TypeError("a mark cannot be kept")
        self._memo[slot] = self._stack[-1]

    def memoize(self) -> None:
        """Keep the newest value under the next number."""
        self.remember(len(self._memo))

    def recall(self, slot: int) -> None:
        """Put a kept value on the stack again."""
        self.push(self._memo[slot])

    def reduce(self) -> None:
        """Replace a known name and its arguments by the record that they mean."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError("a call to something that is not a known name")
        self.push(record_of(function, arguments, self._subject))

    def build(self) -> None:
        """Drop the attributes of a dict (`_metadata` of a state dict); nothing else has any."""
        self.pop()
        if not isinstance(self._stack[-1], dict):
            self.refuse(f"setting the state of a {kind_of(self._stack[-1])}")

    def persistent(self) -> None:
        """Replace a persistent id by the storage that it names."""
        self.push(storage_of(self.pop(), self._subject))

    def set_items(self, group: list[Any]) -> None:
        """Add pairs to the dict below them."""
        target = self._stack[-1]
        if not isinstance(target, dict) or len(group) % 2:
            raise TypeError("pairs without a dict")
        for key, value in zip(group[::2], group[1::2], strict=True):
            if type(key) not in {str, int}:
                raise TypeError(f"a {kind_of(key)} as a key")
            if key in target:
                raise ValueError(f"key {key!r} appears twice")
            target[key] = value

    def append(self, group: list[Any]) -> None:
        """Add values to the list below them."""
        target = self._stack[-1]
        if not isinstance(target, list):
            raise TypeError("values without a list")
        target.extend(group)

    def push_tuple(self, count: int) -> None:
        """Replace the newest values by a tuple of them."""
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))


def _opcode_table(m: _Machine) -> dict[str, Callable[[Any], None]]:
    literals = (
        "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
        "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    )  # fmt: skip
    table: dict[str, Callable[[Any], None]] = dict.fromkeys(literals, m.push)
    table |= {
        "PROTO": lambda _: None,
        "FRAME": lambda _: None,
        "NONE": lambda _: m.push(None),
        "NEWTRUE": lambda _: m.push(True),
        "NEWFALSE": lambda _: m.push(False),
        "EMPTY_DICT": lambda _: m.push({}),
        "EMPTY_LIST": lambda _: m.push([]),
        "EMPTY_TUPLE": lambda _: m.push(()),
        "MARK": lambda _: m.push(_Mark()),
        "TUPLE": lambda _: m.push(tuple(m.pop_group())),
        "TUPLE1": lambda _: m.push_tuple(1),
        "TUPLE2": lambda _: m.push_tuple(2),
        "TUPLE3": lambda _: m.push_tuple(3),
        "SETITEM": lambda _: m.set_items([*reversed([m.pop(), m.pop()])]),
        "SETITEMS": lambda _: m.set_items(m.pop_group()),
        "APPEND": lambda _: m.append([m.pop()]),
        "APPENDS": lambda _: m.append(m.pop_group()),
        "GLOBAL": lambda text: m.push_global(*text.split(" ", 1)),
        "STACK_GLOBAL": lambda _: m.stack_global(),
        "BINPUT": m.remember,
        "LONG_BINPUT": m.remember,
        "MEMOIZE": lambda _: m.memoize(),
        "BINGET": m.recall,
        "LONG_BINGET": m.recall,
        "REDUCE": lambda _: m.reduce(),
        "BUILD": lambda _: m.build(),
        "BINPERSID": lambda _: m.persistent(),
    }
    return table
