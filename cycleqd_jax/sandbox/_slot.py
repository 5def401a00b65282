"""The file systems of one episode; part of the process that holds them (`_holder`).

An episode has a folder, which holds

    data          what the episode may write: in memory, of limited size and number
    tree          its root: `data/root`, or with an image that below `data/upper`
    usr           with `overlay`, its /usr: the machine's below `data/upper`
    pts           its terminals, of limited number
    trusted, ...  what it is looked at through once it has ended, see `Slot.look`
"""

import contextlib
import os
import shutil
import stat

from cycleqd_jax.sandbox import skeleton
from cycleqd_jax.sandbox._collect import START_TIME
from cycleqd_jax.sandbox._inside import (
    read_folder_texts,
    read_text,
    resolved_status,
)
from cycleqd_jax.sandbox.mounting import mount, unmount

_ROOM = "size=32m,nr_inodes=8k,mode=755"  # for what is written while it is looked at
_SYSTEM_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_OWN_FOLDERS = ("proc", "dev", "sys")
# Files that programs obey wherever they are. Those that look see the image's, or none.
_STEERING = (
    *("etc/ld.so.preload", "etc/ld.so.cache", "usr/pyvenv.cfg"),
    *("etc/pam.conf", "etc/sudo.conf"),
)
# Folders of an image that steer logins; others look without a login.
_LOGINS = ("etc/pam.d", "etc/security")
_SUDOERS = "etc/sudoers"  # and the folder etc/sudoers.d
_ACCOUNTS = ("passwd", "group")  # read by many programs, unless they are no text


def tmpfs(target, options, owner=0):
    """Mounts a file system in memory."""
    mount("tmpfs", target, f"{options},uid={owner},gid={owner}")


class Slot:
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
        """Mounts what an episode needs, and says where it is.

        `tree`, `usr` (None where it is read-only) and `pts` are folders; `system` has
        (folder, place inside) of the system's own programs, unchanged; `own` those of
        them that the episode cannot change; `python` is a path inside.
        """
        folder = self._folder
        for name in ("data", "pts", "trusted", "up", "work"):
            os.mkdir(f"{folder}/{name}")
        size, entries = limits["scratch_bytes"], limits["scratch_entries"]
        options = f"size={size},nr_inodes={entries},mode=755"
        tmpfs(f"{folder}/data", options, self._owner)
        options = f"newinstance,ptmxmode=0666,mode=620,max={limits['terminals']}"
        mount("devpts", f"{folder}/pts", options)
        self._image = image
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
        self._names = image and read_text(image, "etc/nsswitch.conf")
        if self._names is None:
            self._names = skeleton.NAMES
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

    def _copy(self, source, path):
        """A file of the image, unchanged."""
        shutil.copy2(source, path)
        os.chown(path, self._owner, self._owner)

    def _overlay(self, target, lower, room, upper, execute=True):
        """Shows the folders `lower`, the first on top; changes go into `upper`."""
        options = f"lowerdir={':'.join(lower)},upperdir={room}/{upper}"
        options += f",workdir={room}/work{self._xattrs}"
        mount("overlay", target, options, execute=execute)

    def look(self, name, execute):
        """Shows what an episode has left, below what it cannot have touched.

        All places where the system's own folders are mounted are real folders of
        `trusted`, which lies over the episode's tree: no link that it made leads them
        elsewhere. Changes go nowhere; equal names show the same. With `execute` its
        files can be executed. `root` and `usr` (or None) are folders.
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
        paths = [f"etc/{name}" for name in _ACCOUNTS]
        hidden = [path for path in paths if read_text(self._tree, path) is None]
        for name in (*_STEERING, *hidden):
            if name in _STEERING and self._image and _is_file(self._image, name):
                self._copy(f"{self._image}/{name}", f"{root}/{name}")
            else:  # the sign of an overlay for "not there"
                os.mknod(f"{root}/{name}", stat.S_IFCHR, 0)
        self._file(f"{root}/etc/nsswitch.conf", self._names, 0o644)
        return root

    def accounts(self):
        """The texts of the episode's /etc/passwd and /etc/group, or None."""
        return [read_text(self._tree, f"etc/{name}") for name in _ACCOUNTS]

    def sudoers(self):
        """The texts that steer sudo, of the episode and of its image; None for no text.

        One of the episode is no text, too, where sudo would follow a link to it.
        """
        return [read_folder_texts(root, _SUDOERS) for root in (self._tree, self._image)]

    def stand_in(self, path):
        """Path of an empty file with owner and permissions of one of the system's.

        They are those of the file that the path led to in the episode. None where it
        has no such file any more.
        """
        status = resolved_status(self._place, path)
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        made = f"{self._folder}/stand-in-{path.replace('/', '-')}"
        if not os.path.exists(made):
            self._file(made, "", 0o600)
            os.chown(made, status.st_uid, status.st_gid)
            os.chmod(made, stat.S_IMODE(status.st_mode))
        return made

    def _place(self, inside):
        """Path for this process of a path inside the episode that has no links."""
        if self._usr and (inside == "usr" or inside.startswith("usr/")):
            return f"{self._usr}{inside.removeprefix('usr')}"
        return f"{self._tree}/{inside}"

    def close(self):
        """Unmounts all of it."""
        unmount(self._folder)


def _links(root):
    """Name -> target of links in a root that lead into /usr; None for folders."""
    there = [name for name in _SYSTEM_LINKS if os.path.lexists(f"{root}/{name}")]
    links = [name for name in there if os.path.islink(f"{root}/{name}")]
    return dict.fromkeys(there) | {n: os.readlink(f"{root}/{n}") for n in links}


def _is_file(root, path):
    return os.path.isfile(f"{root}/{path}") and not os.path.islink(f"{root}/{path}")
