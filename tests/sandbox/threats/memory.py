"""Programs that take memory."""

from .base import HOG, SIGNAL, Threat, says

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
    print(os.waitstatus_to_exitcode(os.wait()[1]))
""",
        says("7\n7\n7\n7"),
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
    Threat(
        "memory of many children, together too much",
        """
for _ in range(8):
    if os.fork() == 0:
        data = bytearray(os.urandom(2**20) * 50)
        time.sleep({TOKEN})
time.sleep({TOKEN})
""",
        HOG,
    ),
    Threat(
        "memory of children that forbid to be looked at",
        """
for _ in range(8):
    if os.fork() == 0:
        libc.prctl(4, 0, 0, 0, 0)
        data = bytearray(os.urandom(2**20) * 50)
        time.sleep({TOKEN})
time.sleep({TOKEN})
""",
        HOG,
    ),
    Threat(
        "memory shared by many children, together not too much",
        """
data = bytearray(os.urandom(2**20) * 100)
for _ in range(8):
    if os.fork() == 0:
        time.sleep(0.3)
        os._exit(data[-1] < 0)
print([os.wait()[1] for _ in range(8)])
""",
        says(str([0] * 8)),
    ),
    Threat(
        "memory of children whose first thread has ended",
        """
def hold():
    time.sleep(0.3)
    data = bytearray(os.urandom(2**20) * 50)
    time.sleep({TOKEN})
number = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
for _ in range(5):
    if os.fork() == 0:
        threading.Thread(target=hold).start()
        libc.syscall(number, 0)
time.sleep({TOKEN})
""",
        HOG,
    ),
    Threat(
        "more than half of the memory, and many short children",
        """
import subprocess
data = bytearray(150 * 2**20)
for place in range(0, len(data), 4096): data[place] = 1
for _ in range(60): subprocess.run(["/bin/true"])
print("done")
""",
        says("done"),
    ),
    Threat(
        "shared mappings of many children",
        """
import mmap
for _ in range(8):
    if os.fork() == 0:
        data = mmap.mmap(-1, 60 * 2**20)
        data.write(bytes(60 * 2**20))
        time.sleep({TOKEN})
time.sleep({TOKEN})
""",
        HOG,
    ),
    Threat(
        "memory files",
        """
total = 0
denied_call("memfd_create", "memfd_create", b"x", 0)
denied_call("memfd_secret", "memfd_secret", 0)
""",
        says(""),
    ),
    Threat(
        "System V semaphores and queues",
        """
for _ in range(64):
    if libc.semget(0, 32000, 0o1600) != -1: print("escaped: semget")
denied_call("mq_open", "mq_open", b"hostile", 0o102, 0o600, 0)
""",
        says(""),
    ),
    Threat(
        "its standard input as a store",
        """
file = os.open("/proc/self/fd/0", os.O_WRONLY)
total = 0
try:
    while True: total += os.write(file, bytes(2**16))
except OSError as error:
    print(error.errno == errno.EFBIG, total <= 2 * 2**20)
""",
        says("True True"),
    ),
    Threat(
        "pipes as a store",
        """
total = 0
try:
    while True:
        _, end = os.pipe()
        os.set_blocking(end, False)
        try:
            while True: total += os.write(end, bytes(2**16))
        except BlockingIOError: pass
except OSError as error:
    print(error.errno == errno.EMFILE, total <= 32 * 2**16)
""",
        says("True True"),
    ),
    Threat(
        "a stack without end",
        """
sys.setrecursionlimit(10**9)
deep = []
for _ in range(10**6): deep = [deep]
repr(deep)
""",
        SIGNAL,
    ),
    Threat(
        "locking memory",
        "if libc.mlockall(3) == 0: print('escaped: mlockall')",
        says(""),
    ),
]
