"""Mounts with other owners: what `mount -o X-mount.idmap` does from util-linux 2.39 on.

Older ones are common still (Debian 12), so these three system calls are made here. They
are used once for each place of an episode, where we were started as root, so that the
programs of the machine belong to root inside, who is nobody in particular outside.
"""

import ctypes
import os

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on all machines
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NODEV, _MOUNT_ATTR_IDMAP = 1, 4, 0x00100000


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def mount_mapped(folder: str, target: str, userns_fd: int) -> None:
    """Shows the mount at `folder` at `target`, read-only, with a user namespace's ids.

    Raises:
      OSError: without privilege, before Linux 5.12, or on file systems that cannot.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    fd = _call(_OPEN_TREE, _AT_FDCWD, os.fsencode(folder), flags)
    try:
        flags = _MOUNT_ATTR_IDMAP | _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NODEV
        attr = _MountAttr(flags, 0, 0, userns_fd)
        size = ctypes.sizeof(attr)
        _call(_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, ctypes.byref(attr), size)
        path = os.fsencode(target)
        _call(_MOVE_MOUNT, fd, b"", _AT_FDCWD, path, _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(fd)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [
        ctypes.c_long(a)
        if isinstance(a, int)
        else ctypes.c_char_p(a)
        if isinstance(a, bytes)
        else a
        for a in arguments
    ]
    result = libc.syscall(ctypes.c_long(number), *words)
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{os.strerror(error)} (system call {number})")
    return result
