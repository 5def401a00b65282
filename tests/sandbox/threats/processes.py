"""Programs that multiply, and that stay."""

import dataclasses

from .base import CPU, LIMITS, MIB, PATIENT, Threat, any_ending, says

PROCESSES = [
    Threat(
        "fork bomb, counted",
        """
count = 1
try:
    while True:
        if os.fork() == 0: time.sleep({TOKEN})
        count += 1
except BlockingIOError:
    print(count)
""",
        says("12"),
    ),
    Threat(
        "fork bomb, endless",
        """
while True:
    try: os.fork()
    except OSError: pass
""",
        CPU,
        LIMITS,
    ),
    Threat("fork bomb in the shell", "#!sh\n:(){ :|:& };:; sleep 0.3", any_ending),
    Threat(
        "thread bomb",
        """
threading.stack_size(2**16)
count = 1
try:
    while True:
        threading.Thread(target=time.sleep, args=({TOKEN},), daemon=True).start()
        count += 1
except RuntimeError:
    print(count, flush=True)
    os._exit(0)
""",
        says("12"),
        dataclasses.replace(PATIENT, memory_bytes=4096 * MIB),
    ),
    Threat(
        "daemon by double fork",
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 32):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        os.closerange(0, 64)
        os.execvp("sleep", ["sleep", "{TOKEN}"])
    os._exit(0)
os.wait()
print("gone")
""",
        says("gone"),
    ),
    Threat(
        "background jobs left behind",
        "#!sh\nnohup setsid sleep {TOKEN} >/dev/null 2>&1 &\ndisown\necho gone",
        says("gone"),
    ),
    Threat(
        "background job that keeps the output open",
        "#!sh\nsleep {TOKEN} &\necho gone",
        says("gone"),
    ),
    Threat(
        "hundreds of orphans, one after the other",
        """
for _ in range(200):
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
    os.waitpid(pid, 0)
    time.sleep(0.001)
print("gone")
""",
        says("gone"),
    ),
    Threat(
        "opening files without end",
        """
count = 0
try:
    while True:
        os.open("/dev/null", os.O_RDONLY)
        count += 1
except OSError as error:
    print(error.errno == errno.EMFILE and count < 64)
""",
        says("True"),
    ),
]
