"""Hostile programs: what each tries, and how it must end. No test module.

Each threat is a Python program unless its source starts with `#!sh`. It prints
"escaped: ..." when it got at what it must not; everything else is judged by `expect`.
Text in braces (TOKEN, SECRET, PORT, PID) is filled in by the driver: a word to find
processes by, a file of the host, a listening port of the host, a process of the host.
"""

import dataclasses
from collections.abc import Callable

from cycleqd_jax.sandbox.base import Ending, Execution, Limits, Program

MIB = 2**20
LIMITS = Limits(
    cpu_s=0.4,
    memory_bytes=256 * MIB,
    processes=12,
    file_bytes=2 * MIB,
    scratch_bytes=6 * MIB,
)
PATIENT = dataclasses.replace(LIMITS, cpu_s=4.0)
IMPATIENT = dataclasses.replace(LIMITS, wall_s=0.6)


@dataclasses.dataclass(frozen=True)
class Threat:
    """One hostile program.

    Attributes:
      name: what it tries.
      source: the program.
      expect: whether it was reported as what it was.
      limits: what it may use.
      collect: whether its files come back.
    """

    name: str
    source: str
    expect: Callable[[Execution], bool]
    limits: Limits = PATIENT
    collect: bool = False

    def program(self, words: dict[str, str]) -> Program:
        source = self.source
        for word, value in words.items():
            source = source.replace("{" + word + "}", value)
        argv = ("python3", "-c", PRELUDE + source)
        if source.startswith("#!sh"):
            argv = ("bash", "-c", source)
        return Program(argv, collect=self.collect, limits=self.limits)


def ends(ending: Ending) -> Callable[[Execution], bool]:
    return lambda execution: execution.ending is ending


def says(text: str) -> Callable[[Execution], bool]:
    return lambda execution: execution.ok and execution.stdout.decode().strip() == text


def exits(code: int) -> Callable[[Execution], bool]:
    return lambda execution: execution.exit_code == code


def any_ending(execution: Execution) -> bool:
    return True


CPU = ends(Ending.CPU_LIMIT)
WALL = ends(Ending.WALL_LIMIT)
FLOOD = ends(Ending.OUTPUT_LIMIT)
SIGNAL = ends(Ending.SIGNALLED)

PRELUDE = """
import ctypes, errno, os, signal, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def denied(what, call, *args):
    try:
        got = call(*args)
    except OSError:
        return
    print("escaped:", what, repr(got)[:200])
def denied_call(what, number, *args):
    if libc.syscall(number, *args) != -1:
        print("escaped:", what)
"""

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
    Threat("stopping itself", "os.kill(os.getpid(), signal.SIGSTOP)", WALL, IMPATIENT),
    Threat(
        "reading input that never comes",
        "print(len(sys.stdin.read()))",
        says("0"),
    ),
]

MEMORY = [
    Threat(
        "memory hog",
        "data = []\nwhile True: data.append(bytearray(2**24))",
        lambda execution: b"MemoryError" in execution.stderr,
    ),
    Threat(
        "memory hog in children",
        """
for _ in range(4):
    if os.fork() == 0:
        data = []
        try:
            while True: data.append(bytearray(2**26))
        except MemoryError:
            os._exit(7)
print([os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(4)])
""",
        says("[7, 7, 7, 7]"),
    ),
    Threat(
        "System V shared memory",
        """
if libc.shmget(0, 2**20, 0o1600) != -1: print('escaped: shmget')
if libc.msgget(0, 0o1600) != -1: print('escaped: msgget')
""",
        says(""),
    ),
    Threat(
        "raising its own limits",
        """
import resource
for name in ("CPU", "AS", "NPROC", "NOFILE", "FSIZE", "CORE"):
    number = getattr(resource, "RLIMIT_" + name)
    soft, hard = resource.getrlimit(number)
    try:
        resource.setrlimit(number, (hard + 1, hard + 1))
        print("escaped:", name)
    except (ValueError, OSError): pass
    if hard == resource.RLIM_INFINITY: print("escaped: no limit on", name)
""",
        says(""),
    ),
]

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

