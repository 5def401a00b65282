"""Gives a session its own programs back before it is judged.

An episode may change any file. What judges it, the benchmark's scripts, needs shell,
interpreters, tools, libraries and their configuration as they were; all else must stay
as the episode left it, for that is what is judged. So these are taken from their
source again, every other change remains:

- the programs and libraries of the system: content from the source, permissions as
  the episode left them (one problem is about the set-user-id bit of a program);
- commands of the same name put before them on PATH, and what was added to folders
  that libraries and interpreters load from;
- files of /etc that decide how programs and logins behave, and the login shells and
  login scripts of users.

Nothing of the episode runs meanwhile (its processes are dead or stopped). Symbolic
links that the episode made are never followed.
"""

import contextlib
import filecmp
import os
import shutil
import stat

from cycleqd_jax.sandbox import session_skeleton as skeleton

_COMMANDS = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin")
# Nothing that an episode adds to these can be part of an answer.
_LOADED_FROM = ("usr/lib", "usr/lib32", "usr/lib64", "usr/libexec", "usr/local/lib")
_UNWANTED = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ld.so.preload",
    "locale.alias",
    "pam.conf",
    "security",
    "sudo.conf",
)
_FOLDERS = ("etc", "proc", "dev", "sys", "usr")
_LOGIN_SCRIPTS = (
    ".bash_login",
    ".bash_profile",
    ".profile",
    ".bashrc",
    ".pam_environment",
)


class TamperedError(Exception):
    """The system cannot be judged any more; the episode has destroyed it."""


def repair(*, root, links, image, usr, users):
    """See the module.

    Args:
      root: the episode's root file system, without what is mounted in it.
      links: name -> target of the links in the root that lead into /usr, None for
        folders; empty with an image.
      image: the unchanged root file system of an image, or None.
      usr: the episode's /usr where that can be written to and there is no image.
      users: name -> login shell, as they were before the episode.

    Raises:
      TamperedError: a folder of the system is gone.
    """
    for name in _FOLDERS:
        _make_folder(f"{root}/{name}")
    if image:
        _restore_tree(
            image, root, "/data/upper", ("usr", "bin", "sbin", "lib", "lib64")
        )
        _restore_etc(root, image)
        _drop_shadows(root, f"{image}/usr", "")
    else:
        for name, target in links.items():
            _make_link(f"{root}/{name}", target)
        _make_folder(f"{root}/etc/alternatives")
        for name in sorted(os.listdir("/host/usr")):
            if stat.S_ISDIR(os.lstat(f"/host/usr/{name}").st_mode) and usr is None:
                _make_folder(f"{root}/usr/{name}")
        if usr:
            _restore_tree("/host/usr", usr, "/data/upper", (".",))
        _make_folder("/data/local/lib")
        for name in skeleton.LOCAL_FOLDERS:
            _make_folder(f"/data/local/{name}")
        _rewrite_etc(root)
        _drop_shadows("/data", "/host/usr", "usr/")
    _mend_users(root, users)


def read_users(root):
    """Name -> login shell of the users of this root, {} if that cannot be read."""
    return {f[0]: f[6] for f in _passwd(root)}


