"""A seccomp filter for a fence, assembled here: which system calls are refused. The filter is pure.

A refused call fails with EPERM, as if somebody without the right had made it; nothing is killed.
What is not listed is allowed: a driver's calls change from release to release, and a list of what
it may do would end in errors without a name.

Source: Documentation/userspace-api/seccomp_filter.rst and linux/filter.h of Linux 6.18.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Iterable, Mapping

from llava_pack.engine.fence.calls import Architecture
from llava_pack.engine.fence.value import Fence, Sockets

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _EVERY_THREAD = 1, 1
_SECCOMP = {"x86_64": 317, "aarch64": 277}

_LOAD, _AND = 0x20, 0x54  # BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND|BPF_K
_IF_EQUAL, _IF_ABOVE, _IF_ANY = 0x15, 0x35, 0x45  # BPF_JMP|BPF_K with JEQ, JGE, JSET
_RETURN = 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _AUDIT, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand; a jump counts what it leaps over."""

_ALWAYS = (
    # other processes: their memory, descriptors and order
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease",
    "kcmp", "pidfd_getfd", "pidfd_send_signal", "tkill",
    # another view of files than Landlock's
    "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "open_tree_attr",
    "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "setns", "unshare", "swapon",
    "swapoff", "quotactl", "quotactl_fd", "open_by_handle_at", "name_to_handle_at",
    "fanotify_init", "acct",
    # what Landlock does not hold: lengths by name, modes, owners, attributes, times
    "truncate", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown",
    "fchownat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr",
    "lremovexattr", "fremovexattr", "removexattrat", "utime", "utimes", "futimesat", "utimensat",
    "file_setattr",
    # large doors into the kernel, and system calls by other means than system calls
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter",
    "io_uring_register", "keyctl", "add_key", "request_key", "personality", "iopl", "ioperm",
    # the machine
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot",
    "syslog", "settimeofday", "clock_settime", "sethostname", "setdomainname",
)  # fmt: skip
_SHARED = (
    "shmget", "shmat", "shmctl", "semget", "semop", "semtimedop", "semctl", "msgget", "msgsnd",
    "msgrcv", "msgctl", "mq_open", "mq_unlink",
)  # fmt: skip
"""Memory and queues that all processes of an account can open by a number or a name."""
_CONNECTS = ("unix", "tcp", "unix and tcp")
_STARTING = ("fork", "vfork", "execve", "execveat")
_TO_SELF = ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020000  # NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_SENDS_SIGNALS_LATER = (8, 10, 15)  # fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX
_TYPES_INTO_A_TERMINAL = (0x5412, 0x541C, 0x8901, 0x8902)  # TIOCSTI, TIOCLINUX, F- and SIOCSPGRP
_KIND = 0xF  # of a socket's type; the rest are flags
_PROTOCOLS = (0, socket.IPPROTO_TCP)
_CONNECTS_BY_SENDING = 0x20000000  # MSG_FASTOPEN
_FLAGS_OF = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
_TCP_ULP = 31  # of linux/tcp.h: makes another protocol of a socket of TCP


class SeccompError(Exception):
    """The kernel does not do it, and why."""


