"""What a run of a program could leave behind on this machine. No test module."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cycleqd_jax

PR_SET_CHILD_SUBREAPER = 36
ORDINARY_UID = "54321"
AS_ROOT = os.geteuid() == 0
WHO = ["root", "user"] if AS_ROOT else ["user"]


def drive(script: Path, who: str, *words: str, timeout_s: float) -> str:
    """Runs a script as `who` in a fresh folder and returns what it printed.

    Args:
      script: gets the user id to take (`-` for who we are) and `words` as arguments;
        its working folder and `TMPDIR` are empty, and nobody mounts in its sight.
      who: "root" or "user".
      words: arguments.
      timeout_s: seconds until it is given up.
    """
    uid = ORDINARY_UID if AS_ROOT and who == "user" else "-"
    command = [sys.executable, str(script), uid, *words]
    if AS_ROOT and shutil.which("unshare"):
        command = ["unshare", "--mount", "--propagation", "private", "--", *command]
    # Not pytest's own folder, which other users cannot enter.
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top)
        folder.chmod(0o755)
        work, temporary = folder / "work", folder / "temporary"
        for path in (work, temporary):
            path.mkdir()
            path.chmod(0o777)
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(cycleqd_jax.__file__).parents[1]),
            "TMPDIR": str(temporary),
        }
        done = subprocess.run(
            command,
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def become(uid: str) -> None:
    """Gives up root for the user `uid`, and adopts what loses its parent."""
    if uid != "-":
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))
    # Whatever loses its parent becomes our child and is seen.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def processes(token: str) -> list[str]:
    """Living processes with `token` in their command line: PID, a colon, the line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if token in line:
                found.append(f"{file.parent.name}: {line[-200:]}")
    return found


def children() -> list[str]:
    """Our children, zombies and those that lost their parent too."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(f"{file} {fields[0]}")
    return found


def state() -> dict[str, list[str]]:
    """What a run may not change."""
    ipc = [Path(f"/proc/sysvipc/{name}").read_text() for name in ("shm", "sem", "msg")]
    # Others use this machine too; what is here belongs to us or to a program of ours.
    shm = [entry.name for entry in os.scandir("/dev/shm") if _ours(entry)]
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "threads": _threads(),
        "mounts": Path("/proc/self/mountinfo").read_text().splitlines(),
        "ipc": ipc,
        "shared memory": sorted(shm),
        "files": sorted(os.listdir(".") + os.listdir(os.environ["TMPDIR"])),
    }


def _threads() -> list[str]:
    """Our threads, but for the one that pyarrow's allocator starts at any time."""
    tasks = Path("/proc/self/task").iterdir()
    own = [t for t in tasks if (t / "comm").read_text().strip() != "jemalloc_bg_thd"]
    return sorted(task.name for task in own)


def _ours(entry: os.DirEntry) -> bool:
    """Whether a user of ours owns this."""
    uid = entry.stat(follow_symlinks=False).st_uid
    return uid == os.getuid() != 0 or 61184 <= uid <= 65519
