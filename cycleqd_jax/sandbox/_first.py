"""Process 1 of a world: runs what the library asks for, and watches all of it.

The Python of the world runs this before anything else happens there; later it loads and
executes nothing. It imports little: `os` and `signal` would cost milliseconds. It is
trusted: it has a capability that nothing else in there has, so that the kernel lets
nobody trace it, read its memory or open its descriptors; it takes no signals from
inside; its folder in /proc is covered; and the filter of system calls denies changes of
its limits and priority. Scripts that judge are started from outside, by another
bubblewrap that joins its namespaces, so it knows nothing of them.

Request (from the library, over a socket, one at a time): a dictionary (marshal, version
2) with `do`: run, shell, type or end. Reply: one line
`ended status valid count`, then so many parts, each with its length in four bytes. When
the library closes its end, or ends, everything in here is killed.
"""

import _signal
import fcntl
import marshal
import posix
import select
import time

from cycleqd_jax.sandbox._collect import (
    FOLDER_FLAGS,
    collect,
    read_all,
    write_all,
    write_files,
)
from cycleqd_jax.sandbox._shell import Shell, follow, read_some
from cycleqd_jax.sandbox._watch import Clock, kill_all
from cycleqd_jax.sandbox.shell_mark import COMMAND
from cycleqd_jax.sandbox.shell_output import Output

NOT_STARTED = 127
IDLE_LOOK_S = 0.5  # between two looks while nothing was asked for
_STOP_S = 5.0  # in which all processes must have ended one after the other
_PAUSE_S = 0.002
_TIOCSCTTY = 0x540E  # a small Python has no termios


