"""The filter of system calls, run by a small interpreter for each machine."""

import errno
import struct

import pytest

from cycleqd_jax.sandbox.seccomp import deny_filter
from tests.sandbox.threats.system_calls import call_numbers

ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED = "allowed"
CLONE_NEWUSER, SIGCHLD = 0x10000000, 17
MASK = 0xFFFFFFFF


def decide(machine: str, number: int, *arguments: int, arch: int | None = None):
    """ALLOWED, or the errno that the call gets."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    wide = [argument % 2**64 for argument in padded]
    data = struct.pack("<IIQ6Q", number, arch or ARCHES[machine], 0, *wide)
    program = list(struct.iter_unpack("<HBBI", deny_filter(machine)))
    position = accumulator = 0
    while True:
        code, then, otherwise, value = program[position]
        position += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x15:
                position += then if accumulator == value else otherwise
            case 0x35:
                position += then if accumulator >= value else otherwise
            case 0x45:
                position += then if accumulator & value else otherwise
            case 0x06:
                return ALLOWED if value == 0x7FFF0000 else value & 0xFFFF
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("ptrace", (16, 1), errno.EPERM),
        ("semget", (0, 1, 0), errno.EPERM),
        ("memfd_create", (), errno.EPERM),
        ("io_uring_setup", (), errno.EPERM),
        ("inotify_init1", (), errno.EPERM),
        ("mmap", (0, 4096, 3, 0x22), ALLOWED),
        ("mmap", (0, 2**21, 3, 0x40022), errno.ENOMEM),
        ("mknodat", (-100, 0, 0o100644), ALLOWED),
        ("mknodat", (-100, 0, 0o010644), ALLOWED),
        ("mknodat", (-100, 0, 0o020644), errno.EPERM),
        ("renameat2", (-100, 0, -100, 0, 1), ALLOWED),
        ("renameat2", (-100, 0, -100, 0, 4), errno.EINVAL),
        ("sync", (), 0),
        ("clone3", (), errno.ENOSYS),
        ("clone", (SIGCHLD,), ALLOWED),
        ("clone", (SIGCHLD | CLONE_NEWUSER,), errno.EPERM),
        ("clone", (SIGCHLD | CLONE_NEWUSER | 2**40,), errno.EPERM),
        ("ioctl", (0, 0x5401), ALLOWED),
        ("ioctl", (0, 0x5412), errno.EPERM),
        ("ioctl", (0, 0x5412 + 2**32), errno.EPERM),
        ("prlimit64", (0, 7), ALLOWED),
        ("prlimit64", (1, 7), errno.EPERM),
        ("prlimit64", (1 + 2**32, 7), errno.EPERM),
        ("sched_setaffinity", (0,), ALLOWED),
        ("sched_setaffinity", (1,), errno.EPERM),
        ("setpriority", (0, 0, 5), 0),
        ("socket", (1, 1), ALLOWED),
        ("socket", (10, 1), ALLOWED),
        ("socket", (40, 1), errno.EAFNOSUPPORT),
        ("socket", (40 + 2**32, 1), errno.EAFNOSUPPORT),
        ("socketpair", (1, 1), ALLOWED),
        ("socketpair", (30, 1), errno.EAFNOSUPPORT),
    ],
)
def test_decisions(machine, name, arguments, expected):
    assert decide(machine, call_numbers(machine)[name], *arguments) == expected


@pytest.mark.parametrize(
    ("machine", "read", "execve"), [("x86_64", 0, 59), ("aarch64", 63, 221)]
)
def test_what_every_program_needs(machine, read, execve):
    assert decide(machine, read) == decide(machine, execve) == ALLOWED


@pytest.mark.parametrize("machine", ARCHES)
def test_other_call_tables(machine):
    number = call_numbers(machine)["ptrace"]
    assert decide(machine, number, arch=0x40000003) == errno.ENOSYS  # 32-bit x86
    if machine == "x86_64":
        assert decide(machine, 0x40000000 + 1) == errno.ENOSYS  # x32


def test_numbers_are_distinct():
    for machine in ARCHES:
        numbers = call_numbers(machine)
        assert len(set(numbers.values())) == len(numbers) > 60


def test_unknown_machine():
    assert deny_filter("riscv64") == b""
    assert call_numbers("riscv64") == {}
