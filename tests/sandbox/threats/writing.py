"""Programs that change what is not theirs, or gain rights."""

from .base import Threat, says

WRITING = [
    Threat(
        "writing outside",
        """
import glob
for folder in ("/", "/usr", "/usr/bin", "/usr/local/bin", "/etc", "/dev", "/dev/pts",
               "/proc", "/proc/sys", "/bin", "/lib", "/etc/sandbox", "/box/../x/.."):
    path = os.path.join(folder, "hostile")
    denied(path, os.open, path, os.O_CREAT | os.O_WRONLY)
    denied(path, os.mkdir, path)
for path in ("/etc/passwd", "/etc/group", "/etc/sandbox/supervisor", "/usr/bin/python3",
             "/proc/sys/kernel/hostname", "/proc/sysrq-trigger",
             "/proc/sys/user/max_user_namespaces", "/proc/sys/vm/drop_caches"):
    denied(path, os.open, path, os.O_WRONLY)
    denied(path, os.chmod, path, 0o777)
    denied(path, os.unlink, path)
""",
        says(""),
    ),
    Threat(
        "devices of the host",
        """
for name in os.listdir("/dev"):
    if name not in ("null", "zero", "full", "random", "urandom", "tty", "pts", "ptmx",
                    "shm", "fd", "stdin", "stdout", "stderr", "core", "console"):
        print("escaped:", name)
""",
        says(""),
    ),
    Threat(
        "mounting",
        """
denied_call("mount", "mount", b"none", b"/box/work", b"tmpfs", 0, 0)
denied_call("remount", "mount", b"none", b"/usr", b"", 32 | 4096, 0)
denied_call("umount", "umount2", b"/proc", 0)
denied_call("fsopen", "fsopen", b"tmpfs", 0)
denied_call("open_tree", "open_tree", -100, b"/", 1)
denied("chroot", os.chroot, "/usr")
""",
        says(""),
    ),
    Threat(
        "nested namespaces",
        """
for flag in (0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x08000000, 0x04000000):
    if libc.unshare(flag) != -1: print("escaped: unshare", hex(flag))
    denied_call("clone %x" % flag, "clone", flag | 17, 0, 0, 0, 0)
    pid = libc.syscall(CALLS["clone"], 0x10000000 | flag | 17, 0, 0, 0, 0)
    if pid == 0: os._exit(0)
    if pid > 0: print("escaped: clone with a user namespace", hex(flag))
""",
        says(""),
    ),
    Threat(
        "a sandbox in the sandbox",
        "#!sh\nunshare -Ur true 2>/dev/null && echo escaped: unshare\n"
        "bwrap --ro-bind / / --unshare-user true 2>/dev/null && echo escaped: bwrap",
        lambda execution: execution.stdout == b"",
    ),
    Threat(
        "privileges",
        """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
    if int(status[name], 16): print("escaped:", name, status[name])
if status["NoNewPrivs"].strip() != "1": print("escaped: new privileges")
denied("setuid", os.setuid, 0)
denied("setgroups", os.setgroups, [0])
denied("chown", os.chown, ".", 0, 0)
denied("hostname", socket.sethostname, "hostile")
if os.nice(-5) < os.nice(0): print("escaped: nice")
denied("clock", time.clock_settime, time.CLOCK_REALTIME, 0)
print(os.getuid(), os.getgid(), os.getgroups())
""",
        lambda execution: execution.stdout.split(b"[")[0] == b"1000 1000 ",
    ),
]
