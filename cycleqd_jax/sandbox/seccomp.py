"""A filter of the system calls that a sandboxed program may make.

Namespaces protect the host's files, processes and network. They do not protect the
kernel's key rings (secrets of the user who started us), memory that no limit counts
(System V objects, memory files, huge pages), what the user has for all programs
together (inotify), what the machine has for all users (asynchronous I/O), sockets that
belong to no namespace (of virtual machines), limits and priority of process 1 (which
has the same user id), and the parts of the kernel where most escapes were found. The
filter does; it is a classic BPF program, see
https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html.
"""

import errno
import platform
import struct
from typing import NamedTuple

# Numbers of x86_64 (arch/x86/entry/syscalls/syscall_64.tbl) and of arm64
# (include/uapi/asm-generic/unistd.h).
# They are here since libseccomp knows no call that is newer than itself: Debian 12's
# would let `open_tree_attr` pass.
_X86_64, _ARM64 = 0, 1


def _table(text: str) -> dict[str, tuple[int, int]]:
    """Name of a call -> its numbers, from rows of these three."""
    rows = [row.split() for row in text.split(",")]
    return {name: (int(x86_64), int(arm64)) for name, x86_64, arm64 in rows}


_DENIED = _table(
    # inotify_init: arm64 has only the other
    """
    acct 163 89, add_key 248 217, bpf 321 280, delete_module 176 106,
    fanotify_init 300 262, finit_module 313 273, fsconfig 431 431,
    fsmount 432 432, fsopen 430 430, fspick 433 433, init_module 175 105,
    inotify_init 253 1043, inotify_init1 294 26, io_setup 206 0,
    io_uring_enter 426 426,
    io_uring_register 427 427, io_uring_setup 425 425, kcmp 312 272,
    kexec_file_load 320 294, kexec_load 246 104, keyctl 250 219,
    lookup_dcookie 212 18, memfd_create 319 279, memfd_secret 447 447,
    migrate_pages 256 238, mount 165 40, mount_setattr 442 442,
    move_mount 429 429, move_pages 279 239, mq_open 240 180, msgget 68 186,
    name_to_handle_at 303 264, open_by_handle_at 304 265, open_tree 428 428,
    open_tree_attr 467 467, perf_event_open 298 241, personality 135 92,
    pidfd_getfd 438 438, pivot_root 155 41, process_madvise 440 440,
    process_mrelease 448 448, process_vm_readv 310 270,
    process_vm_writev 311 271, ptrace 101 117, quotactl 179 60,
    quotactl_fd 443 443, reboot 169 142, request_key 249 218, semctl 66 191,
    semget 64 190, semop 65 193, semtimedop 220 192, setns 308 268,
    shmat 30 196, shmctl 31 195, shmget 29 194, swapoff 168 225,
    swapon 167 224, syslog 103 116, umount2 166 39, unshare 272 97,
    userfaultfd 323 282
    """
)
# These succeed and do nothing. The scratch folder is in memory, so some would only
# write to the host's disks, and the caller could not be killed meanwhile. The others
# would change how soon process 1 runs, or make their caller so slow that on a busy
# machine it reaches no limit for minutes.
_IDLE = _table(
    """
    fdatasync 75 83, fsync 74 82, ioprio_set 251 30, sched_setattr 314 274,
    sched_setparam 142 118, sched_setscheduler 144 119, setpriority 141 140,
    sync 162 81, sync_file_range 277 84, syncfs 306 267
    """
)
# A filter cannot see its flags, behind a pointer; the C library falls back to `clone`.
_ABSENT = _table("clone3 435 435")


