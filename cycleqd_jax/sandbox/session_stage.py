"""The file systems of one session: staged once, then put together for each process.

The supervisor's own root is the stage, which no process of the episode ever sees:

    /host/...   what comes from the machine: /usr, device nodes, read-only
    /image      the root file system of an image, or nothing
    /data       one memory file system, with the limit on size and number of files
    /proc       of the session's process namespace
    /view       where a child, in a mount namespace of its own, puts a root together

`Stage.enter` puts the root together: for the model's commands, for the benchmark's
scripts, or for judging, where all that is not the episode's to change comes from the
machine or the image again (see `session_repair`).
"""

import contextlib
import os
import stat

from cycleqd_jax.sandbox import session_kernel as kernel
from cycleqd_jax.sandbox import session_repair as repair
from cycleqd_jax.sandbox import session_skeleton as skeleton

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_SYSTEM_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_HIDDEN_FILES = ("keys", "key-users", "sysrq-trigger", "timer_list", "kallsyms")
_HIDDEN_FOLDERS = ("tty/driver", "scsi")
_SHOWN_OF_FIRST = ("cmdline", "comm", "stat", "statm", "status")
_STAGE_BYTES, _STAGE_FILES = 2**20, 512
_PRIVATE = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
_ROOM_BYTES, _ROOM_ENTRIES = 2**25, 2**12
_SHM_BYTES = 2**20
_CPU = "/sys/devices/system/cpu"


