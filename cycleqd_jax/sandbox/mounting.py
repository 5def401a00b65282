"""Mounts, by system calls.

`mount` is mount(8) without its two milliseconds. `mount_mapped` is what its option
`X-mount.idmap` does from util-linux 2.39 on, which not even Debian 12 has: where we
were started as root, the programs of the machine shall belong to root inside, who is
nobody in particular outside.
"""

import ctypes
import os
import struct

_BIND, _NODEV, _NOSUID, _NOEXEC, _RECURSIVE = 4096, 4, 2, 8, 16384
_DETACH = 2
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on all machines
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NODEV, _MOUNT_ATTR_IDMAP = 1, 4, 0x00100000


def mount(kind: str, target: str, options: str = "", *, execute: bool = True) -> None:
    """Mounts a new file system on which there are no devices (but for terminals)."""
    flags = _NOSUID | (0 if kind == "devpts" else _NODEV) | (0 if execute else _NOEXEC)
    words = (kind.encode(), os.fsencode(target), kind.encode())
    _check(_libc().mount(*words, ctypes.c_ulong(flags), os.fsencode(options)), target)


def bind(folder: str, target: str) -> None:
    """Shows a folder, with what is mounted below it, at another place."""
    flags = ctypes.c_ulong(_BIND | _RECURSIVE)
    words = (os.fsencode(folder), os.fsencode(target), None)
    _check(_libc().mount(*words, flags, None), target)


def unmount(target: str) -> None:
    """Takes away a mount with all below it, at once from view."""
    _check(_libc().umount2(os.fsencode(target), _DETACH), target)


def mount_mapped(folder: str, target: str, userns_fd: int) -> None:
    """Shows the mount at `folder` at `target`, read-only, with a user namespace's ids.

    Raises:
      OSError: without privilege, before Linux 5.12, or on file systems that cannot.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    fd = _call(_OPEN_TREE, _AT_FDCWD, os.fsencode(folder), flags)
    try:
        flags = _MOUNT_ATTR_IDMAP | _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NODEV
        attr = struct.pack("4Q", flags, 0, 0, userns_fd)  # set, cleared, propagation
        _call(_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, attr, len(attr))
        path = os.fsencode(target)
        _call(_MOVE_MOUNT, fd, b"", _AT_FDCWD, path, _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(fd)


def _call(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = _libc().syscall(ctypes.c_long(number), *words)
    return _check(result, f"system call {number}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{os.strerror(error)} ({what})")
    return result