DISK = [
    Threat(
        "disk filler",
        """
total = 0
try:
    for number in range(1000):
        with open(str(number), "wb", buffering=0) as file:
            total += file.write(bytes(2**20))
except OSError as error:
    print(error.errno == errno.ENOSPC, total <= 6 * 2**20)
""",
        says("True True"),
    ),
    Threat(
        "disk filler with deleted files",
        """
files = []
total = 0
try:
    while True:
        files.append(open("/tmp/gone", "wb", buffering=0))
        os.unlink("/tmp/gone")
        total += files[-1].write(bytes(2**20))
except OSError as error:
    print(error.errno == errno.ENOSPC, total <= 6 * 2**20)
""",
        says("True True"),
    ),
    Threat(
        "shared memory filler",
        """
try:
    with open("/dev/shm/x", "wb", buffering=0) as file:
        for _ in range(64):
            if file.write(bytes(2**16)) < 2**16: raise OSError(errno.ENOSPC, "")
except OSError as error:
    print(error.errno == errno.ENOSPC, os.stat("/dev/shm/x").st_size <= 2**20)
""",
        says("True True"),
    ),
    Threat(
        "one large file",
        """
file = open("x", "wb", buffering=0)
try:
    while True: file.write(bytes(2**16))
except OSError as error:
    print(error.errno == errno.EFBIG, os.stat("x").st_size == 2 * 2**20)
""",
        says("True True"),
    ),
    Threat(
        "one large file from the shell",
        "#!sh\nhead -c 9000000 /dev/zero > x || echo refused",
        says("refused"),
    ),
    Threat(
        "sparse files",
        """
denied("sparse", os.truncate, os.open("x", os.O_CREAT | os.O_WRONLY), 2**40)
for number in range(100):
    os.truncate(os.open("s%d" % number, os.O_CREAT | os.O_WRONLY), 2 * 2**20)
    os.closerange(3, 50)
""",
        lambda execution: sum(map(len, execution.files.values())) <= 6 * MIB,
        collect=True,
    ),
    Threat(
        "many empty files",
        "for number in range(9000): os.close(os.open('f%d' % number, os.O_CREAT))",
        lambda execution: execution.ok and len(execution.files) == 4096,
        collect=True,
    ),
    Threat(
        "many folders",
        "for number in range(5000): os.mkdir('d%d' % number)",
        lambda execution: execution.ok and 1000 < len(execution.files) <= 4096,
        collect=True,
    ),
    Threat(
        "hard links that multiply a file",
        """
open("x", "wb").write(bytes(2**20))
for number in range(1000): os.link("x", "x%d" % number)
""",
        lambda execution: (
            execution.ok and sum(map(len, execution.files.values())) <= 6 * MIB
        ),
        collect=True,
    ),
    Threat(
        "a deep tree",
        """
for _ in range(2000):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
open("x", "w").write("deep")
""",
        lambda execution: execution.ok and len(execution.files) <= 64,
        collect=True,
    ),
    Threat(
        "hostile names",
        r"""
for name in (b"\xff\xfe", b"a\nb 1 2", b"n" * 255, b"end 0 0", b" ", b"\x01\x7f"):
    with open(name, "wb") as file: file.write(name)
""",
        lambda execution: (
            len(execution.files) == 6
            and all(
                name.encode("utf-8", "surrogateescape") == content
                for name, content in execution.files.items()
            )
        ),
        collect=True,
    ),
    Threat(
        "links, pipes, sockets and devices among the files",
        """
os.symlink("/etc/passwd", "link")
os.symlink("/usr", "folder")
os.symlink("loop", "loop")
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("socket")
denied("mknod", os.mknod, "device", 0o20666, os.makedev(1, 3))
denied("hard link", os.link, "/etc/passwd", "hard")
open("plain", "w").write("plain")
""",
        lambda execution: execution.files == {"plain": b"plain"},
        collect=True,
    ),
    Threat(
        "files it may not read itself",
        """
os.makedirs("a/b")
open("a/b/x", "w").write("hidden")
os.chmod("a/b/x", 0)
os.chmod("a/b", 0)
os.chmod("a", 0)
""",
        lambda execution: execution.files == {"a/b/x": b"hidden"},
        collect=True,
    ),
    Threat(
        "the scratch folder replaced by a link",
        """
os.chdir("/")
os.rename("/box/work", "/box/moved")
os.symlink("/etc", "/box/work")
""",
        lambda execution: execution.ok and execution.files == {},
        collect=True,
    ),
    Threat(
        "the scratch folder removed",
        "os.chdir('/'); os.rmdir('/box/work')",
        lambda execution: execution.ok and execution.files == {},
        collect=True,
    ),
]

