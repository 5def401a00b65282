"""Inspects this machine for bubblewrap: paths, user ids, permissions."""

import dataclasses
import marshal
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox import permission
from cycleqd_jax.sandbox.seccomp import deny_filter

SEARCH_PATH = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin"
WORK_FOLDER = "/box/work"
_SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_TOOLS = ("setpriv", "prlimit", "unshare", "nsenter")
_SYSTEM_FILES = ("/etc/alternatives", "/etc/ld.so.cache")
_FIRST_UID = 62_000  # in systemd's range for transient users, 61184 to 65519
_LAST_UID = 65_519
_SHM_BYTES = 2**20
# The modules of process 1; each imports only earlier ones, and the last has `main`.
_PARTS = ("_collect", "_watch", "shell_mark", "shell_output", "_shell", "_first")
_COMPILE = """
import marshal, sys
parts = marshal.load(sys.stdin.buffer)
compiled = [(name, compile(source, name, "exec")) for name, source in parts]
sys.stdout.buffer.write(marshal.dumps(compiled))
"""


@dataclasses.dataclass(frozen=True)
class Host:
    """Facts of the machine that the start of bubblewrap depends on.

    Attributes:
      bwrap: path of bubblewrap.
      setpriv: path of setpriv, outside and inside the sandbox.
      prlimit: path of prlimit, inside.
      python: path of the sandbox's Python.
      search_path: the sandbox's PATH.
      mounts: bubblewrap arguments for the read-only system.
      as_root: whether each worker first changes to its own unprivileged user id.
      own_processes: processes of the sandbox that count towards the program's limit.
      seccomp: system call filter; empty if there is none for this machine.
      code: of process 1, compiled for `python`.
      plain_code: the same, for any Python.
    """

    bwrap: str
    setpriv: str
    prlimit: str
    python: str
    search_path: str
    mounts: tuple[str, ...]
    as_root: bool
    own_processes: int
    seccomp: bytes
    code: bytes = b""
    plain_code: bytes = b""

    def uid(self, slot: int) -> int | None:
        """The user id of worker `slot`; None if not started as root."""
        return _FIRST_UID + slot if self.as_root else None

    @property
    def drop_capability(self) -> tuple[str, ...]:
        """Start of a command line that drops the capability of process 1."""
        return (self.setpriv, "--inh-caps=-all", "--ambient-caps=-all", "--")

    def command(
        self,
        *,
        uid: int | None,
        scratch_bytes: int,
        files: Mapping[str, int],
        seccomp: int | None = None,
    ) -> list[str]:
        """Words that create a sandbox; `--` and the program come behind them.

        Args:
          uid: user id to change to, or None.
          scratch_bytes: size of the private file system.
          files: path inside -> file descriptor of its content.
          seccomp: file descriptor of the filter, or None.
        """
        drop = [self.setpriv, f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        command = [*drop, "--"] if uid is not None else []
        command += [self.bwrap, "--unshare-all", "--unshare-user", "--disable-userns"]
        # Not --die-with-parent: bubblewrap killed during set-up leaves its child
        # waiting for ever. Process 1 notices our end itself.
        command += ["--new-session", "--as-pid-1"]
        command += ["--uid", "1000", "--gid", "1000", "--hostname", "sandbox"]
        # A capability that the program lacks makes process 1 untraceable; with this one
        # it can also read files that the program made unreadable.
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_DAC_READ_SEARCH"]
        command += self.mounts
        command += ["--proc", "/proc", "--dev", "/dev"]
        # Pseudo terminals are limited for the machine only, not for one program.
        command += ["--perms", "0555", "--tmpfs", "/dev/pts"]
        command += ["--remount-ro", "/dev/pts"]
        # /proc/keys would list the key rings of the user who started us.
        command += ["--ro-bind-try", "/dev/null", "/proc/keys"]
        # Covers the folder of process 1, in which its user could change its OOM score.
        command += ["--perms", "0555", "--tmpfs", "/proc/1", "--remount-ro", "/proc/1"]
        command += ["--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm"]
        command += ["--size", str(scratch_bytes), "--tmpfs", "/box"]
        command += ["--dir", WORK_FOLDER, "--dir", "/box/tmp"]
        command += ["--symlink", "box/tmp", "/tmp"]
        for path, fd in files.items():
            command += ["--perms", "0444", "--ro-bind-data", str(fd), path]
        command += ["--remount-ro", "/dev", "--remount-ro", "/"]
        if seccomp is not None:
            command += ["--seccomp", str(seccomp)]
        command += ["--chdir", WORK_FOLDER, "--clearenv"]
        for name, value in self.environment.items():
            command += ["--setenv", name, value]
        return command

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a program."""
        return {
            "PATH": self.search_path,
            "HOME": WORK_FOLDER,
            "USER": "user",
            "LOGNAME": "user",
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "TMPDIR": "/tmp",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONNOUSERSITE": "1",
        }


def inspect_host(workers: int) -> Host:
    """Finds bubblewrap and its tools, and creates one sandbox as a test.

    Args:
      workers: number of user ids needed when started as root.

    Raises:
      BadInputError: something is missing, too old, or present but not permitted.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise BadInputError(
            "sandbox: the command bwrap (bubblewrap) was not found on PATH; install it "
            "(Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install bubblewrap)"
        )
    tools = {name: shutil.which(name, path="/usr/bin:/bin") for name in _TOOLS}
    if missing := [name for name, path in tools.items() if path is None]:
        raise BadInputError(
            f"sandbox: the command {missing[0]} was not found in /usr/bin or /bin; "
            "install it (Debian, Ubuntu: apt install util-linux)"
        )
    as_root = is_root()
    if as_root and _FIRST_UID + workers - 1 > _LAST_UID:
        raise BadInputError(
            f"sandbox: as root at most {_LAST_UID - _FIRST_UID + 1} workers get their "
            f"own user id, got {workers}; set sandbox.workers lower"
        )
    python, path, mounts = _system(Path("/"))
    host = Host(
        bwrap=bwrap,
        setpriv=tools["setpriv"],
        prlimit=tools["prlimit"],
        python=python,
        search_path=path,
        mounts=mounts,
        as_root=as_root,
        own_processes=_own_processes(as_root),
        seccomp=deny_filter(),
    )
    plain = marshal.dumps(_sources(_PARTS), 2)
    return dataclasses.replace(host, code=_compile(host, plain), plain_code=plain)


def is_root() -> bool:
    """True if this process is the machine's root, who may take any user id.

    The root of a user namespace, like a rootless container's, is an ordinary user
    outside it.
    """
    ids = Path("/proc/self/uid_map").read_text().split()
    return os.geteuid() == 0 and ids == ["0", "0", str(2**32 - 1)]


def _own_processes(as_root: bool) -> int:
    """Processes of the sandbox that count towards a program's RLIMIT_NPROC.

    Since Linux 5.14 the kernel counts per user and namespace, before that per user.
    """
    release = platform.release()
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers is None or (int(numbers[1]), int(numbers[2])) >= (5, 14):
        return 1  # process 1
    if as_root:
        return 2  # and bubblewrap, which has the same user id
    raise BadInputError(
        f"sandbox: Linux {release} counts processes per user, not per sandbox, so the "
        "limit on processes would not work; use Linux 5.14 or later, or start as root, "
        "where each worker has its own user id"
    )


def _system(root: Path) -> tuple[str, str, tuple[str, ...]]:
    """(Python, PATH, mounts) of the read-only system under `root`."""
    mounts = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM_FOLDERS:
        folder = root / name
        if folder.is_symlink():
            mounts += ["--symlink", os.readlink(folder), f"/{name}"]
        elif folder.is_dir():
            mounts += ["--ro-bind", str(folder), f"/{name}"]
    for file in _SYSTEM_FILES:
        mounts += ["--ro-bind-try", file, file]
    if (root / "usr/bin/python3").exists():
        return "/usr/bin/python3", SEARCH_PATH, tuple(mounts)
    prefix = os.path.realpath(sys.base_prefix)
    if not prefix.startswith("/usr/"):
        mounts += ["--ro-bind", prefix, prefix]
    python = f"{prefix}/bin/python3"
    return python, f"{prefix}/bin:{SEARCH_PATH}", tuple(mounts)


def _compile(host: Host, source: bytes) -> bytes:
    """Compiles process 1 inside a sandbox, with its Python.

    The sandbox is started like those of programs, so this also tests it.
    """
    command = host.command(uid=host.uid(0), scratch_bytes=2**20, files={})
    command += ["--", *host.drop_capability, host.python, "-I", "-S", "-c", _COMPILE]
    status, output, errors = permission.start(command, source)
    if status == 0 and output:
        return output
    lines = errors.decode(errors="replace").strip().splitlines()
    said = lines[-1] if lines else f"exit status {status}"
    raise BadInputError(
        f"sandbox: {host.bwrap} is installed but could not create a sandbox "
        f"({said}); {permission.remedy(said, _FIRST_UID)}"
    )


def _sources(names: Sequence[str]) -> list[tuple[str, bytes]]:
    folder = Path(__file__).parent
    return [(f"{__package__}.{n}", (folder / f"{n}.py").read_bytes()) for n in names]
