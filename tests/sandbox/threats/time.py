"""Programs that do not end."""

import dataclasses

from .base import CPU, IMPATIENT, LIMITS, SIGNAL, WALL, Threat, says

TIME = [
    Threat("endless loop", "while True: pass", CPU, LIMITS),
    Threat("endless shell loop", "#!sh\nwhile :; do :; done", CPU, LIMITS),
    Threat(
        "endless loop deaf to signals",
        """
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
""",
        CPU,
        LIMITS,
    ),
    Threat(
        "CPU time in a child while the parent sleeps",
        """
if os.fork() == 0:
    while True: pass
time.sleep(1000)
""",
        CPU,
        LIMITS,
    ),
    Threat(
        "CPU time spread over children",
        """
for _ in range(8):
    if os.fork() == 0:
        end = time.process_time() + 0.15
        while time.process_time() < end: pass
        os._exit(0)
for _ in range(8): os.wait()
""",
        CPU,
        LIMITS,
    ),
    Threat(
        "CPU time in endless short children",
        "#!sh\nwhile :; do /bin/true; done",
        CPU,
        LIMITS,
    ),
    Threat("sleeping for ever", "#!sh\nexec sleep {TOKEN}", WALL, IMPATIENT),
    Threat(
        "sleeping deaf to SIGTERM",
        "#!sh\ntrap '' TERM INT HUP QUIT; sleep {TOKEN}; sleep {TOKEN}",
        WALL,
        IMPATIENT,
    ),
    Threat(
        "stopping itself",
        "os.kill(os.getpid(), signal.SIGSTOP)",
        SIGNAL,
        dataclasses.replace(LIMITS, wall_s=100.0),
    ),
    Threat(
        "stopping its parent again and again",
        """
pid = os.getpid()
if os.fork() == 0:
    while True:
        os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGCONT)
time.sleep({TOKEN})
""",
        SIGNAL,
        dataclasses.replace(LIMITS, wall_s=100.0),
    ),
    Threat(
        "reading input that never comes",
        "print(len(sys.stdin.read()))",
        says("0"),
    ),
    Threat(
        "CPU time in children that nobody waits for",
        """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    try:
        if os.fork() == 0:
            end = time.process_time() + 0.02
            while time.process_time() < end: pass
            os._exit(0)
    except BlockingIOError: pass
    time.sleep(0.02)
""",
        CPU,
        LIMITS,
    ),
    Threat(
        "CPU time in short children that nobody waits for",
        """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    try:
        if os.fork() == 0:
            end = time.process_time() + 0.004
            while time.process_time() < end: pass
            os._exit(0)
    except BlockingIOError: pass
    time.sleep(0.002)
""",
        CPU,
        LIMITS,
    ),
    Threat(
        "CPU time in threads",
        """
import hashlib
def burn():
    while True: hashlib.sha256(bytes(2**20))
for _ in range(4): threading.Thread(target=burn).start()
""",
        CPU,
        LIMITS,
    ),
    Threat(
        "CPU time in the kernel",
        "zero = os.open('/dev/urandom', 0)\nwhile True: os.read(zero, 2**20)",
        CPU,
        LIMITS,
    ),
    Threat(
        "stopping its whole group",
        "os.fork()\nos.kill(0, signal.SIGSTOP)\ntime.sleep({TOKEN})",
        SIGNAL,
        dataclasses.replace(LIMITS, wall_s=100.0),
    ),
    Threat(
        "a parent held by its child in vfork",
        "if libc.vfork() == 0: libc.pause()",
        WALL,
        IMPATIENT,
    ),
    Threat(
        "a sleep that ends too late",
        "time.sleep(2)",
        WALL,
        IMPATIENT,
    ),
    Threat(
        "output first, then sleeping for ever",
        "#!sh\necho before; exec sleep {TOKEN}",
        lambda execution: WALL(execution) and execution.stdout == b"before\n",
        IMPATIENT,
    ),
    Threat(
        "flushing the disks of the host",
        """
start = time.monotonic()
python = os.open("/usr/bin/python3", os.O_RDONLY)
for _ in range(3000):
    os.sync()
    os.fsync(python)
    os.fdatasync(python)
    if libc.syncfs(python) != 0: print("escaped")
print("in time", time.monotonic() - start < 2)
""",
        says("in time True"),
    ),
]
