"""Runs one program inside a sandbox, as its process 1.

The Python of the sandbox runs this file with `_collect.py` and `_watch.py` (see
`host`). They import only built-in modules: `os` and `signal` would cost milliseconds.
The supervisor is trusted. It has a capability that the program lacks, so the kernel
does not let the program trace it, read its memory or open its file descriptors; only
the supervisor can write the report. As process 1 it ignores all signals from inside the
sandbox. Its folder in /proc is covered, and the system call filter denies changes of
its limits and priority.

Request (marshal, version 2, from the library): a dictionary. Report (to its socket): a
line `ending code`, then for each file a line `path_bytes content_bytes`, the path and
the content, then a line `end`.
"""

import _signal
import marshal
import posix
import resource
import sys

from cycleqd_jax.sandbox._collect import (
    FOLDER_FLAGS,
    S_IFDIR,
    S_IFMT,
    collect,
    read_all,
    write_all,
    write_files,
)
from cycleqd_jax.sandbox._watch import (
    Watch,
    cpu_of_reaped,
    entries,
    kill_all,
)

WORK = b"/box/work"
FOLDERS = ("/box", "/dev/shm")  # the writable file systems


def find_command(name, path):
    """The file to execute; None if there is none."""
    if b"/" in name:
        return name
    for folder in path.split(b":"):
        candidate = folder + b"/" + name
        if posix.access(candidate, posix.X_OK) and not is_folder(candidate):
            return candidate
    return None


def is_folder(path):
    """True if `path` is a folder."""
    return posix.stat(path).st_mode & S_IFMT == S_IFDIR


def lower_limit(number, soft, hard):
    """Sets a resource limit, but no higher than our own."""
    most = resource.getrlimit(number)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(number, (soft, hard))


def become_program(request, failure_fd):
    """Runs in the child: sets limits, drops the capability, executes the program."""
    posix.setsid()
    for number in (_signal.SIGPIPE, _signal.SIGCHLD, _signal.SIGINT):
        _signal.signal(number, _signal.SIG_DFL)
    # SIGXFSZ stays ignored, as in Python: if a file grows too large, the write fails,
    # and the program can report the error.
    for number, soft, hard in request["rlimits"]:
        lower_limit(number, soft, hard)
    score = posix.open("/proc/self/oom_score_adj", posix.O_WRONLY)
    posix.write(score, b"1000")
    posix.close(score)
    posix.closerange(3, failure_fd)
    posix.closerange(failure_fd + 1, 4096)
    argv = request["argv"]
    command = find_command(argv[0], request["path"])
    if command is None or not posix.access(command, posix.X_OK) or is_folder(command):
        known = command is not None and posix.access(command, posix.F_OK)
        reason = b"permission denied" if known else b"command not found"
        posix.write(2, b"%s: %s\n" % (argv[0], reason))
        posix._exit(126 if known else 127)
    drop = request["drop_capability"]
    posix.execv(drop[0], [*drop, *argv])


def main(sock, parent, request_fd):
    """Runs one program, from request to report.

    Args:
      sock: socket to the library, which stops the program by closing its half.
      parent: readable when the library has ended.
      request_fd: has the request.
    """
    wake_fd, ring_fd = posix.pipe()
    posix.set_blocking(wake_fd, False)
    posix.set_blocking(ring_fd, False)
    _signal.set_wakeup_fd(ring_fd, warn_on_full_buffer=False)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # not KeyboardInterrupt
    posix.umask(0o022)
    request = marshal.loads(read_all(request_fd))
    work_fd = posix.open(WORK, FOLDER_FLAGS)  # open: the program may move or replace it
    write_files(WORK, request["files"])
    failure_read, failure_write = posix.pipe2(posix.O_CLOEXEC)
    main_pid = posix.fork()
    if main_pid == 0:
        try:
            become_program(request, failure_write)
        except (OSError, ValueError) as error:
            write_all(failure_write, repr(error).encode())
        finally:  # reached only if execution failed
            write_all(failure_write, b" in the child")
            posix._exit(1)
    posix.close(failure_write)
    watch = Watch(request, FOLDERS)
    reason, status = watch.wait(main_pid, wake_fd, (sock, parent))
    kill_all()
    if failure := read_all(failure_read):
        raise RuntimeError(f"the program was not started: {failure.decode()}")
    cpu_s = cpu_of_reaped()
    if cpu_s >= request["cpu_s"]:
        reason = "cpu"
    elif reason == "ended" and entries(FOLDERS) > request["scratch_entries"]:
        reason = "files"
    if reason == "ended":
        signalled = status & 0x7F
        reason = "signalled" if signalled else "exited"
        status = signalled or status >> 8
    write_all(sock, b"%s %d\n" % (reason.encode(), status))
    if request["collect"]:
        for path, content in collect(work_fd, request["collect_bytes"]):
            header = b"%d %d\n" % (len(path), len(content))
            write_all(sock, header + path + content)
    write_all(sock, b"end\n")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
    posix._exit(0)  # skips the interpreter's clean-up
