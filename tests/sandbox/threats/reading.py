"""Programs that read what is not theirs."""

from .base import Threat, says

READING = [
    Threat(
        "the host's files",
        """
for path in ("{SECRET}", "/etc/shadow", "/etc/ssh", "/etc/ssl/private", "/root",
             "/home", "/var", "/srv", "/opt", "/sys", "/run", "/boot", "/mnt",
             "/proc/1/root", "/proc/1/cwd", "/proc/kcore"):
    denied(path, os.listdir if os.path.isdir(path) else open, path)
allowed = set("bin box dev etc lib lib32 lib64 libx32 proc sbin tmp usr".split())
print(sorted(set(os.listdir("/")) - allowed), os.listdir("."), os.listdir("/tmp"))
print(sorted(set(os.listdir("/etc")) - {"alternatives", "ld.so.cache"}))
""",
        says("[] [] []\n['group', 'passwd']"),
    ),
    Threat(
        "the host's environment",
        """
for name, value in os.environ.items():
    if "HOSTILE_SECRET" in name + value: print("escaped:", name)
for pid in os.listdir("/proc"):
    if pid.isdigit() and pid != str(os.getpid()):
        denied(pid, lambda: open("/proc/%s/environ" % pid).read())
""",
        says(""),
    ),
    Threat(
        "the host's processes",
        """
pids = sorted(int(pid) for pid in os.listdir("/proc") if pid.isdigit())
print(pids == [1, os.getpid()])
""",
        says("True"),
    ),
    Threat(
        "the host's network",
        """
for family, address in ((socket.AF_INET, ("127.0.0.1", {PORT})),
                        (socket.AF_INET, ("1.1.1.1", 53)),
                        (socket.AF_INET6, ("::1", {PORT}, 0, 0)),
                        (socket.AF_UNIX, "\\0hostile-{TOKEN}")):
    def connect():
        with socket.socket(family) as client:
            client.settimeout(2)
            client.connect(address)
    denied(repr(address), connect)
denied("raw", socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)
denied("packet", socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
print([name for _, name in socket.if_nameindex()])
""",
        says("['lo']"),
    ),
    Threat(
        "the supervisor's memory, files and descriptors",
        """
for name in ("mem", "environ", "maps", "auxv", "syscall", "stack", "fd/0", "io",
             "exe", "root", "cwd", "map_files", "personality", "fd", "ns/user"):
    path = "/proc/1/" + name
    if name in ("fd", "map_files"):
        denied(path, lambda: [os.readlink(path + "/" + n) for n in os.listdir(path)])
    else:
        denied(path, lambda: os.readlink(path) if "/" in name or name in (
            "exe", "root", "cwd") else open(path, "rb").read(1))
        denied(path, os.open, path, os.O_RDWR)
denied_call("ptrace attach", "ptrace", 16, 1, 0, 0)
denied_call("ptrace seize", "ptrace", 0x4206, 1, 0, 0)
denied_call("pidfd_getfd", "pidfd_getfd", os.pidfd_open(1), 4, 0)
buffer = ctypes.create_string_buffer(8)
denied_call("process_vm_readv", "process_vm_readv", 1, buffer, 1, buffer, 1, 0)
""",
        says(""),
    ),
    Threat(
        "key rings",
        """
denied_call("keyctl", "keyctl", 6, -3, 0, 0, 0)
denied_call("add_key", "add_key", b"user", b"hostile", b"x", 1, -3)
denied("key list", lambda: open("/proc/keys").read() or 1 / 0)
""",
        says(""),
    ),
    Threat(
        "the terminal",
        "denied('tty', os.open, '/dev/tty', os.O_RDWR)",
        says(""),
    ),
    Threat(
        "descriptors that it was not given",
        """
for number in range(3, 1024): denied(str(number), os.fstat, number)
""",
        says(""),
    ),
    Threat(
        "the host's datagrams and socket files",
        """
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(0.3)
    client.sendto(b"{TOKEN}", ("127.0.0.1", {UDP}))
    denied("udp", client.recv, 10)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    denied("udp outside", client.sendto, b"{TOKEN}", ("1.1.1.1", 53))
for path in ("{SOCKET}", "/run/docker.sock", "/var/run/docker.sock",
             "/run/dbus/system_bus_socket", "/tmp/.X11-unix/X0"):
    denied(path, socket.socket(socket.AF_UNIX).connect, path)
""",
        says(""),
    ),
    Threat(
        "sockets that belong to no namespace",
        """
for family in range(1, 64):
    if family not in (1, 2, 10, 16):
        for kind in (1, 2, 3, 5):
            denied(family, socket.socket, family, kind)
            denied(family, socket.socketpair, family, kind)
""",
        says(""),
    ),
    Threat(
        "routes and interfaces of the host",
        """
print([line.split(":")[0].strip() for line in open("/proc/net/dev")][2:])
print(len(open("/proc/net/tcp").readlines()), len(open("/proc/net/unix").readlines()))
print(len(open("/proc/net/route").readlines()))
""",
        says("['lo']\n1 1\n1"),
    ),
    Threat(
        "the supervisor's folder",
        """
denied("process 1", lambda: os.listdir("/proc/1")[0] if os.listdir("/proc/1") else
       os.stat("/proc/1/stat"))
for name in ("oom_score_adj", "autogroup", "coredump_filter", "clear_refs", "comm",
             "sched", "timerslack_ns", "uid_map", "task/1/comm", "attr/current"):
    denied(name, os.open, "/proc/1/" + name, os.O_WRONLY)
    denied(name, os.stat, "/proc/1/" + name)
denied("cover", os.mkdir, "/proc/1/hostile")
""",
        says(""),
    ),
    Threat(
        "secrets in the kernel's files",
        """
for name in ("kcore", "kmsg", "kpagecount", "kpageflags", "vmallocinfo", "slabinfo",
             "timer_list", "iomem_", "keys_", "sysrq-trigger"):
    denied(name, lambda: open("/proc/" + name, "rb").read(1)[0])
for line in open("/proc/self/mountinfo"):
    if "{SECRET}" in line: print("escaped:", line)
print(len(open("/proc/self/cgroup").read().split("{TOKEN}")))
""",
        says("1"),
    ),
]
