"""Programs that write strangely."""

from .base import FLOOD, Threat, exits, says

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
    Threat(
        "changing the pipe of its output",
        """
import fcntl
for fd in (1, 2):
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC | os.O_APPEND)
    fcntl.fcntl(fd, fcntl.F_SETOWN, 1)
    fcntl.fcntl(fd, 1031, 4096)  # F_SETPIPE_SZ
os.set_blocking(1, True)
os.write(1, b"x" * 20000)
""",
        lambda execution: execution.ok and execution.stdout == b"x" * 20000,
    ),
    Threat(
        "output in both streams at once, in small pieces",
        """
for _ in range(3000):
    os.write(1, b"o")
    os.write(2, b"e")
""",
        lambda execution: (
            (execution.stdout, execution.stderr) == (b"o" * 3000, b"e" * 3000)
        ),
    ),
    Threat(
        "reading what it wrote",
        "denied('pipe', os.read, 1, 1); print('alone')",
        says("alone"),
    ),
]