class World:
    """Serves one world.

    Args:
      sock: descriptor of the socket to the library.
      parent: descriptor that is readable when the library has ended.
      request: `limits`, see `_watch.Clock`; `kept`: most processes that may be shown
        after their end; `drop`: start of a command line that drops our capability and
        sets limits.
    """

    def __init__(self, sock, parent, request):
        for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
            _signal.signal(number, _signal.SIG_IGN)
        posix.umask(0o022)
        self._sock = sock
        self._requests = open(sock, "rb", closefd=False)
        self._stop_fds = (sock, parent)
        self._request = request
        self._clock = Clock(request["limits"])
        self._shell = None
        self._over = None  # the limit of the whole episode that was reached
        self._reaps = True

    def serve(self):
        """Until the library closes its end."""
        poller = select.poll()
        for fd in self._stop_fds:
            poller.register(fd, select.POLLIN)
        self._reply("done", 0, True)
        while True:
            while not (ready := poller.poll(IDLE_LOOK_S * 1000)):
                self._reap()
                self._note(self._clock.tick())
            if any(fd != self._sock for fd, _ in ready):
                break
            try:
                message = marshal.load(self._requests)
            except (EOFError, OSError):
                break
            do = {
                "run": self._run,
                "shell": self._start_shell,
                "type": self._type,
                "end": self._end,
            }[message.pop("do")]
            try:
                reply = do(**message)
            except OSError as error:
                reply = ("failed", 0, True, repr(error).encode())
            self._reap()
            if reply is None:
                break
            self._reply(*reply)
        posix._exit(0)  # and with us all that is in here

    def _reply(self, ended, status, valid, *parts):
        header = f"{ended} {status} {int(valid)} {len(parts)}\n".encode()
        sized = [len(part).to_bytes(4, "big") + part for part in parts]
        try:
            write_all(self._sock, b"".join([header, *sized]))
        except OSError:
            posix._exit(0)

    def _note(self, reason):
        """Ends the episode when it has used too much as a whole."""
        if reason is not None and self._over is None:
            self._over = reason
            kill_all()

    def _reap(self):
        """Waits for those that have ended, unless they shall stay to be seen."""
        try:
            while self._reaps and posix.waitpid(-1, posix.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def _start(self, argv, env, fds, terminal=None):
        """Starts argv[0] with these descriptors, or on a terminal; its process id."""
        failure_read, failure_write = posix.pipe2(posix.O_CLOEXEC)
        pid = posix.fork()
        if pid == 0:
            try:
                self._become(argv, env, fds, terminal, failure_write)
            except BaseException as error:  # noqa: BLE001 - told to the parent
                write_all(failure_write, repr(error).encode()[:1000])
            finally:
                posix._exit(NOT_STARTED)
        posix.close(failure_write)
        said = read_all(failure_read)
        posix.close(failure_read)
        if said:
            raise OSError(f"{argv[0]} was not started: {said.decode()}")
        return pid

    def _become(self, argv, env, fds, terminal, failure_fd):
        posix.setsid()
        numbers = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGPIPE)
        for number in numbers:
            _signal.signal(number, _signal.SIG_DFL)
        # SIGXFSZ stays ignored, as in Python: if a file grows too large, the write
        # fails, and the program can report the error.
        score = posix.open("/proc/self/oom_score_adj", posix.O_WRONLY)
        posix.write(score, b"1000")
        if terminal is not None:
            fcntl.ioctl(terminal, _TIOCSCTTY, 0)
            fds = (terminal,) * 3
        for number, fd in enumerate(fds):
            posix.dup2(fd, number)
        for number in map(int, posix.listdir("/proc/self/fd")):
            if number > 2 and number != failure_fd:
                posix.closerange(number, number + 1)  # one of them was the list's
        drop = self._request["drop"]
        posix.execve(drop[0], [*drop, *argv], env)

    def _run(self, argv, env, limit_s, alone, bound=None, files=None, collected=None):
        """Runs a command to its end.

        With `alone` all that runs before is killed, and all that it leaves running.
        `bound` limits the bytes of standard output and of error output, which are two
        parts of the reply; it ends with more. Without, they are one part, cut but read.
        First `files`, (name, content), are written into our working folder; afterwards
        those there are parts of the reply, if `collected` says how many bytes.
        """
        if alone:
            kill_all()
        here = posix.open(".", FOLDER_FLAGS)  # open: the program may replace it
        if files is not None:
            write_files(posix.getcwdb(), files)
        pipes = [posix.pipe() for _ in range(1 if bound is None else 2)]
        try:
            pid = self._start(argv, env, (0, pipes[0][1], pipes[-1][1]))
        finally:
            for _, write_fd in pipes:
                posix.close(write_fd)
        ended_fd, streams = posix.pidfd_open(pid), {}
        for read_fd, _ in pipes:
            posix.set_blocking(read_fd, False)
            streams[read_fd] = Output() if bound is None else Output(bound, ends=True)
        adds = {fd: output.add for fd, output in streams.items()}
        ended = follow(
            *(adds, pid, ended_fd, self._stop_fds, self._clock, limit_s), ended="done"
        )
        if ended == "stopped":
            return None
        if ended != "done":
            posix.killpg(pid, _signal.SIGKILL)
        if ended == "halted":  # a signal has ended it
            ended = "done"
        _, status = posix.waitpid(pid, 0)
        if alone:
            kill_all()
            # Whether it ended before or after we looked must change nothing.
            over = self._clock.last_tick()
            if over is not None and (ended == "done" or over == "cpu"):
                ended = over if ended != "output" else ended
            for fd, add in adds.items():
                while data := read_some(fd):
                    if add(data) is not None:
                        ended = "output"
        for fd in (*streams, ended_fd):
            posix.close(fd)
        if not alone and ended in ("cpu", "memory", "files"):
            self._note(ended)
        status = -posix.WTERMSIG(status) if posix.WIFSIGNALED(status) else status >> 8
        parts = [output.kept for output in streams.values()]
        if collected is not None:
            parts += [part for pair in collect(here, collected) for part in pair]
        else:
            posix.close(here)
        valid = all(output.valid for output in streams.values())
        return ended, status, valid, *parts

    def _start_shell(self, env, terminal, limit_s):
        """Starts the shell that stays."""
        if terminal:
            write_fd, slave = posix.openpty()
            pid = self._start(["/bin/bash", "--login"], env, (), terminal=slave)
            posix.close(slave)
            read_fd = write_fd
        else:
            in_read, write_fd = posix.pipe()
            read_fd, out_write = posix.pipe()
            argv = ["/bin/bash", *COMMAND[1:]]
            pid = self._start(argv, env, (in_read, out_write, out_write))
            posix.close(in_read)
            posix.close(out_write)
        self._shell = Shell(pid, write_fd, read_fd, terminal, self._clock)
        return self._type(None, limit_s)

    def _type(self, code, limit_s):
        """Types into the shell."""
        if self._over is not None:
            return self._over, 0, True, b""
        ended, output = self._shell.type(code, limit_s, self._stop_fds)
        if ended == "stopped":
            return None
        if ended in ("cpu", "memory", "files"):
            self._note(ended)
        return ended, 0, output.valid, output.kept

    def _end(self, keep):
        """Ends all processes; with `keep` they can still be seen, as ended ones."""
        self._clock.start_again()
        processes = self._clock.processes
        # Many ended ones would leave the scripts no room for theirs.
        if keep and processes.count() <= self._request["kept"]:
            self._reaps = False
            if not self._end_one_by_one(processes):
                self._reaps = True
        if self._reaps:
            kill_all()
        return "done", processes.count(), True

    @staticmethod
    def _end_one_by_one(processes):
        """Stops all, then kills parents before their children; whether that worked.

        A process whose parent is alive may be waited for, or vanish at once. So it is
        killed when its parent has ended, and it is ours: then it stays until we wait
        for it. Those that are stopped start no others meanwhile; one that something
        wakes is stopped again.
        """
        until = time.monotonic() + _STOP_S
        while time.monotonic() < until:
            try:
                posix.kill(-1, _signal.SIGSTOP)
            except ProcessLookupError:
                pass
            processes.poll()
            living = processes.living()
            if not living:
                return True
            for pid, parent in living.items():
                if parent not in living:
                    try:
                        posix.kill(pid, _signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            time.sleep(_PAUSE_S)
        return False


def main(sock, parent, request):
    """Serves one world; the numbers are descriptors."""
    with open(request, "rb") as file:
        settings = marshal.load(file)
    World(sock, parent, settings).serve()
