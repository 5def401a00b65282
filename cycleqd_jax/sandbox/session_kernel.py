"""System calls that Python 3.11 has no function for, as far as sessions need them.

Only `ctypes` and `os` are used: this runs in the small server that starts sessions,
in processes between `fork` and `exec` too.
"""

import ctypes
import os
import platform

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME = 1, 4, 15
_PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 22, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

# What root of a session may: what root of a container may by default.
CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "SYS_CHROOT": 18,
    "AUDIT_WRITE": 29,
    "SETFCAP": 31,
}
# The same for every machine since Linux 5.2, but not all older ones.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_IDMAP = 0x00100000

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


class _SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _check(result: int, what: str) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _libc.syscall(ctypes.c_long(number), *words)


def unshare(flags: int) -> None:
    """Leaves namespaces for new ones."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(
    source: str, target: str, kind: str | None = None, flags: int = 0, data: str = ""
) -> None:
    """Mounts; an `OSError` names the target and the kind."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        os.fsencode(data) if data else None,
    )
    _check(result, f"mount {kind or 'bind'} on {target}")


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Makes the tree `source`, without what is mounted below it, appear at `target`.

    Flags that the source's mount has may not be taken away, so a read-only bind is
    tried with those that are usual.
    """
    mount(source, target, None, MS_BIND)
    if not read_only:
        return
    for more in (0, MS_NOSUID | MS_NODEV, MS_NOSUID | MS_NODEV | MS_NOEXEC, MS_NODEV):
        try:
            mount("none", target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | more)
        except PermissionError:
            continue
        return
    raise PermissionError(f"{target} cannot be made read-only")


def unmount(target: str) -> None:
    """Takes a mount away, at once from view."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"unmount {target}")


def enter_root(folder: str) -> None:
    """Makes the mount `folder` the root and drops the old one."""
    os.chdir(folder)
    number = _PIVOT_ROOT.get(platform.machine(), 41)
    dot = ctypes.c_char_p(b".")
    _check(_syscall(number, dot, dot), "pivot_root")
    unmount(".")
    os.chdir("/")


def mapped_tree(folder: str, userns_fd: int) -> int:
    """A detached copy of the mount at `folder`, owners as in a user namespace.

    Returns:
      Its descriptor. Raises `OSError` without privilege, or before Linux 5.12.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    path = ctypes.c_char_p(os.fsencode(folder))
    fd = _check(_syscall(_OPEN_TREE, _AT_FDCWD, path, flags), f"open_tree {folder}")
    attr = _MountAttr(_MOUNT_ATTR_IDMAP, 0, 0, userns_fd)
    size = ctypes.sizeof(attr)
    empty = ctypes.c_char_p(b"")
    try:
        result = _syscall(
            _MOUNT_SETATTR, fd, empty, _AT_EMPTY_PATH, ctypes.byref(attr), size
        )
        _check(result, f"mount_setattr {folder}")
    except OSError:
        os.close(fd)
        raise
    return fd


def attach_tree(fd: int, target: str) -> None:
    """Mounts a detached tree."""
    result = _syscall(
        _MOVE_MOUNT,
        fd,
        ctypes.c_char_p(b""),
        _AT_FDCWD,
        ctypes.c_char_p(os.fsencode(target)),
        _MOVE_MOUNT_F_EMPTY_PATH,
    )
    _check(result, f"move_mount {target}")


def _prctl(option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(ctypes.c_int(option), *words), f"prctl {option}")


def die_with_parent() -> None:
    """The kernel kills this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def be_private(private: bool) -> None:
    """Whether this process's folder in /proc belongs to root outside, or to itself."""
    _prctl(_PR_SET_DUMPABLE, int(not private))


def rename_process(name: str) -> None:
    """Shows another command line and name: ours says where this library lies."""
    buffer = ctypes.create_string_buffer(name.encode())
    _check(
        _libc.prctl(ctypes.c_int(_PR_SET_NAME), buffer, 0, 0, 0), "prctl PR_SET_NAME"
    )
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    # arg_start to env_end are fields 48 to 51 of the line, the 46th to 49th from here.
    start, end, env_start, env_end = (int(fields[i - 3]) for i in (48, 49, 50, 51))
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, name.encode(), min(len(name), end - start - 1))
    if 0 < env_start < env_end:
        ctypes.memset(env_start, 0, env_end - env_start)


def limit_capabilities(kept: frozenset[int]) -> None:
    """Leaves this process, as root of its user namespace, with `kept` and no more."""
    for number in range(_LAST_CAPABILITY + 1):
        if number in kept:
            continue
        try:
            _prctl(_PR_CAPBSET_DROP, number)
        except OSError:  # beyond the last one that this kernel knows
            break
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)()
    for number in kept:
        data[number // 32].effective |= 1 << (number % 32)
        data[number // 32].permitted |= 1 << (number % 32)
    _check(_libc.capset(ctypes.byref(header), data), "capset")


def load_filter(program: bytes) -> None:
    """Loads a filter of system calls; needs CAP_SYS_ADMIN in the user namespace."""
    if not program:
        return
    buffer = ctypes.create_string_buffer(program, len(program))
    prog = _SockFprog(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p).value)
    result = _libc.prctl(
        ctypes.c_int(_PR_SET_SECCOMP),
        ctypes.c_ulong(_SECCOMP_MODE_FILTER),
        ctypes.byref(prog),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
    _check(result, "prctl PR_SET_SECCOMP")


def set_host_name(name: str) -> None:
    """Names the machine of this namespace."""
    _check(_libc.sethostname(name.encode(), ctypes.c_size_t(len(name))), "sethostname")
