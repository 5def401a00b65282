"""Process 1 of a session: runs what the library asks for, inside.

It is trusted: it has capabilities that nothing else in the session has, so that it can
be neither traced nor read, takes no signals from inside, and its root is the stage,
not the episode's. It knows a script only from when it has to run it; what judges an
answer comes when nothing of the episode runs any more.

Requests and replies are JSON, each behind its length in four bytes; bytes travel as
Latin-1 text. `do` is run, shell, type, remember or judge;
see the methods `_run` and so on.
When the library closes its end, everything in the session is killed.
"""

import errno
import fcntl
import json
import os
import pty
import resource
import select
import signal
import socket
import struct
import termios
import traceback

from cycleqd_jax.sandbox import session_kernel as kernel
from cycleqd_jax.sandbox import session_repair as repair
from cycleqd_jax.sandbox._watch import kill_all
from cycleqd_jax.sandbox.session_shell import KEPT_BYTES, LOOK_S, Clock, Shell
from cycleqd_jax.sandbox.session_stage import Stage

IDLE_LOOK_S = 0.5  # between two looks while nothing was asked for
MAX_MESSAGE_BYTES = 2**26
_DRAIN_READS = 64


def send(sock, message):
    """Writes one message."""
    data = json.dumps(message).encode("ascii")
    sock.sendall(struct.pack("!I", len(data)) + data)


def receive(sock):
    """Reads one message; None at the end."""
    header = _exactly(sock, 4)
    if header is None:
        return None
    (size,) = struct.unpack("!I", header)
    data = _exactly(sock, size) if size <= MAX_MESSAGE_BYTES else None
    return None if data is None else json.loads(data)


