"""Holds the file systems of a run's episodes, in a mount namespace that nobody sees.

`unshare` starts this; `holder.Holder` talks to it. When the library closes its end or
ends, so does this; what is mounted here is then gone with the last wall that shows it.
Each episode has a number, its slot, and a folder, see `_slot`.

Request: JSON with `do` and arguments; its descriptors are a socket for the reply and,
where we are root, the episode's user namespace. Reply: JSON.
"""

import contextlib
import json
import os
import select
import signal
import socket

from cycleqd_jax.sandbox._slot import Slot, tmpfs
from cycleqd_jax.sandbox.mounting import bind, mount_mapped

MOST_BYTES = 2**16  # of a request


class Mounts:
    """All file systems of a run, in a folder of the machine that is covered for us.

    With `as_root` we are root outside, and episodes are not. `unreadable` are folders
    of the machine below /usr that nobody here may read. `python`: see `_slot.Slot`.
    """

    def __init__(self, place, as_root, python, unreadable):
        self._place = place
        self._python = python
        self._xattrs = "" if as_root else ",userxattr"
        self._under = os.open(place, os.O_PATH)
        self._slots = {}
        tmpfs(place, "size=16m,nr_inodes=64k,mode=755")
        os.mkdir(f"{place}/machine")
        bind("/usr", f"{place}/machine")
        for folder in unreadable:  # each would be an error of every `find`
            covered = folder.replace("/usr", f"{place}/machine", 1)
            tmpfs(covered, "size=4k,mode=755")

    def ready(self):
        """Waits until all is mounted that an episode's parts need."""

    def open(self, slot, owner, image, overlay, limits, userns=None):
        """Mounts what an episode needs; see `_slot.Slot.open`."""
        usr, root = self._system(slot, image, overlay, userns)
        folder = f"{self._place}/{slot}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        self._slots[slot] = Slot(folder, owner, self._xattrs, self._python)
        return self._slots[slot].open(usr, root, overlay, limits)

    def _system(self, slot, image, overlay, userns):
        """The unchanged /usr and, with an image, its root: with the owners inside."""
        source = "/usr" if image is None else self._where(image)
        target = (
            f"{self._place}/{slot}-{'usr' if image is None else image.encode().hex()}"
        )
        if userns is None and image is None:
            return f"{self._place}/machine", None
        with contextlib.suppress(FileExistsError):
            os.mkdir(target)
        if not os.path.ismount(target):
            try:
                if userns is None:
                    bind(source, target)
                else:
                    mount_mapped(source, target, userns)
            except OSError as error:
                if image is None and not overlay:
                    return f"{self._place}/machine", None
                raise OSError(
                    f"the owners of {image or source} cannot be mapped ({error})"
                ) from error
        return (target, None) if image is None else (f"{target}/usr", target)

    def _where(self, path):
        """A path of the machine, also where it lies below the place that is covered."""
        path = os.path.realpath(path)
        if os.path.commonpath((path, self._place)) == self._place:
            rest = os.path.relpath(path, self._place)
            return f"/proc/{os.getpid()}/fd/{self._under}/{rest}"
        return path

    def slot(self, slot, call, **words):
        """Calls a method of a slot."""
        return getattr(self._slots[slot], call)(**words)

    def close(self, slot):
        """Unmounts all of an episode."""
        made = self._slots.pop(slot, None)
        if made is not None:
            made.close()


def main(control_fd, parent_fd, settings):
    """Serves until the library closes its end or has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o022)
    control = socket.socket(fileno=control_fd)
    mounts = None
    poller = select.poll()
    for fd in (control_fd, parent_fd):
        poller.register(fd, select.POLLIN)
    while True:
        if any(fd == parent_fd for fd, _ in poller.poll()):
            return
        data, fds, _, _ = socket.recv_fds(control, MOST_BYTES, 2)
        if not data:
            return
        words = json.loads(data)
        try:
            if mounts is None:
                mounts = Mounts(**settings)
            if len(fds) > 1:
                words["userns"] = fds[1]
            reply = {"result": getattr(mounts, words.pop("do"))(**words)}
        except (OSError, ValueError, KeyError) as error:
            reply = {"error": str(error) or repr(error)}
        with contextlib.suppress(OSError), socket.socket(fileno=fds[0]) as sock:
            sock.sendall(json.dumps(reply).encode())
        for fd in fds[1:]:
            os.close(fd)