def forbid_new_privileges() -> None:
    """Have no program that is started gain rights; both means ask for it first.

    Raises:
        SeccompError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise SeccompError(f"prctl is refused: {os.strerror(ctypes.get_errno())}")


def install(program: Iterable[Instruction], machine: str) -> None:
    """Put a filter before all threads of this process; it is never taken away.

    Raises:
        SeccompError: the kernel refuses.
    """
    code = b"".join(struct.pack("=HBBI", *one) for one in program)
    libc = ctypes.CDLL(None, use_errno=True)
    held = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
    number = ctypes.c_long(_SECCOMP[machine])
    result = libc.syscall(number, _SET_MODE_FILTER, _EVERY_THREAD, head)
    if result != 0:
        why = os.strerror(ctypes.get_errno()) if result < 0 else f"thread {result} has another"
        raise SeccompError(f"a seccomp filter is refused: {why}")


def assemble(fence: Fence, architecture: Architecture, pid: int) -> tuple[Instruction, ...]:
    """Return the filter of a fence.

    Args:
        fence: what is let through.
        architecture: of the processor.
        pid: of the process that the fence is for.
    """
    numbers = architecture.numbers
    refused = [*_ALWAYS, *(() if fence.driver else _SHARED), *(() if fence.starts else _STARTING)]
    refused += [] if fence.sockets in _CONNECTS else ["connect"]
    program = [(_LOAD, 0, 0, _AUDIT), (_IF_EQUAL, 1, 0, architecture.audit), _error(_EPERM)]
    program += [(_LOAD, 0, 0, _NUMBER)]
    if architecture.foreign_from is not None:
        program += [(_IF_ABOVE, 0, 1, architecture.foreign_from), _error(_EPERM)]
    for name in refused:
        if name in numbers:
            program += _when(numbers[name], [_error(_EPERM)])
    # Its flags are behind a pointer, which a filter cannot follow; libc then takes clone.
    program += _when(numbers["clone3"], [_error(_ENOSYS)])
    program += _when(numbers["clone"], _clone(starts=fence.starts))
    program += _when(numbers["socket"], _socket(fence.sockets))
    program += _no_way_round_ports(numbers) if fence.speaks_tcp else []
    program += _when(numbers["socketpair"], _stream(socket.AF_UNIX))
    program += _when(numbers["fcntl"], _none_of(1, _SENDS_SIGNALS_LATER))
    program += _when(numbers["ioctl"], _none_of(1, _TYPES_INTO_A_TERMINAL))
    if not fence.starts:  # what starts programs has to end them, too
        for name in _TO_SELF:
            program += _when(numbers[name], _one_of(0, (pid,)))
        program += _when(numbers["prlimit64"], _one_of(0, (0, pid)))
    return (*program, _allow())


def _when(number: int, block: list[Instruction]) -> list[Instruction]:
    """Return a block that is for one value; it ends in a decision on each of its ways."""
    return [(_IF_EQUAL, 0, len(block), number), *block]


def _clone(*, starts: bool) -> list[Instruction]:
    """Refuse namespaces, and processes where none may be started."""
    program = [_argument(0), (_IF_ANY, 0, 1, _CLONE_NAMESPACES), _error(_EPERM)]
    if not starts:
        program += [(_IF_ANY, 1, 0, _CLONE_THREAD), _error(_EPERM)]
    return [*program, _allow()]


def _socket(sockets: Sockets) -> list[Instruction]:
    unix = () if sockets in {"none", "tcp"} else (socket.AF_UNIX,)
    tcp = _when(socket.AF_INET, _tcp()) if sockets in {"tcp", "unix and tcp"} else []
    return [_argument(0), *tcp, *_stream(*unix)]


def _tcp() -> list[Instruction]:
    """Allow TCP alone: Landlock holds no ports of MPTCP, SCTP and SMC, which are streams, too."""
    stream = [_argument(1), (_AND, 0, 0, _KIND), (_IF_EQUAL, 1, 0, socket.SOCK_STREAM)]
    return [*stream, _error(_EPERM), *_one_of(2, _PROTOCOLS)]


def _no_way_round_ports(numbers: Mapping[str, int]) -> list[Instruction]:
    """Refuse to connect by sending, and to make another protocol of TCP: Landlock sees neither."""
    program: list[Instruction] = []
    for name, flags in _FLAGS_OF.items():
        by_sending = [_argument(flags), (_IF_ANY, 0, 1, _CONNECTS_BY_SENDING), _error(_EPERM)]
        program += _when(numbers[name], [*by_sending, _allow()])
    of_tcp = [_argument(1), (_IF_EQUAL, 1, 0, socket.IPPROTO_TCP), _allow()]
    return program + _when(numbers["setsockopt"], [*of_tcp, *_none_of(2, (_TCP_ULP,))])


def _stream(*families: int) -> list[Instruction]:
    """Allow connections of these families: datagrams could be sent to anybody by name."""
    kinds = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
    of_a_kind = [_argument(1), (_AND, 0, 0, _KIND), *_decide_any(kinds)]
    return [_argument(0), *_leap_any(families), _error(_EPERM), *of_a_kind]


def _leap_any(values: tuple[int, ...]) -> list[Instruction]:
    """Leap over the instruction that follows where the accumulator is one of the values."""
    count = len(values)
    return [(_IF_EQUAL, count - place, 0, value) for place, value in enumerate(values)]


def _decide_any(values: tuple[int, ...]) -> list[Instruction]:
    return [*_leap_any(values), _error(_EPERM), _allow()]


def _one_of(index: int, values: tuple[int, ...]) -> list[Instruction]:
    return [_argument(index), *_decide_any(values)]


def _none_of(index: int, values: tuple[int, ...]) -> list[Instruction]:
    return [_argument(index), *_leap_any(values), _allow(), _error(_EPERM)]


def _argument(index: int) -> Instruction:
    """Load an argument's low half: all that is looked at here is an int to the kernel, too."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)


def _allow() -> Instruction:
    return (_RETURN, 0, 0, _ALLOW)


def _error(code: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | code)
