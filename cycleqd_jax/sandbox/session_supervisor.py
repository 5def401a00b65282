"""Process 1 of a session: runs what the library asks for, inside.

It is trusted: it has capabilities that nothing else in the session has, so that it can
be neither traced nor read, takes no signals from inside, and its root is the stage,
not the episode's. It knows a script only from when it has to run it; what judges an
answer comes when nothing of the episode runs any more.

Of a request (`session_messages`), `do` is run, shell, type, remember or judge; see the
methods `_run` and so on. When the library closes its end, everything in the session is
killed.
"""

import contextlib
import errno
import os
import select
import signal

from cycleqd_jax.sandbox import session_kernel as kernel
from cycleqd_jax.sandbox import session_repair as repair
from cycleqd_jax.sandbox._watch import kill_all
from cycleqd_jax.sandbox.session_launch import Launcher
from cycleqd_jax.sandbox.session_messages import receive, send
from cycleqd_jax.sandbox.session_shell import (
    KEPT_BYTES,
    LOOK_S,
    Clock,
    Shell,
)
from cycleqd_jax.sandbox.session_stage import Stage
from cycleqd_jax.sandbox.shell_mark import COMMAND

IDLE_LOOK_S = 0.5  # between two looks while nothing was asked for
_DRAIN_READS = 64


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
        kernel.set_host_name(request["host_name"])
        self._stage = Stage(request, trees, image_fd)
        seccomp = request["seccomp"].encode("latin-1")
        rlimits = request["limits"]["rlimits"]
        self._launcher = Launcher(self._stage, rlimits, seccomp)
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

    def _run(self, argv, env, limit_s, judging, check):
        """Runs a script to its end, with its output.

        What it leaves running goes on, unless an answer is being judged.

        Returns:
          `status` (exit status, or minus a signal), `ended` (done, limit, cpu,
          memory), `output` (both streams, the first `KEPT_BYTES`).
        """
        if check and self._frozen:
            self._frozen = False
            kill_all()
        if judging and not self._repaired and self._repair():
            return {"status": 1, "ended": "done", "output": ""}
        self._repaired = False  # the script itself may run what changes files
        null = os.open("/host/dev/null", os.O_RDWR)
        read_fd, write_fd = os.pipe()
        try:
            view = {"judging": judging, "read_only": check}
            fds = (null, write_fd, write_fd)
            pid = self._launcher.start(argv, env, fds, **view)
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
            argv = ["/bin/bash", "bash", "--login"]
            pid, write_fd = self._launcher.start_on_terminal(argv, env)
            read_fd = write_fd
        else:
            in_read, write_fd = os.pipe()
            read_fd, out_write = os.pipe()
            argv = ["/bin/bash", *COMMAND]
            pid = self._launcher.start(argv, env, (in_read, out_write, out_write))
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
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGSTOP)
            self._frozen = self._clock.stopped()
        if not self._frozen:
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
