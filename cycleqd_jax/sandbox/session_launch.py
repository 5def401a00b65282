"""Starts programs in a session's root, without what only process 1 may have.

Part of the session's supervisor.
"""

import fcntl
import os
import pty
import resource
import signal
import socket
import termios
import traceback

from cycleqd_jax.sandbox import session_kernel as kernel

NOT_EXECUTABLE = 126  # the status that shells give what cannot be executed


class Launcher:
    """See the module.

    Args:
      stage: the session's `Stage`.
      rlimits: (number, soft, hard) of each process.
      seccomp: the filter of system calls.
    """

    def __init__(self, stage, rlimits, seccomp):
        self._stage = stage
        self._rlimits = rlimits
        self._filter = seccomp
        self._kept = frozenset(kernel.CAPABILITIES.values())

    def start(self, argv, environment, fds, prepare=None, **view):
        """Starts the program argv[0] with the arguments argv[1:]; its process id.

        One that is there but cannot be executed ends with `NOT_EXECUTABLE`.

        Args:
          argv: the program's path, then its arguments, as Latin-1 text.
          environment: its variables.
          fds: its standard input, output and error output.
          prepare: called in the child's root, makes them in place of `fds`.
          **view: as for `Stage.enter`.

        Raises:
          OSError: what went wrong in the child before the program began.
        """
        failure_read, failure_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 127
            try:
                if prepare is None:
                    for number, fd in enumerate(fds):
                        os.dup2(fd, number)
                self._become(prepare, failure_write, **view)
                words = [word.encode("latin-1") for word in argv]
                try:
                    os.execve(words[0], words[1:], environment)
                except PermissionError:
                    status = NOT_EXECUTABLE
            except BaseException as error:  # noqa: BLE001 - told to the parent
                where = traceback.extract_tb(error.__traceback__)[-1]
                said = f"{error!r} in {where.name}"
                os.write(failure_write, said.encode()[:1000])
            finally:
                os._exit(status)
        os.close(failure_write)
        said = b""
        while part := os.read(failure_read, 4096):
            said += part
        os.close(failure_read)
        if said:
            raise OSError(f"{argv[1]} was not started: {said.decode()}")
        return pid

    def _become(self, prepare, failure_fd, **view):
        """In a child: enters the episode's root and gives up all privileges."""
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        kernel.be_private(False)
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        self._stage.enter(**view)
        if prepare is not None:
            prepare()
        os.closerange(3, failure_fd)
        os.closerange(failure_fd + 1, 1024)
        for number, soft, hard in self._rlimits:
            most = resource.getrlimit(number)[1]
            if most != resource.RLIM_INFINITY:
                soft, hard = min(soft, most), min(hard, most)
            resource.setrlimit(number, (soft, hard))
        os.umask(0o022)
        kernel.load_filter(self._filter)
        kernel.limit_capabilities(self._kept)

    def start_on_terminal(self, argv, environment):
        """`start` on a terminal of its own: (process id, the terminal's other end)."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

        def open_terminal():
            master, slave = pty.openpty()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            for number in range(3):
                os.dup2(slave, number)
            socket.send_fds(there, [b"x"], [master])

        with here, there:
            pid = self.start(argv, environment, (), prepare=open_terminal)
            _, (master, *_), _, _ = socket.recv_fds(here, 1, 1)
        return pid, master