OUTPUT = [
    Threat(
        "output flood",
        "while True: os.write(1, b'x' * 65536)",
        lambda execution: FLOOD(execution) and execution.stdout == b"x" * 2**16,
    ),
    Threat(
        "error flood",
        "while True: os.write(2, b'x' * 65536)",
        lambda execution: FLOOD(execution) and execution.stderr == b"x" * 2**16,
    ),
    Threat("output flood from the shell", "#!sh\nyes", FLOOD),
    Threat(
        "output flood by a child that outlives its parent",
        """
if os.fork() == 0:
    while True: os.write(1, b"x" * 4096)
time.sleep(1000)
""",
        FLOOD,
    ),
    Threat(
        "one byte too much, and a quick end",
        "os.write(1, b'x' * (2**16 - 1)); os.write(1, b'yz')",
        lambda execution: FLOOD(execution) and execution.stdout[-1:] == b"y",
    ),
    Threat(
        "as much output as is allowed",
        "os.write(1, b'x' * 2**16)",
        lambda execution: execution.ok and len(execution.stdout) == 2**16,
    ),
    Threat(
        "binary output",
        "os.write(1, bytes(range(256))); os.write(2, bytes(range(256)))",
        lambda execution: execution.stdout == execution.stderr == bytes(range(256)),
    ),
    Threat(
        "closing its own streams",
        "os.closerange(0, 64); time.sleep(0.2); os._exit(3)",
        exits(3),
    ),
    Threat(
        "output through reopened streams",
        "#!sh\necho out > /dev/stdout; echo fd > /proc/self/fd/1; echo > /dev/stderr",
        says("out\nfd"),
    ),
]

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
        says("[] [] []\n['group', 'passwd', 'sandbox']"),
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
denied_call("ptrace attach", 101, 16, 1, 0, 0)
denied_call("ptrace seize", 101, 0x4206, 1, 0, 0)
denied_call("pidfd_getfd", 438, os.pidfd_open(1), 4, 0)
buffer = ctypes.create_string_buffer(8)
denied_call("process_vm_readv", 310, 1, buffer, 1, buffer, 1, 0)
""",
        says(""),
    ),
    Threat(
        "key rings",
        """
denied_call("keyctl", 250, 6, -3, 0, 0, 0)
denied_call("add_key", 248, b"user", b"hostile", b"x", 1, -3)
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
]

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
denied_call("mount", 165, b"none", b"/box/work", b"tmpfs", 0, 0)
denied_call("remount", 165, b"none", b"/usr", b"", 32 | 4096, 0)
denied_call("umount", 166, b"/proc", 0)
denied_call("fsopen", 430, b"tmpfs", 0)
denied_call("open_tree", 428, -100, b"/", 1)
denied("chroot", os.chroot, "/usr")
""",
        says(""),
    ),
    Threat(
        "nested namespaces",
        """
for flag in (0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x08000000, 0x04000000):
    if libc.unshare(flag) != -1: print("escaped: unshare", hex(flag))
    denied_call("clone %x" % flag, 56, flag | 17, 0, 0, 0, 0)
    pid = libc.syscall(56, 0x10000000 | flag | 17, 0, 0, 0, 0)
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
denied("nice", os.nice, -5)
denied("clock", time.clock_settime, time.CLOCK_REALTIME, 0)
print(os.getuid(), os.getgid(), os.getgroups())
""",
        lambda execution: execution.stdout.split(b"[")[0] == b"1000 1000 ",
    ),
]

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
]

THREATS = {
    threat.name: threat
    for threat in (
        *TIME,
        *MEMORY,
        *PROCESSES,
        *DISK,
        *OUTPUT,
        *READING,
        *WRITING,
        *SIGNALS,
    )
}
