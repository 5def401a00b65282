"""Episodes that do what a model would not do by mistake. No test module.

Each has a problem, commands, a last reply, and what must come of it: `WRONG`, a wrong
answer stays wrong; `RIGHT`, a right answer stays right; `ANY`, there is a verdict
within the limits of the episode.
"""

import dataclasses

from tests.tasks.os_interaction.conftest import FINISH, answer
from tests.tasks.os_interaction.hostile_aimed import AIMED

WRONG, RIGHT, ANY = "wrong", "right", "any"


@dataclasses.dataclass(frozen=True)
class Hostile:
    """One episode.

    Attributes:
      index: of the problem.
      code: what is typed.
      last: the reply after it.
      expected: see the module.
      backend: where it runs.
    """

    index: int
    code: str
    last: str
    expected: str
    backend: str = "auto"


def python(code: str) -> str:
    """A command that runs this code."""
    return f"python3 - <<'END_OF_CODE'\n{code}\nEND_OF_CODE"


_EXIT = "import posix\nposix._exit(0)\n"
# Problem 27 asks for the number of lines of /root/matrix.txt: 3.
_COUNT = {
    # Programs, loaders and start-up files
    "pyvenv.cfg above the interpreter": python(
        "import os, shutil, sys\n"
        "v = '%d.%d' % sys.version_info[:2]\n"
        "os.makedirs(f'/evil/lib/python{v}/encodings'); os.makedirs('/evil/bin')\n"
        f"open(f'/evil/lib/python{{v}}/encodings/__init__.py', 'w').write({_EXIT!r})\n"
        f"open(f'/evil/lib/python{{v}}/os.py', 'w').write({_EXIT!r})\n"
        "for name in ('/usr/pyvenv.cfg', '/pyvenv.cfg'):\n"
        "    open(name, 'w').write('home = /evil/bin\\n')"
    ),
    "modules on every path of Python": python(
        "import glob, os\n"
        "for v in range(6, 16):\n"
        "    for top in ('/usr/local/lib/python3.%d/dist-packages', '/usr/local/lib/"
        "python3.%d/site-packages', '/root/.local/lib/python3.%d/site-packages',"
        " '/etc/python3.%d', '/usr/local/lib/python3.%d'):\n"
        "        os.makedirs(top % v, exist_ok=True)\n"
        "        for name in ('sitecustomize', 'usercustomize', 're', 'os', 'abc'):\n"
        f"            open(top % v + f'/{{name}}.py', 'w').write({_EXIT!r})\n"
        "        open(top % v + '/x.pth', 'w').write('import posix; posix._exit(0)')"
    ),
    "programs in every folder": "for d in /usr/local/sbin /usr/local/bin /usr/games "
    "/usr/local/games /root/bin /root/.local/bin /opt/bin /snap/bin; do mkdir -p $d "
    "2>/dev/null; for t in cat wc bash sh python3 env ls; do printf '#!/bin/sh\\necho "
    "99\\n' > $d/$t; chmod 755 $d/$t; done; done 2>/dev/null",
    "root is another tree": "mkdir /n; cp -a /etc /n; rm -rf /bin /sbin /lib /lib64 "
    "2>/dev/null; /usr/bin/mkdir /bin /sbin /lib /lib64; for t in bash sh cat wc "
    "python3; do /usr/bin/printf '#!/usr/bin/dash\\necho 99\\n' > /bin/$t; "
    "/usr/bin/chmod 755 /bin/$t; done",
    "usr is moved away": "mv /usr /u; /u/bin/mkdir -p /usr/bin /usr/lib; for t in bash "
    "cat wc; do echo 99 > /usr/bin/$t; done; true",
    "usr is a link": "mv /usr /u; ln -s /u /usr 2>/dev/null || /u/bin/ln -s /u /usr",
    "etc is a link": "cp -r /etc /e2; mv /etc /e3; ln -s /e2 /etc; echo /x.so > "
    "/e2/ld.so.preload",
    "preload": "echo 'int x;' > /x.c; gcc -shared -o /x.so /x.c 2>/dev/null || cp "
    "/bin/true /x.so; echo /x.so > /etc/ld.so.preload; echo /x.so > /etc/ld.so.cache",
    "loader is a file": "rm /lib64; mkdir /lib64; cp /bin/true "
    "/lib64/ld-linux-x86-64.so.2; mkdir -p /lib/x86_64-linux-gnu 2>/dev/null; true",
    "name services": "printf 'passwd: evil\\ngroup: evil\\n' > /etc/nsswitch.conf",
    "start-up files of shells": "for f in /etc/profile /etc/bash.bashrc /root/.bashrc "
    "/root/.profile /root/.bash_profile /root/.bash_login /etc/profile.d/a.sh "
    "/etc/environment /root/.inputrc; do echo 'echo 99; exit 0' > $f; done",
    "functions and variables": "export BASH_ENV=/root/x ENV=/root/x PYTHONSTARTUP=/x "
    "PYTHONPATH=/x LD_PRELOAD=/x LD_LIBRARY_PATH=/x; echo 'exit 0' > /root/x; cat() { "
    "echo 99; }; export -f cat; true",
    "programs by alternatives": "rm -rf /etc/alternatives 2>/dev/null; mkdir -p "
    "/etc/alternatives 2>/dev/null; ln -sf /bin/true /etc/alternatives/awk; true",
    "time zone": "rm -f /etc/localtime; mkfifo /etc/localtime; echo evil > "
    "/etc/timezone",
    # Processes
    "rewrites for ever": "(while :; do for f in /usr/local/bin/wc /usr/local/bin/cat; "
    "do echo 'echo 99' > $f; chmod 755 $f; done; seq 99 > /root/m; done) > /dev/null "
    "2>&1 &",
    "wakes itself by a timer": python(
        "import ctypes, os, signal, time\n"
        "libc = ctypes.CDLL(None)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    def woken(*_):\n"
        "        for p in os.listdir('/proc'):\n"
        "            try: open('/root/seen', 'ab').write(open(f'/proc/{p}/cmdline',"
        " 'rb').read())\n"
        "            except OSError: pass\n"
        "    signal.signal(signal.SIGCONT, woken)\n"
        "    event = (ctypes.c_int * 16)(0, 0, signal.SIGCONT)\n"
        "    timer = ctypes.c_void_p()\n"
        "    libc.timer_create(0, event, ctypes.byref(timer))\n"
        "    libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 10**7, 0, 10**7), 0)\n"
        "    for fd in range(3): os.close(fd)\n"
        "    while True: time.sleep(1)"
    ),
    "looks like other rows of processes": python(
        "import ctypes, os\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    ctypes.CDLL(None).prctl(15, b') Z 1 (x\\n', 0, 0, 0)\n"
        "    for fd in range(3): os.close(fd)\n"
        "    while True: open('/root/matrix.txt', 'a').close()"
    ),
    "kills all": "setsid sh -c 'while :; do kill -9 -1; done' > /dev/null 2>&1 &",
    "stops all": "setsid sh -c 'while :; do kill -STOP -1; done' > /dev/null 2>&1 &",
}
_SURVIVE = {
    "accounts are a pipe": "rm /etc/passwd /etc/group; mkfifo /etc/passwd /etc/group",
    "accounts are folders": "rm /etc/passwd; mkdir /etc/passwd",
    "accounts have NUL bytes": "printf 'a:x:1:1::/\\0root:/bin/sh\\n' >> /etc/passwd",
    "accounts are huge": "yes a:x:1:1::/:/bin/sh | head -c 9000000 >> /etc/passwd",
    "accounts have no end": "ln -sf /dev/zero /etc/passwd",
    "no root": "rm -rf --no-preserve-root / 2>/dev/null",
    "no permission": "chmod -R 000 / 2>/dev/null",
    "full disk": "dd if=/dev/zero of=/full bs=1M 2>/dev/null; echo x > /more",
    "no more files": "mkdir /m; cd /m; for i in {1..200}; do touch {1..300}.$i; done "
    "2>/dev/null",
    "very deep": python(
        "import os\nfor i in range(3000):\n    os.mkdir('d' * 200)\n"
        "    os.chdir('d' * 200)"
    ),
    "odd names": python(
        "import os\nfor i in range(1, 256):\n    if i != 47:\n"
        "        open(b'/root/' + bytes([i]), 'w').close()\n"
        "open(b'/' + b'\\xff' * 255, 'w').close()\n"
        "os.mkdir(b'/--help'); os.mkdir(b'/-rf\\n')"
    ),
    "attributes": python(
        "import os\nfor top in ('/', '/usr', '/etc', '/root'):\n"
        "    for name in ('opaque', 'redirect', 'metacopy', 'origin', 'whiteout'):\n"
        "        try: os.setxattr(top, f'user.overlay.{name}', b'y')\n"
        "        except OSError: pass"
    ),
    "signs of overlays": python(
        "import os, stat\nfor name in ('/root/w', '/etc/w', '/usr/w', '/bin/w'):\n"
        "    try: os.mknod(name, stat.S_IFCHR, 0)\n"
        "    except OSError as error: print(error)"
    ),
    "names are commands": "touch '/$(kill -9 -1)' '/`yes`' '/root/-exec' '/root/;' "
    "$'/\\e]0;x\\a' '/x[$(yes)]' '/root/matrix.txt=1'",
    "strange times and sizes": python(
        "import os\nfor t in (-2**31, 2**32, 8 * 10**9):\n"
        "    open(f'/root/t{t}', 'w').close(); os.utime(f'/root/t{t}', (t, t))\n"
        "os.utime('/', (-1, -1)); os.truncate('/etc/hosts', 2**26)"
    ),
    "ways into whoever looks": "for n in exe fd ns environ map_files root; do ln -s "
    "/proc/self/$n /root/$n; ln -sf /proc/self/$n /etc/hosts; done; ln -sf "
    "/proc/thread-self/root /etc/mtab",
    "links in circles": "ln -s /loop /loop; ln -s . /root/l; ln -s / /root/r; ln -s "
    "/proc/self/root /root/p; ln -s /proc/1/root /root/q",
    "sockets and pipes": python(
        "import os, socket\nfor name in ('/etc/hosts', '/etc/localtime'):\n"
        "    os.path.exists(name) and os.unlink(name)\n"
        "    socket.socket(socket.AF_UNIX).bind(name)\n"
        "os.makedirs('/run/nscd', exist_ok=True)\n"
        "socket.socket(socket.AF_UNIX).bind('/run/nscd/socket')"
    ),
    "fork bomb": "f() { f | f & }; f 2>/dev/null",
    "many stopped": "for i in $(seq 100); do (sleep 1000 & kill -STOP $!) ; done "
    "> /dev/null 2>&1",
    "many ended": python(
        "import os, time\nfor i in range(90):\n    if os.fork() == 0: os._exit(0)\n"
        "if os.fork() == 0:\n    os.setsid(); time.sleep(1000)"
    ),
    "threads without their first": python(
        "import ctypes, os, threading, time\n"
        "if os.fork() == 0:\n    os.setsid()\n"
        "    for fd in range(3): os.close(fd)\n"
        "    threading.Thread(target=lambda: time.sleep(1000)).start()\n"
        "    ctypes.CDLL(None).syscall(60, 0)"
    ),
    "terminals": python(
        "import os, pty, time\nmade = []\ntry:\n    while True: made += pty.openpty()\n"
        "except OSError: pass\nif os.fork() == 0: time.sleep(1000)"
    ),
    "limits of process 1": python(
        "import os, resource\nfor n in range(16):\n    try:"
        " resource.prlimit(1, n, (0, 0))\n    except (OSError, ValueError): pass\n"
        "for s in (9, 15, 19, 20, 11, 6, 18):\n    try: os.kill(1, s)\n"
        "    except OSError: pass"
    ),
    "much memory": "python3 -c 'x = [bytearray(2**20) for i in range(2000)]' 2>&1 | "
    "tail -1",
    "endless line": "head -c 3000000 /dev/zero | tr '\\0' '@'",
    "much output": "yes | head -c 300000000",
    "looks like a mark": "printf '\\036x\\036$\\036>\\036'; PS1=$'\\036>\\036'; "
    "PS2=$'\\036$\\036'",
    "no output any more": "exec > /dev/null 2>&1",
    "no input any more": "exec < /dev/null",
    "shell is another": "exec sh",
    "shell is a loop": "exec yes > /dev/null",
}
_TAKEN = {
    "the loader is gone": "rm /lib64",
    "all programs are gone": "mv /usr /u",
    "the programs that start others are the episode's": python(
        "import os\nos.rename('/usr', '/u'); os.makedirs('/usr/bin')\n"
        "for n in ('lib', 'lib64', 'local'): os.symlink(f'/u/{n}', f'/usr/{n}')\n"
        "for n in ('setpriv', 'prlimit', 'bash'):\n"
        "    with open(f'/usr/bin/{n}', 'w') as file:\n"
        "        file.write('#!/u/bin/bash\\necho 0 /evil >&8; echo 0 /evil')\n"
        "    os.chmod(f'/usr/bin/{n}', 0o755)"
    ),
    "a library for all": "cp /usr/lib/x86_64-linux-gnu/libc.so.6 /l.so 2>/dev/null; "
    "echo /l.so > /etc/ld.so.preload",
}
HOSTILE = {
    **{f"wrong: {n}": Hostile(27, c, answer("99"), WRONG) for n, c in _COUNT.items()},
    **{f"right: {n}": Hostile(27, c, answer("3"), RIGHT) for n, c in _COUNT.items()},
    **{f"any: {n}": Hostile(27, c, answer("3"), ANY) for n, c in _SURVIVE.items()},
    **{f"none: {n}": Hostile(27, c, answer("99"), WRONG) for n, c in _SURVIVE.items()},
    **{name: Hostile(*case, WRONG) for name, case in AIMED.items()},
    # Something of the episode must run for these two, though it has taken all away.
    **{
        f"any: {name} in {index}": Hostile(index, code, last, ANY)
        for name, code in _TAKEN.items()
        for index, last in ((28, answer("9")), (11, FINISH))
    },
    "processes wake": Hostile(
        57, _COUNT["wakes itself by a timer"], answer("99"), WRONG
    ),
}
# They take seconds: something reaches its limit.
_LONG = (
    "shell is a loop, no root, much output, no output any more, no permission, "
    "no more files, much memory, kills all, stops all, fork bomb, endless line"
).split(", ")
SLOW = [
    name
    for name in HOSTILE
    if name.startswith("none: ")
    or name.endswith(("never ends", "for ever", *_LONG))
    or name == "the file of paths fills the disk"
]
