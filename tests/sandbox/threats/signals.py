"""Programs that signal, and that pretend."""

from .base import SIGNAL, Threat, exits, says

SIGNALS = [
    Threat(
        "signalling the host",
        """
denied("host", os.kill, {PID}, 0)
denied("host", os.kill, {PID}, signal.SIGTERM)
denied("group", os.killpg, {PID}, 0)
if os.fork() == 0: time.sleep({TOKEN})
os.kill(-1, signal.SIGKILL)
print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
        lambda execution: SIGNAL(execution) and execution.stdout == b"-9\n",
    ),
    Threat(
        "signalling the supervisor",
        """
for number in range(1, 65):
    if number not in (32, 33): os.kill(1, number)
    time.sleep(0.005)
print("both alive")
""",
        says("both alive"),
    ),
    Threat(
        "flooding the supervisor with signals",
        """
end = time.monotonic() + 0.3
while time.monotonic() < end: os.kill(1, signal.SIGCHLD)
print("both alive")
""",
        says("both alive"),
    ),
    Threat("its own end by SIGKILL", "os.kill(os.getpid(), 9)", SIGNAL),
    Threat("posing as out of CPU time", "os.kill(os.getpid(), 24)", SIGNAL),
    Threat("a crash", "ctypes.string_at(0)", SIGNAL),
    Threat("an abort", "os.abort()", SIGNAL),
    Threat("posing as killed", "sys.exit(137)", exits(137)),
    Threat("posing as timed out", "sys.exit(124)", exits(124)),
    Threat(
        "forging a report",
        """
text = b"exited 0 1\\nf 4 4\\nfakefakeend 0 0\\n"
for number in range(1, 64):
    try: os.write(number, text)
    except OSError: pass
for pid in (1, os.getppid()):
    for number in range(64): denied(
        "fd %d" % number, os.open, "/proc/%d/fd/%d" % (pid, number), os.O_RDWR)
sys.exit(9)
""",
        lambda execution: (
            execution.exit_code == 9
            and execution.files == {}
            and b"escaped" not in execution.stdout
        ),
        collect=True,
    ),
    Threat(
        "changing the supervisor's limits",
        """
import resource
for name in ("NOFILE", "FSIZE", "CPU", "AS", "NPROC", "DATA", "STACK", "CORE"):
    try:
        resource.prlimit(1, getattr(resource, "RLIMIT_" + name), (0, 0))
        print("escaped:", name)
    except PermissionError: pass
""",
        says(""),
    ),
    Threat(
        "changing the supervisor's priority, and its own",
        """
denied("affinity", os.sched_setaffinity, 1, {0})
os.sched_setaffinity(0, os.sched_getaffinity(0))
def ranks(): return [
    (os.sched_getscheduler(pid), os.getpriority(os.PRIO_PROCESS, pid),
     libc.syscall({"x86_64": 252, "aarch64": 31}[os.uname().machine], 1, pid))
    for pid in (0, 1)]
before = ranks()
for pid in (0, 1):
    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, pid, 19)
    libc.syscall(CALLS["ioprio_set"], 1, pid, 3 << 13)
for uid in (0, 1000): os.setpriority(os.PRIO_USER, uid, 19)
os.nice(19)
if ranks() != before: print("escaped:", before, ranks())
""",
        says(""),
    ),
    Threat(
        "signalling the supervisor by other means",
        """
one = os.pidfd_open(1)
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT):
    for call in (lambda: signal.pidfd_send_signal(one, number),
                 lambda: libc.tkill(1, number), lambda: libc.sigqueue(1, number, 0),
                 lambda: os.killpg(os.getpgid(1), number)):
        try: call()
        except OSError: pass
        except AttributeError: pass
time.sleep(0.05)
print("both alive")
""",
        says("both alive"),
    ),
    Threat(
        "its own session, group and foreground",
        """
denied("setpgid", os.setpgid, 0, 1)
denied("terminal", os.tcgetpgrp, 0)
denied("terminal", os.ttyname, 1)
os.killpg(0, signal.SIGKILL)
""",
        SIGNAL,
    ),
]
