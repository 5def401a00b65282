"""Sets up, starts and stops a private MariaDB; runs inside its sandbox.

It is process 1 of the sandbox, so the server ends with it, and it ends as soon as the
process that uses the server has ended, however that ended. It imports nothing but the
standard library, because the sandbox may have another Python than ours.

Arguments: descriptors of the socket to our process, of our process (a pidfd) and of the
SQL that makes the system tables; the limit of memory in bytes; the server's command.
"""

import os
import resource
import select
import socket
import sys

FOLDER = "/box/db"  # in the sandbox's file system, which is in memory
DATA, TEMPORARY, NO_FILES, LOG, SOCKET = "data", "tmp", "none", "log", "socket"


def main() -> None:
    """Makes the system tables, then serves until the server or its user ends."""
    control, user, sql, memory_bytes = map(int, sys.argv[1:5])
    command = sys.argv[5:]
    for name in ("", DATA, TEMPORARY, NO_FILES):
        os.mkdir(os.path.join(FOLDER, name), 0o700)
    folder = os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY)
    # Through this descriptor our process reaches the server's socket and its log,
    # without a folder outside that would have to be removed.
    with socket.socket(fileno=os.dup(control)) as to_user:
        socket.send_fds(to_user, [b"x"], [folder])
    users = (control, user)
    status = _wait(_start([*command, "--bootstrap"], sql, memory_bytes), users)
    if status == 0:
        nothing = os.open("/dev/null", os.O_RDONLY)
        status = _wait(_start(command, nothing, memory_bytes), users)
    sys.exit(1 if status else 0)


def _start(command: list[str], stdin: int, memory_bytes: int) -> int:
    """Starts the server with its output in the log; its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        # Where the machine has no memory left, this is the process to end.
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        path = os.path.join(FOLDER, LOG)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for target, source in enumerate((stdin, log, log)):
            os.dup2(source, target)
        os.closerange(3, 1024)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        os.execv(command[0], command)
    finally:
        os._exit(127)


def _wait(server: int, users: tuple[int, ...]) -> int:
    """Waits for the server to end; ends everything if the run ends first.

    Args:
      server: its process id.
      users: descriptors that can be read once the server is not needed any more.

    Returns:
      The server's exit status, or minus a signal.
    """
    poller = select.poll()
    ended = os.pidfd_open(server)
    for descriptor in (ended, *users):
        poller.register(descriptor, select.POLLIN)
    ready = [descriptor for descriptor, _ in poller.poll()]
    if ended not in ready:
        os._exit(0)  # and with process 1 all others of the sandbox
    os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])


if __name__ == "__main__":
    main()