def _exactly(sock, size):
    parts = []
    while size:
        try:
            part = sock.recv(min(size, 1 << 16))
        except OSError:
            return None
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Supervisor:
    """Serves one session.

    Args:
      sock: to the library.
      request: as for `Stage`, and `limits` (`cpu_s`, `memory_bytes`, `rlimits` as
        (number, soft, hard)), `seccomp` (Latin-1 text), `host_name`.
      trees: as for `Stage`.
      image_fd: as for `Stage`.
    """

    def __init__(self, sock, request, trees, image_fd):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._sock = sock
        self._request = request
        self._filter = request["seccomp"].encode("latin-1")
        self._kept = frozenset(kernel.CAPABILITIES.values())
        kernel.set_host_name(request["host_name"])
        self._stage = Stage(request, trees, image_fd)
        self._clock = Clock(request["limits"])
        self._shell = None
        self._users = {}
        self._over = None  # the limit of the whole session that was reached
        self._frozen = False
        self._repaired = False  # and nothing has run since

    def serve(self):
        """Until the library closes its end."""
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        while True:
            while not poller.poll(IDLE_LOOK_S * 1000):
                self._reap()
                self._note(self._clock.tick())
            message = receive(self._sock)
            if message is None:
                break
            do = {
                "run": self._run,
                "shell": self._start_shell,
                "type": self._type,
                "remember": self._remember,
                "judge": self._judge,
            }[message.pop("do")]
            try:
                reply = do(**message)
            except OSError as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            self._reap()
            try:
                send(self._sock, reply)
            except OSError:
                break
        kill_all()

    def _note(self, reason):
        """Ends the episode when the session as a whole has used too much."""
        if reason is not None and self._over is None:
            self._over = reason
            kill_all()

    @staticmethod
    def _reap():
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def _become(self, argv, environment, prepare, failure_fd, **view):
        """In a child: enters the episode's root and executes a command in it."""
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
        for number, soft, hard in self._request["limits"]["rlimits"]:
            most = resource.getrlimit(number)[1]
            if most != resource.RLIM_INFINITY:
                soft, hard = min(soft, most), min(hard, most)
            resource.setrlimit(number, (soft, hard))
        os.umask(0o022)
        kernel.load_filter(self._filter)
        kernel.limit_capabilities(self._kept)
        words = [word.encode("latin-1") for word in argv]
        os.execve(words[0], words[1:], environment)

    def _fork(self, argv, environment, fds, prepare=None, **view):
        """Starts the program argv[0] with the arguments argv[1:]; its process id.

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
            try:
                if prepare is None:
                    for number, fd in enumerate(fds):
                        os.dup2(fd, number)
                self._become(argv, environment, prepare, failure_write, **view)
            except BaseException as error:  # noqa: BLE001 - told to the parent
                where = traceback.extract_tb(error.__traceback__)[-1]
                said = f"{error!r} in {where.name}"
                os.write(failure_write, said.encode()[:1000])
            finally:
                os._exit(127)
        os.close(failure_write)
        said = b""
        while part := os.read(failure_read, 4096):
            said += part
        os.close(failure_read)
        if said:
            raise OSError(f"{argv[1]} was not started: {said.decode()}")
        return pid

    def _run(self, argv, env, limit_s, judging=False, read_only=False, alone=False):
        """Runs a script to its end, with its output.

        What it leaves running goes on, unless an answer is being judged.

        Returns:
          `status` (exit status, or minus a signal), `ended` (done, limit, cpu,
          memory), `output` (both streams, the first `KEPT_BYTES`).
        """
        if alone and self._frozen:
            self._frozen = False
            kill_all()
        if judging and not self._repaired and self._repair():
            return {"status": 1, "ended": "done", "output": ""}
        self._repaired = False  # the script itself may run what changes files
        null = os.open("/host/dev/null", os.O_RDWR)
        read_fd, write_fd = os.pipe()
        try:
            view = {"judging": judging, "read_only": read_only}
            pid = self._fork(argv, env, (null, write_fd, write_fd), **view)
        finally:
            os.close(null)
            os.close(write_fd)
        ended_fd = os.pidfd_open(pid)
        try:
            ended, output = self._follow(read_fd, ended_fd, limit_s)
            if ended == "limit":
                os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        finally:
            os.close(read_fd)
            os.close(ended_fd)
        if ended in ("cpu", "memory"):
            self._note(ended)
        if judging and not self._frozen:
            kill_all()
        return {
            "status": os.waitstatus_to_exitcode(status),
            "ended": ended,
            "output": output.decode("latin-1"),
        }

    def _follow(self, read_fd, ended_fd, limit_s):
        """Reads until a process has ended: (how it ended, output)."""
        os.set_blocking(read_fd, False)
        poller = select.poll()
        for fd in (read_fd, ended_fd, self._sock.fileno()):
            poller.register(fd, select.POLLIN)
        self._clock.restart()
        output, reads_left = b"", None
        while True:
            ready = dict(poller.poll(LOOK_S * 1000))
            if self._sock.fileno() in ready:
                kill_all()
                os._exit(0)
            if read_fd in ready:
                data = os.read(read_fd, 1 << 16)
                output += data[: KEPT_BYTES - len(output)]
                if not data:
                    poller.unregister(read_fd)
            if ended_fd in ready:
                # What it wrote before its end is in the pipe; others may still write.
                reads_left = _DRAIN_READS if reads_left is None else reads_left - 1
                if read_fd not in ready or reads_left == 0:
                    return "done", output
                continue
            if not ready or self._clock.due():
                reason = self._clock.tick()
                if reason is None and self._clock.elapsed_s >= limit_s:
                    reason = "limit"
                if reason is not None:
                    return reason, output

    def _start_shell(self, env, terminal, limit_s):
        """Starts the shell that stays: {"ended", "text", "valid"}."""
        if terminal:
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

            def open_terminal():
                master, slave = pty.openpty()
                fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
                for number in range(3):
                    os.dup2(slave, number)
                socket.send_fds(there, [b"x"], [master])

            argv = ["/bin/bash", "bash", "--login"]
            pid = self._fork(argv, env, (), prepare=open_terminal)
            _, (master, *_), _, _ = socket.recv_fds(here, 1, 1)
            here.close()
            there.close()
            write_fd = read_fd = master
        else:
            in_read, write_fd = os.pipe()
            read_fd, out_write = os.pipe()
            argv = ["/bin/bash", "bash", "--login"]
            pid = self._fork(argv, env, (in_read, out_write, out_write))
            os.close(in_read)
            os.close(out_write)
        self._shell = Shell(pid, write_fd, read_fd, terminal, self._clock)
        return self._type(None, limit_s)

    def _type(self, code, limit_s):
        """Types into the shell: {"ended", "text", "valid"}."""
        if self._over is not None:
            return {"ended": self._over, "text": "", "valid": True}
        typed = None if code is None else code.encode("latin-1")
        ended, output = self._shell.type(typed, limit_s, self._sock.fileno())
        if ended == "stopped":
            kill_all()
            os._exit(0)
        if ended in ("cpu", "memory"):
            self._note(ended)
        text = output.kept.decode("latin-1")
        return {"ended": ended, "text": text, "valid": output.valid}

    def _remember(self):
        """Notes what must be as it is now when an answer is judged."""
        root = "/root" if self._stage.image else "/data/root"
        self._users = repair.read_users(root)
        return {}

    def _judge(self, freeze=False):
        """Ends the episode's part: its processes are killed, or stopped for good.

        Returns:
          {"tampered": what makes judging impossible, or None}.
        """
        # A hundred processes would leave the scripts no room for theirs.
        most = self._request["limits"]["processes"] // 2
        self._frozen = freeze and self._clock.processes() <= most
        if self._frozen:
            self._clock.settle()  # who is stopped now never does
            try:
                os.kill(-1, signal.SIGSTOP)
            except ProcessLookupError:
                pass
        else:
            kill_all()
        self._clock.start_again()
        self._stage.make_room()
        tampered = self._repair()
        self._repaired = tampered is None
        return {"tampered": tampered}

    def _repair(self):
        """Why the system cannot be given back its programs, or None."""
        try:
            self._stage.repair(self._users)
        except (repair.TamperedError, OSError, RecursionError) as error:
            # There is room, and nothing else runs: what is in the way is the episode's.
            if getattr(error, "errno", None) == errno.ENOMEM:
                raise
            return f"{type(error).__name__} {error}"
        return None