_LOAD_WORD, _RETURN = 0x20, 0x06
_IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x15, 0x35, 0x45
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; a test skips `then` or `otherwise` instructions."""
    return struct.pack("<HBBI", code, then, otherwise, value)


def _fail(error: int) -> bytes:
    return _step(_RETURN, 0x00050000 | error)


_ALLOW, _DENY = _step(_RETURN, 0x7FFF0000), _fail(errno.EPERM)


class _Rule(NamedTuple):
    """The end of a call that is decided by one argument.

    Attributes:
      numbers: of the call, as in the tables above.
      argument: index from 0; its lower 32 bits are compared, as in the kernel.
      values: with which it is compared.
      test: how.
      hit: what follows if one test is true.
      other: what follows if none is.
    """

    numbers: tuple[int, int]
    argument: int
    values: tuple[int, ...]
    test: int = _IF_EQUAL
    hit: bytes = _DENY
    other: bytes = _ALLOW


_SUPERVISOR = 1  # its process id
_NAMESPACES = 0x7E020000  # all CLONE_NEW*
_MAP_HUGETLB = 0x40000
# A device 0/0 hides a file from who looks through an overlay.
_S_IFCHR, _RENAME_WHITEOUT = 0x2000, 4
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # insert input into a terminal
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
_NO_FAMILY = _fail(errno.EAFNOSUPPORT)
_RULES = {
    "clone": _Rule((56, 220), 0, (_NAMESPACES,), _IF_ANY_BIT),
    "ioctl": _Rule((16, 29), 1, (_TIOCSTI, _TIOCLINUX)),
    "mknod": _Rule((133, 1133), 1, (_S_IFCHR,), _IF_ANY_BIT),  # not on arm64
    "mknodat": _Rule((259, 33), 2, (_S_IFCHR,), _IF_ANY_BIT),
    "mmap": _Rule((9, 222), 3, (_MAP_HUGETLB,), _IF_ANY_BIT, _fail(errno.ENOMEM)),
    "prlimit64": _Rule((302, 261), 0, (_SUPERVISOR,)),
    "renameat2": _Rule(
        (316, 276), 4, (_RENAME_WHITEOUT,), _IF_ANY_BIT, _fail(errno.EINVAL)
    ),
    "sched_setaffinity": _Rule((203, 122), 0, (_SUPERVISOR,)),
    "socket": _Rule((41, 198), 0, _FAMILIES, hit=_ALLOW, other=_NO_FAMILY),
    "socketpair": _Rule((53, 199), 0, _FAMILIES, hit=_ALLOW, other=_NO_FAMILY),
}
# machine -> (column above, AUDIT_ARCH_*, first number of a second call table)
_MACHINES = {
    "x86_64": (_X86_64, 0xC000003E, 0x40000000),
    "aarch64": (_ARM64, 0xC00000B7, None),
}


def deny_filter(machine: str | None = None) -> bytes:
    """The filter for bubblewrap's `--seccomp`.

    A denied call fails with EPERM, a call of another architecture (32-bit programs)
    with ENOSYS.

    Args:
      machine: as `platform.machine()` returns it; this machine by default.

    Returns:
      The BPF program; empty for machines whose call numbers are not known here.
    """
    known = _MACHINES.get(machine or platform.machine())
    if known is None:
        return b""
    column, arch, second_table = known
    absent = _fail(errno.ENOSYS)
    parts = [
        _step(_LOAD_WORD, _OFFSET_ARCH),
        _step(_IF_EQUAL, arch, then=1),
        absent,
        _step(_LOAD_WORD, _OFFSET_NUMBER),
    ]
    if second_table is not None:
        parts += [_step(_IF_AT_LEAST, second_table, otherwise=1), absent]
    for table, result in (
        (_DENIED, _DENY),
        (_IDLE, _fail(0)),
        (_ABSENT, absent),
    ):
        for numbers in table.values():
            parts += [_step(_IF_EQUAL, numbers[column], otherwise=1), result]
    for rule in _RULES.values():
        body = [_step(_LOAD_WORD, _OFFSET_ARGUMENTS + 8 * rule.argument)]
        for value in rule.values:
            body += [_step(rule.test, value, otherwise=1), rule.hit]
        body.append(rule.other)
        test = _step(_IF_EQUAL, rule.numbers[column], otherwise=len(body))
        parts += [test, *body]
    return b"".join([*parts, _ALLOW])