def _passwd(root):
    try:
        fd = os.open(f"{root}/etc/passwd", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    with open(fd, encoding="utf-8", errors="surrogateescape") as file:
        rows = [line.rstrip("\n").split(":") for line in file.read(2**20).split("\n")]
    return [row for row in rows if len(row) == 7]


def _mend_users(root, users):
    """Login shells and login scripts of all users but root."""
    rows = _passwd(root)
    changed = False
    for row in rows:
        wanted = users.get(row[0], "/bin/bash")
        if row[6] != wanted and row[6] not in ("/bin/bash", "/bin/sh"):
            row[6], changed = wanted, True
        if row[0] == "root" or not row[5].startswith("/"):
            continue
        home = _inside(root, row[5])
        if home is None:
            continue
        for name in _LOGIN_SCRIPTS:
            with contextlib.suppress(OSError):
                if not os.path.isdir(f"{home}/{name}"):
                    os.unlink(f"{home}/{name}")
    if changed:
        text = "".join(":".join(row) + "\n" for row in rows)
        write(f"{root}/etc/passwd", text.encode("utf-8", "surrogateescape"))


def _inside(root, path):
    """The folder `path` below `root` if no part of it is a link, else None."""
    place = root
    for part in path.strip("/").split("/"):
        place = f"{place}/{part}"
        try:
            if part in ("", "..") or not stat.S_ISDIR(os.lstat(place).st_mode):
                return None
        except OSError:
            return None
    return None if place == f"{root}/root" else place


def _rewrite_etc(root):
    for name in ("etc/default", "etc/pam.d", "etc/profile.d", "etc/skel"):
        if name in ("etc/pam.d", "etc/profile.d"):
            _remove(f"{root}/{name}")
        _make_folder(f"{root}/{name}")
    for name, text in skeleton.trusted_files().items():
        write(f"{root}/{name}", text.encode())
    for name in os.listdir(f"{root}/etc"):
        if name in _UNWANTED or name.startswith("python"):
            _remove(f"{root}/etc/{name}")


def _restore_etc(root, image):
    names = {name.split("/")[1] for name in skeleton.trusted_files()}
    names |= {"alternatives", *_UNWANTED}
    names |= {n for n in os.listdir(f"{root}/etc") if n.startswith("python")}
    for name in names - {"skel", "default"}:
        source, target = f"{image}/etc/{name}", f"{root}/etc/{name}"
        if _same_tree(source, target):
            continue
        _remove(target)
        if os.path.isdir(source) and not os.path.islink(source):
            shutil.copytree(source, target, symlinks=True)
        elif os.path.lexists(source):
            shutil.copy2(source, target, follow_symlinks=False)


def _same_tree(first, second):
    if not os.path.lexists(first) and not os.path.lexists(second):
        return True
    try:
        one, two = os.lstat(first), os.lstat(second)
    except OSError:
        return False
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(two.st_mode):
        return False
    if stat.S_ISLNK(one.st_mode):
        return os.readlink(first) == os.readlink(second)
    if stat.S_ISREG(one.st_mode):
        return filecmp.cmp(first, second, shallow=False)
    names = sorted(os.listdir(first))
    return names == sorted(os.listdir(second)) and all(
        _same_tree(f"{first}/{n}", f"{second}/{n}") for n in names
    )


def _restore_tree(source, merged, upper, names):
    """Gives what the overlay's upper layer changed its content from `source` again."""
    for name in names:
        if name == ".":
            _restore_folder(source, merged, upper, "")
        elif os.path.lexists(f"{upper}/{name}"):
            _restore_entry(source, merged, upper, f"/{name}")


def _restore_folder(source, merged, upper, path):
    with contextlib.suppress(OSError):
        if os.getxattr(f"{upper}{path}", "user.overlay.opaque") == b"y":
            raise TamperedError(f"{path or '/usr'} was removed and made again")
    for name in sorted(os.listdir(f"{upper}{path}")):
        _restore_entry(source, merged, upper, f"{path}/{name}")


def _restore_entry(source, merged, upper, path):
    try:
        was = os.lstat(f"{source}{path}")
    except FileNotFoundError:
        place = path if "usr" in path.split("/")[1:2] else f"/usr{path}"
        if any(place.startswith(f"/{folder}/") for folder in _LOADED_FROM):
            _remove(f"{merged}{path}")
        return
    now = os.lstat(f"{upper}{path}")
    if stat.S_ISDIR(was.st_mode):
        if not stat.S_ISDIR(now.st_mode):
            raise TamperedError(f"the folder {path} was removed")
        _restore_folder(source, merged, upper, path)
    elif stat.S_ISREG(was.st_mode) and stat.S_ISREG(now.st_mode):
        if not filecmp.cmp(f"{source}{path}", f"{upper}{path}", shallow=False):
            with open(f"{source}{path}", "rb") as file:
                content = file.read()
            write(f"{merged}{path}", content, stat.S_IMODE(now.st_mode))
    elif stat.S_ISLNK(was.st_mode) and stat.S_ISLNK(now.st_mode):
        if os.readlink(f"{source}{path}") != os.readlink(f"{upper}{path}"):
            _make_link(f"{merged}{path}", os.readlink(f"{source}{path}"))
    else:
        _remove(f"{merged}{path}")
        shutil.copy2(f"{source}{path}", f"{merged}{path}", follow_symlinks=False)


def _drop_shadows(root, usr, prefix):
    """Removes commands that hide one of the system's because they come first."""
    known = set()
    for name in ("bin", "sbin"):
        with contextlib.suppress(OSError):
            known.update(os.listdir(f"{usr}/{name}"))
    for folder in _COMMANDS:
        place = f"{root}/{folder.removeprefix(prefix)}"
        try:
            names = os.listdir(place)
        except OSError:
            continue
        for name in names:
            source = f"{usr}/{folder.removeprefix('usr/')}/{name}"
            if name in known and not os.path.lexists(source):
                _remove(f"{place}/{name}")
    if prefix:
        for name in os.listdir(f"{root}/local/lib"):
            _remove(f"{root}/local/lib/{name}")


def _remove(path):
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass


def _make_folder(path):
    """Makes sure that a folder is there, which is no link."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            return
        os.unlink(path)
    os.mkdir(path, 0o755)


def _make_link(path, target):
    """Makes sure that a link is there, or a folder where `target` is None."""
    if target is None:
        _make_folder(path)
    elif not os.path.islink(path) or os.readlink(path) != target:
        _remove(path)
        os.symlink(target, path)


def write(path, content, mode=0o644):
    """Writes a file anew, so that no other name of it and no link matters."""
    _remove(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        os.fchmod(fd, mode)
