"""Holds the file systems of a run's episodes, in a mount namespace that nobody sees.

`unshare` starts this; `holder.Holder` talks to it. When the library closes its end or
ends, so does this; what is mounted here is then gone with the last wall that shows it.
Each episode has a number, its slot, and a folder, which holds

    data          what the episode may write: in memory, of limited size and number
    tree          its root: `data/root`, or with an image that below `data/upper`
    usr           with `overlay`, its /usr: the machine's below `data/upper`
    pts           its terminals, of limited number
    trusted, ...  what it is looked at through once it has ended, see `_Slot.look`

Request: JSON with `do` and arguments; its descriptors are a socket for the reply and,
where we are root, the episode's user namespace. Reply: JSON.
"""

import contextlib
import json
import os
import select
import signal
import socket
import stat

from cycleqd_jax.sandbox import skeleton
from cycleqd_jax.sandbox._collect import START_TIME
from cycleqd_jax.sandbox.mounting import bind, mount, mount_mapped, unmount

MOST_BYTES = 2**16  # of a request
ACCOUNT_BYTES = 2**16  # of a file of accounts
_ROOM = "size=32m,nr_inodes=8k,mode=755"  # for what is written while it is looked at
_SYSTEM_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_OWN_FOLDERS = ("proc", "dev", "sys")
# Files that programs obey wherever they are. They are not seen by those that look.
_STEERING = (
    *("etc/ld.so.preload", "etc/ld.so.cache", "usr/pyvenv.cfg"),
    *("etc/pam.conf", "etc/sudo.conf"),
)
# Folders of an image that steer logins; others look without a login.
_LOGINS = ("etc/pam.d", "etc/security")
_ACCOUNTS = ("passwd", "group")  # read by many programs, unless they are no text


def tmpfs(target, options, owner=0):
    """Mounts a file system in memory."""
    mount("tmpfs", target, f"{options},uid={owner},gid={owner}")


