"""Programs that fill, and that hide things in their files."""

from .base import LITTER, MIB, SIGNAL, Threat, says

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
    Threat(
        "a million empty files",
        "for n in range(10**6): os.close(os.open('f%d' % n, os.O_CREAT))",
        LITTER,
    ),
    Threat(
        "a million empty files in shared memory",
        "os.chdir('/dev/shm')\nfor n in range(10**6): os.mknod('f%d' % n)",
        LITTER,
    ),
    Threat(
        "a million names of one file",
        "open('x', 'w')\nfor n in range(10**6): os.link('x', 'x%d' % n)",
        LITTER,
    ),
    Threat(
        "folders in folders without end",
        "while True: os.mkdir('d'); os.chdir('d')",
        LITTER,
    ),
    Threat(
        "a few more files than allowed, and a quick end",
        "for n in range(2**14): os.close(os.open('f%d' % n, os.O_CREAT))",
        LITTER,
    ),
    Threat(
        "attributes of a file without end",
        """
open("x", "w")
try:
    for n in range(10**6): os.setxattr("x", "user.%d" % n, b"x" * 60000)
except OSError: pass  # before Linux 6.6 there are none
else: print("escaped")
time.sleep(0.2)
""",
        lambda execution: execution.ok or LITTER(execution),
    ),
    Threat(
        "space set aside",
        """
try: os.posix_fallocate(os.open("x", os.O_CREAT | os.O_WRONLY), 0, 2 * 2**20)
except OSError: pass
for name in "abcdef":
    try: os.posix_fallocate(os.open(name, os.O_CREAT | os.O_WRONLY), 0, 2 * 2**20)
    except OSError as error: print(error.errno == errno.ENOSPC); break
""",
        says("True"),
    ),
    Threat(
        "names too long and empty",
        """
denied("long", os.mkdir, "n" * 256)
denied("longer", os.mkdir, "n/" * 4096)
denied("empty", os.mkdir, "")
for name in ("n" * 255, "ä" * 127, "\\udcff\\udc80"): open(name, "w")
""",
        lambda execution: execution.ok and len(execution.files) == 3,
        collect=True,
    ),
    Threat(
        "a core dump",
        "os.abort()",
        lambda execution: SIGNAL(execution) and execution.files == {},
        collect=True,
    ),
]
