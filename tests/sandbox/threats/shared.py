"""Programs that use up what the kernel has for all programs of a user or a machine."""

from .base import Threat, says

SHARED = [
    Threat(
        "pseudo terminals",
        """
for path in ("/dev/ptmx", "/dev/pts/ptmx"): denied(path, os.open, path, os.O_RDWR)
denied("a pair", os.openpty)
""",
        says(""),
    ),
    Threat(
        "watches of files",
        """
for call in (libc.inotify_init, libc.inotify_init1):
    if call(0) != -1: print("escaped: inotify")
""",
        says(""),
    ),
    Threat(
        "asynchronous input and output",
        """
context = ctypes.c_ulong(0)
denied_call("io_setup", "io_setup", 100, ctypes.byref(context))
""",
        says(""),
    ),
    Threat(
        "signals that wait",
        """
number = signal.SIGRTMIN
signal.pthread_sigmask(signal.SIG_BLOCK, [number])
sent = 0
while sent < 10_000 and libc.sigqueue(os.getpid(), number, None) == 0: sent += 1
print(sent <= 256)
""",
        says("True"),
    ),
    Threat(
        "timers",
        """
event = (ctypes.c_int32 * 16)(0, 0, 0, 1)  # SIGEV_NONE
timer, made = ctypes.c_void_p(), 0
while made < 10_000 and libc.timer_create(1, event, ctypes.byref(timer)) == 0: made += 1
print(made <= 256)
""",
        says("True"),
    ),
    Threat(
        "large pages",
        """
import mmap
denied("huge pages", lambda: mmap.mmap(-1, 2**21, flags=0x40022))
""",
        says(""),
    ),
]