class Stage:
    """See the module.

    Args:
      request: `scratch_bytes`, `scratch_entries`, `overlay` (whether `/usr` or the
        image can be written to), `image` (whether there is one), `python` (a folder
        that has one for /usr/local, or None).
      trees: name ("usr", "image") -> descriptor of a detached mount with the owners
        of this user namespace; a name that is missing is bound as it is.
      image_fd: descriptor of the image's folder, or None.
    """

    def __init__(self, request, trees, image_fd):
        self.request = request
        self.overlay = request["overlay"]
        self.image = request["image"]
        kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        limits = f"size={_STAGE_BYTES},nr_inodes={_STAGE_FILES},mode=755"
        image = f"/proc/self/fd/{image_fd}" if image_fd is not None else None
        links = {
            name: os.readlink(f"/{name}") if os.path.islink(f"/{name}") else None
            for name in _SYSTEM_LINKS
            if os.path.lexists(f"/{name}")
        }
        # /tmp is only the place: nothing of it is used, and it is covered for us alone.
        stage = "/tmp"
        kernel.mount("tmpfs", stage, "tmpfs", kernel.MS_NODEV, limits)
        for name in ("host", "host/usr", "host/dev", "host/cpu", "host/local", "image"):
            os.mkdir(f"{stage}/{name}", 0o755)
        for name in ("data", "proc", "view", "usr", "root"):
            os.mkdir(f"{stage}/{name}", 0o755)
        self._links = links
        self._folders = [name for name, target in links.items() if target is None]
        if self.image:
            self._attach(trees.get("image"), image, f"{stage}/image")
        else:
            self._attach(trees.get("usr"), "/usr", f"{stage}/host/usr")
            for name in self._folders:
                os.mkdir(f"{stage}/host/{name}")
                kernel.bind(f"/{name}", f"{stage}/host/{name}", read_only=True)
            for name in ("alternatives",):
                os.mkdir(f"{stage}/host/{name}")
                if os.path.isdir(f"/etc/{name}"):
                    kernel.bind(f"/etc/{name}", f"{stage}/host/{name}", read_only=True)
            for folder in request["unreadable"]:
                place = f"{stage}/host{folder}"
                kernel.mount("tmpfs", place, "tmpfs", _PRIVATE, "size=4k,mode=755")
            if request["python"]:
                self._attach(None, request["python"], f"{stage}/host/local")
        for name in _DEVICES:
            _touch(f"{stage}/host/dev/{name}")
            kernel.bind(f"/dev/{name}", f"{stage}/host/dev/{name}")
        with contextlib.suppress(OSError):
            kernel.bind(_CPU, f"{stage}/host/cpu", read_only=True)
        limits = (
            f"size={request['scratch_bytes']},nr_inodes={request['scratch_entries']},"
            "mode=755"
        )
        kernel.mount("tmpfs", f"{stage}/data", "tmpfs", kernel.MS_NODEV, limits)
        kernel.mount("proc", f"{stage}/proc", "proc", _PRIVATE)
        _cover_proc(f"{stage}/proc", f"{stage}/host/dev/null")
        os.chdir(stage)
        kernel.enter_root(stage)
        self._make_data()

    @staticmethod
    def _attach(tree, folder, target):
        if tree is not None:
            kernel.attach_tree(tree, target)
            os.close(tree)
            kernel.mount(
                "none",
                target,
                None,
                kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY | kernel.MS_NODEV,
            )
        else:
            kernel.bind(folder, target, read_only=True)

    def _make_data(self):
        """Writes what the session starts with, and mounts what can be written to."""
        if self.image:
            self._overlay("/image", "/root")
            for name in ("etc/hostname", "etc/hosts"):  # an image has none of its own
                with contextlib.suppress(OSError):
                    repair.write(f"/root/{name}", skeleton.files()[name][0].encode())
            return
        root = "/data/root"
        os.mkdir(root, 0o755)
        for name in skeleton.FOLDERS:
            os.mkdir(f"{root}/{name}", 0o755)
        for name in skeleton.OPEN_FOLDERS:
            os.chmod(f"{root}/{name}", 0o1777)
        os.chmod(f"{root}/root", 0o700)
        for name, target in skeleton.LINKS.items():
            os.symlink(target, f"{root}/{name}")
        os.mkdir(f"{root}/etc/alternatives")
        for name, (text, mode) in skeleton.files().items():
            fd = os.open(f"{root}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            os.write(fd, text.encode())
            os.close(fd)
        for name, target in self._links.items():
            if target is None:
                os.mkdir(f"{root}/{name}", 0o755)
            else:
                os.symlink(target, f"{root}/{name}")
        os.mkdir("/data/local", 0o755)
        for name in skeleton.LOCAL_FOLDERS:
            os.mkdir(f"/data/local/{name}", 0o755)
        if self.overlay:
            self._overlay("/host/usr", "/usr")
        else:
            self._usr_names = sorted(os.listdir("/host/usr"))
            for name in self._usr_names:
                if stat.S_ISDIR(os.lstat(f"/host/usr/{name}").st_mode):
                    os.mkdir(f"{root}/usr/{name}", 0o755)

    def _overlay(self, lower, target):
        os.mkdir("/data/upper", 0o755)
        os.mkdir("/data/work", 0o755)
        data = f"lowerdir={lower},upperdir=/data/upper,workdir=/data/work,userxattr"
        kernel.mount("overlay", target, "overlay", kernel.MS_NODEV, data)

    def enter(self, *, judging=False, read_only=False):
        """In a child: puts a root together and makes it its own.

        Args:
          judging: True to take all that is not the episode's from its source again;
            `repair` must have been called before.
          read_only: True to forbid changes to all but /tmp, /dev and /run.
        """
        kernel.unshare(kernel.CLONE_NEWNS)
        view = "/view"
        kernel.bind("/root" if self.image else "/data/root", view)
        if not self.image:
            self._mount_usr(view)
        self._mount_devices(f"{view}/dev")
        kernel.mount("/proc", f"{view}/proc", None, kernel.MS_BIND | kernel.MS_REC)
        if not self.image:
            with contextlib.suppress(OSError):
                folder = f"{view}/sys"
                kernel.mount("tmpfs", folder, "tmpfs", _PRIVATE, "size=64k,mode=755")
                os.makedirs(f"{folder}/devices/system/cpu")
                kernel.bind("/host/cpu", f"{folder}/devices/system/cpu")
                _remount(folder, kernel.MS_RDONLY | _PRIVATE)
        if judging:
            _remount(f"{view}/proc", kernel.MS_RDONLY | _PRIVATE)
        if read_only:
            for name in ("tmp", "run"):
                if os.path.isdir(f"{view}/{name}") and not os.path.islink(
                    f"{view}/{name}"
                ):
                    kernel.bind(f"{view}/{name}", f"{view}/{name}")
            _remount(view, kernel.MS_RDONLY | kernel.MS_NODEV)
            if not self.image:
                _remount(f"{view}/usr/local", kernel.MS_RDONLY | kernel.MS_NODEV)
            if self.overlay and not self.image:
                _remount(f"{view}/usr", kernel.MS_RDONLY | kernel.MS_NODEV)
        kernel.enter_root(view)

    def make_room(self):
        """Before judging: an episode that has filled its files leaves room again."""
        size = self.request["scratch_bytes"] + _ROOM_BYTES
        entries = self.request["scratch_entries"] + _ROOM_ENTRIES
        flags = kernel.MS_REMOUNT | kernel.MS_NODEV
        data = f"size={size},nr_inodes={entries}"
        kernel.mount("none", "/data", None, flags, data)

    def repair(self, users):
        """Before judging: see `session_repair`."""
        root = "/root" if self.image else "/data/root"
        repair.repair(
            root=root,
            links=self._links if not self.image else {},
            image="/image" if self.image else None,
            usr="/usr" if self.overlay else None,
            users=users,
        )

    def _mount_usr(self, view):
        usr = f"{view}/usr"
        if self.overlay:
            kernel.bind("/usr", usr)
        else:
            for name in self._usr_names:
                if os.path.isdir(f"{usr}/{name}"):
                    flags = kernel.MS_BIND | kernel.MS_REC
                    kernel.mount(f"/host/usr/{name}", f"{usr}/{name}", None, flags)
        kernel.bind("/data/local", f"{usr}/local")
        if self.request["python"]:
            for name in ("bin", "lib"):
                kernel.bind(f"/host/local/{name}", f"{usr}/local/{name}")
        for name in self._folders:
            kernel.bind(f"/host/{name}", f"{view}/{name}")
        kernel.bind("/host/alternatives", f"{view}/etc/alternatives")

    @staticmethod
    def _mount_devices(folder):
        flags = kernel.MS_NOSUID | kernel.MS_NOEXEC
        kernel.mount("tmpfs", folder, "tmpfs", flags, "size=64k,mode=755")
        for name in _DEVICES:
            _touch(f"{folder}/{name}")
            kernel.bind(f"/host/dev/{name}", f"{folder}/{name}")
        for name, target in _DEVICE_LINKS.items():
            os.symlink(target, f"{folder}/{name}")
        for name in ("pts", "shm"):
            os.mkdir(f"{folder}/{name}", 0o755)
        kernel.mount(
            "tmpfs",
            f"{folder}/shm",
            "tmpfs",
            flags | kernel.MS_NODEV,
            f"size={_SHM_BYTES},nr_inodes=1024,mode=1777",
        )
        options = "newinstance,ptmxmode=0666,mode=620,gid=5"
        try:
            kernel.mount("devpts", f"{folder}/pts", "devpts", flags, options)
        except OSError:  # a namespace with one group only
            options = options.removesuffix(",gid=5")
            kernel.mount("devpts", f"{folder}/pts", "devpts", flags, options)


def _cover_proc(proc, null):
    """Hides what says something of the machine or can be opened by nobody here.

    Of process 1 only what `ps` shows is left: its folder belongs to root outside, and
    every `find /` would complain about it.
    """
    for name in _HIDDEN_FILES:
        with contextlib.suppress(OSError):
            kernel.bind(null, f"{proc}/{name}")
    shown = {}
    for name in _SHOWN_OF_FIRST:
        with open(f"{proc}/1/{name}", "rb") as file:
            shown[name] = file.read()
    for folder, files in (("1", shown), *((name, {}) for name in _HIDDEN_FOLDERS)):
        place = f"{proc}/{folder}"
        if not os.path.isdir(place):
            continue
        kernel.mount(
            "tmpfs", place, "tmpfs", _PRIVATE, "size=32k,nr_inodes=16,mode=555"
        )
        for name, content in files.items():
            _touch(f"{place}/{name}")
            with open(f"{place}/{name}", "wb") as file:
                file.write(content)
        _remount(place, kernel.MS_RDONLY | _PRIVATE)


def _remount(target, flags):
    kernel.mount("none", target, None, kernel.MS_BIND | kernel.MS_REMOUNT | flags)


def _touch(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