class _Slot:
    """The file systems of one episode.

    Args:
      folder: a mount point for all of it.
      owner: of root inside, as it is called here.
      xattrs: how overlays may note what they need.
      python: (folder, place inside) of a Python that is not the system's, or None.
    """

    def __init__(self, folder, owner, xattrs, python):
        self._python = python
        self._folder = folder
        self._owner = owner
        self._xattrs = xattrs
        self._looks = {}
        tmpfs(folder, _ROOM)

    def open(self, usr, image, overlay, limits):
        """Mounts what an episode needs.

        Returns:
          `tree`, `usr` (None where it is read-only), `pts`: folders; `system`:
          (folder, place inside) of the system's own programs, unchanged; `own`: those
          of them that the episode cannot change; `python`: path inside.
        """
        folder = self._folder
        for name in ("data", "pts", "trusted", "up", "work"):
            os.mkdir(f"{folder}/{name}")
        size, entries = limits["scratch_bytes"], limits["scratch_entries"]
        options = f"size={size},nr_inodes={entries},mode=755"
        tmpfs(f"{folder}/data", options, self._owner)
        options = f"newinstance,ptmxmode=0666,mode=620,max={limits['terminals']}"
        mount("devpts", f"{folder}/pts", options)
        self._links = _links(image or "/")
        self._system = []
        for name in sorted({*os.listdir(usr)} - {"local"}):
            if os.path.islink(f"{usr}/{name}"):
                self._links[f"usr/{name}"] = os.readlink(f"{usr}/{name}")
            elif os.path.isdir(f"{usr}/{name}"):
                self._system.append((f"{usr}/{name}", f"/usr/{name}"))
        others = [name for name, link in self._links.items() if link is None]
        for name in (*others, "etc/alternatives", *(_LOGINS if image else ())):
            if os.path.isdir(f"{image or ''}/{name}"):
                self._system.append((f"{image or ''}/{name}", f"/{name}"))
        if self._python and image is None:
            self._system.append(self._python)
            link = f"{self._python[1]}/bin/python3"
            self._links["usr/local/bin/python3"] = link
        self._tree, self._usr = f"{folder}/data/root", None
        if image is None:
            self._write(self._tree, skeleton.FIRST, skeleton.files())
            for _, target in self._system:
                self._folders(self._tree, target)
            for above, folders, files in os.walk(self._tree):
                for name in (".", *folders, *files):
                    times = (START_TIME, START_TIME)
                    os.utime(f"{above}/{name}", times, follow_symlinks=False)
        if image or overlay:
            merged = f"{folder}/merged"
            os.mkdir(merged)
            for name in ("upper", "work"):
                self._folders(f"{folder}/data", f"/{name}")
            self._overlay(merged, [image or usr], f"{folder}/data", "upper")
            if image:
                self._tree = merged
            else:
                self._usr = merged
        self._names, _ = skeleton.files()["etc/nsswitch.conf"]
        if image:
            with (
                contextlib.suppress(OSError),
                open(f"{image}/etc/nsswitch.conf") as file,
            ):
                self._names = file.read(4096)
        own = [] if image else self._system
        if overlay:
            own = [pair for pair in own if not pair[1].startswith("/usr/")]
        python = "/usr/bin/python3"
        if self._python and image is None:
            python = f"{self._python[1]}/bin/python3"
        return {
            "tree": self._tree,
            "usr": self._usr,
            "pts": f"{folder}/pts",
            "system": self._system,
            "own": own,
            "python": python,
        }

    def _write(self, root, folders, files):
        """Writes what an episode starts with."""
        self._folders(os.path.dirname(root), f"/{os.path.basename(root)}")
        for name, mode in folders.items():
            self._folders(root, f"/{name}")
            os.chmod(f"{root}/{name}", mode)
        links = {name: link for name, link in self._links.items() if link is not None}
        for name, target in {**skeleton.LINKS, **links}.items():
            os.symlink(target, f"{root}/{name}")
            os.lchown(f"{root}/{name}", self._owner, self._owner)
        for name, (text, mode) in files.items():
            self._file(f"{root}/{name}", text, mode)

    def _folders(self, root, path):
        """Makes a folder below a root, with those above it."""
        for part in path.strip("/").split("/"):
            root = f"{root}/{part}"
            with contextlib.suppress(FileExistsError):
                os.mkdir(root, 0o755)
                os.chown(root, self._owner, self._owner)

    def _file(self, path, text, mode):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "w", encoding="latin-1") as file:
            file.write(text)
            os.fchown(fd, self._owner, self._owner)
            os.fchmod(fd, mode)

    def _overlay(self, target, lower, room, upper, execute=True):
        """Shows the folders `lower`, the first on top; changes go into `upper`."""
        options = f"lowerdir={':'.join(lower)},upperdir={room}/{upper}"
        options += f",workdir={room}/work{self._xattrs}"
        mount("overlay", target, options, execute=execute)

    def look(self, name, execute):
        """Shows what an episode has left, below what it cannot have touched.

        All places where the system's own folders are mounted are real folders of
        `trusted`, which lies over the episode's tree: no link that it made leads them
        elsewhere. Changes go nowhere.

        Args:
          name: equal names show the same.
          execute: whether files of the episode can be executed.

        Returns:
          `root`, `usr` (or None): folders.
        """
        if name not in self._looks:
            trusted = self._trusted()
            made = {"root": self._view(name, [trusted, self._tree], execute)}
            below = [f"{trusted}/usr", self._usr]
            made["usr"] = self._usr and self._view(f"{name}-usr", below, execute)
            self._looks[name] = made
        return self._looks[name]

    def _view(self, name, lower, execute):
        room = f"{self._folder}/up/{name}"
        for part in ("", "/upper", "/work", "/view"):
            os.mkdir(f"{room}{part}", 0o755)
        # The upper folder gives the merged one its owner and permissions.
        os.chown(f"{room}/upper", self._owner, self._owner)
        os.chmod(f"{room}/upper", stat.S_IMODE(os.lstat(lower[-1]).st_mode))
        self._overlay(f"{room}/view", lower, room, "upper", execute)
        return f"{room}/view"

    def bare(self):
        """Shows the system's own programs, and nothing of the episode."""
        return {"root": self._trusted(), "usr": None}

    def _trusted(self):
        root = f"{self._folder}/trusted"
        if os.listdir(root):
            return root
        os.chown(root, self._owner, self._owner)
        for path in (*(target for _, target in self._system), *_OWN_FOLDERS):
            self._folders(root, path)
        for name, link in self._links.items():
            if link is not None and not name.startswith("usr/local/"):
                os.symlink(link, f"{root}/{name}")
                os.lchown(f"{root}/{name}", self._owner, self._owner)
        self._folders(root, "etc")
        hidden = [f"etc/{n}" for n in _ACCOUNTS if self._read("etc", n) is None]
        for name in (*_STEERING, *hidden):  # the sign of an overlay for "not there"
            os.mknod(f"{root}/{name}", stat.S_IFCHR, 0)
        self._file(f"{root}/etc/nsswitch.conf", self._names, 0o644)
        return root

    def accounts(self):
        """The texts of the episode's /etc/passwd and /etc/group, or None."""
        return [self._read("etc", name) for name in _ACCOUNTS]

    def _read(self, *parts):
        """A small file; no part of its path may be a link."""
        try:
            fd = _open_inside(self._tree, parts)
            with open(fd, "rb") as file:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    return None
                data = file.read(ACCOUNT_BYTES + 1)
        except OSError:
            return None
        if len(data) > ACCOUNT_BYTES or b"\0" in data:
            return None
        return data.decode("latin-1")

    def stand_in(self, path):
        """An empty file with owner and permissions of one of the system that it has.

        Returns:
          Its path here, or None where there is no such file.
        """
        root, parts = self._tree, path.strip("/").split("/")
        if self._usr and parts[0] == "usr":
            root, parts = self._usr, parts[1:]
        try:
            *folders, name = parts
            fd = _open_inside(root, folders, os.O_DIRECTORY)
        except OSError:
            return None
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError:
            return None
        finally:
            os.close(fd)
        if not stat.S_ISREG(status.st_mode):
            return None
        made = f"{self._folder}/stand-in-{path.replace('/', '-')}"
        if not os.path.exists(made):
            self._file(made, "", 0o600)
            os.chown(made, status.st_uid, status.st_gid)
            os.chmod(made, stat.S_IMODE(status.st_mode))
        return made

    def close(self):
        """Unmounts all of it."""
        unmount(self._folder)


def _open_inside(root, parts, flags=0):
    """Opens a path below a root; no part of it may be a link."""
    flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        kind = flags if last else flags | os.O_DIRECTORY
        try:
            below = os.open(part, kind, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _links(root):
    """Name -> target of links in a root that lead into /usr; None for folders."""
    there = [name for name in _SYSTEM_LINKS if os.path.lexists(f"{root}/{name}")]
    links = [name for name in there if os.path.islink(f"{root}/{name}")]
    return dict.fromkeys(there) | {n: os.readlink(f"{root}/{n}") for n in links}


class Mounts:
    """All file systems of a run.

    Args:
      place: a folder of the machine that is covered, for us alone.
      as_root: whether we are root outside, and episodes are not.
      python: see `_Slot`.
      unreadable: folders of the machine below /usr that nobody here may read.
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
        """Mounts what an episode needs; see `_Slot.open`."""
        usr, root = self._system(slot, image, overlay, userns)
        folder = f"{self._place}/{slot}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        self._slots[slot] = _Slot(folder, owner, self._xattrs, self._python)
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
