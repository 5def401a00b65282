"""The system calls that a sandboxed program may not make.

Namespaces keep a program away from the host's files, processes and network, but not
from the kernel's key rings (which hold secrets of the user who started us), from memory
that no limit counts (System V shared memory and queues), and not from the parts of the
kernel where most escapes were found. The filter is a classic BPF program, see
https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html.
"""

import errno
import platform
import struct

# Numbers of x86_64 (arch/x86/entry/syscalls/syscall_64.tbl) and of arm64
# (include/uapi/asm-generic/unistd.h).
_X86_64, _ARM64 = 0, 1
_DENIED = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
# machine -> (column above, AUDIT_ARCH_*, first number of a second call table)
_MACHINES = {
    "x86_64": (_X86_64, 0xC000003E, 0x40000000),
    "aarch64": (_ARM64, 0xC00000B7, None),
}
_LOAD_WORD, _RETURN = 0x20, 0x06
_SKIP_UNLESS_EQUAL, _SKIP_UNLESS_AT_LEAST = 0x15, 0x35
_OFFSET_NUMBER, _OFFSET_ARCH = 0, 4
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def deny_filter(machine: str | None = None) -> bytes:
    """The filter for bubblewrap's `--seccomp`.

    A denied call fails with EPERM; a call of another architecture (32-bit programs)
    with ENOSYS.

    Args:
      machine: as `platform.machine()` says, this machine's by default.

    Returns:
      The BPF program, empty for a machine whose call numbers we do not know.
    """
    known = _MACHINES.get(machine or platform.machine())
    if known is None:
        return b""
    column, arch, second_table = known
    deny = struct.pack("<HBBI", _RETURN, 0, 0, _ERRNO | errno.EPERM)
    absent = struct.pack("<HBBI", _RETURN, 0, 0, _ERRNO | errno.ENOSYS)
    parts = [
        struct.pack("<HBBI", _LOAD_WORD, 0, 0, _OFFSET_ARCH),
        struct.pack("<HBBI", _SKIP_UNLESS_EQUAL, 1, 0, arch),
        absent,
        struct.pack("<HBBI", _LOAD_WORD, 0, 0, _OFFSET_NUMBER),
    ]
    if second_table is not None:
        test = struct.pack("<HBBI", _SKIP_UNLESS_AT_LEAST, 0, 1, second_table)
        parts += [test, absent]
    for numbers in _DENIED.values():
        test = struct.pack("<HBBI", _SKIP_UNLESS_EQUAL, 0, 1, numbers[column])
        parts += [test, deny]
    parts.append(struct.pack("<HBBI", _RETURN, 0, 0, _ALLOW))
    return b"".join(parts)
