"""Programs that try parts of the kernel which they need not have."""

from .base import Threat, says

KERNEL = [
    Threat(
        "every denied system call",
        """
skipped = ("clone", "clone3", "ioctl", "socket", "socketpair", "prlimit64",
           "setpriority", "ioprio_set", "mmap", "sched_setaffinity", "mknod",
           "mknodat", "renameat2")
for name, number in CALLS.items():
    if name in skipped or name.startswith("sched_") or "sync" in name: continue
    done = libc.syscall(number, 0, 0, 0, 0, 0, 0)
    if done != -1 or ctypes.get_errno() != errno.EPERM:
        print("escaped:", name, ctypes.get_errno())
if libc.syscall(CALLS["clone3"], 0, 0) != -1 or ctypes.get_errno() != errno.ENOSYS:
    print("escaped: clone3")
""",
        says(""),
    ),
    Threat(
        "signs of an overlay",
        """
os.mkfifo("fifo")
open("a", "w").close()
denied("device", os.mknod, "device", 0o020600, 0)
denied_call("device in a folder", "mknodat", -100, b"b", 0o020600, 0)
denied_call("rename", "renameat2", -100, b"a", -100, b"c", 4)
if libc.syscall(CALLS["renameat2"], -100, b"a", -100, b"d", 1):
    print("a file could not be renamed")
""",
        says(""),
    ),
    Threat(
        "io_uring",
        """
parameters = ctypes.create_string_buffer(120)
denied_call("io_uring_setup", "io_uring_setup", 8, parameters)
""",
        says(""),
    ),
    Threat(
        "userfaultfd",
        """
denied_call("userfaultfd", "userfaultfd", 1)
denied("device", os.open, "/dev/userfaultfd", os.O_RDWR)
""",
        says(""),
    ),
    Threat(
        "bpf",
        """
attributes = (ctypes.c_uint32 * 18)(2, 4, 8, 1)
denied_call("map", "bpf", 0, attributes, 72)
""",
        says(""),
    ),
    Threat(
        "performance counters",
        """
attributes = (ctypes.c_uint32 * 30)(1, 120)
denied_call("software clock", "perf_event_open", attributes, 0, -1, -1, 0)
""",
        says(""),
    ),
    Threat(
        "tracing its own child",
        """
pid = os.fork()
if pid == 0: time.sleep({TOKEN})
denied_call("attach", "ptrace", 16, pid, 0, 0)
denied_call("read", "process_vm_readv", pid, 0, 0, 0, 0, 0)
""",
        says(""),
    ),
    Threat(
        "typing into a terminal",
        """
import fcntl, termios
for fd in (0, 1, 2): denied(fd, fcntl.ioctl, fd, termios.TIOCSTI, b"x")
""",
        says(""),
    ),
    Threat(
        "programs that run as their owner",
        """
import shutil, subprocess
shutil.copy("/usr/bin/id", "id")
os.chmod("id", 0o6755)
print(subprocess.run(["./id", "-u"], capture_output=True, text=True).stdout.strip())
for path in ("/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount", "/usr/bin/newgrp"):
    if os.path.exists(path) and os.stat(path).st_mode & 0o4000:
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open("/dev/null", os.O_RDWR), 1)
            os.dup2(1, 2)
            os.execv(path, [path, "--version"])
        if pid: os.wait()
print(os.geteuid(), os.getegid())
""",
        says("1000\n1000 1000"),
    ),
    Threat(
        "programs of another architecture",
        r"""
code = bytes.fromhex("b814000000cd80c3")  # mov eax, 20; int 0x80; ret
import mmap
area = mmap.mmap(-1, 4096, prot=7)
area.write(code)
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(area)))
if os.uname().machine == "x86_64" and call() == os.getpid(): print("escaped: 32 bit")
""",
        says(""),
    ),
]
