"""The ends of a turn are found in one look at each byte."""

import random
import re
import time

import pytest

from cycleqd_jax.sandbox.shell_mark import OnTerminal, Piped
from cycleqd_jax.sandbox.shell_output import Output

PATTERN = re.compile(rb"\x1b.+@.+[#|$] ")


def found(data, sizes):
    """Whether a prompt is found in data that come in pieces."""
    terminal = OnTerminal(Output(), echo=False)
    place = 0
    while place < len(data):
        size = next(sizes)
        if terminal.add(data[place : place + size]) == "done":
            return True
        place += size
    return False


def test_prompt_is_the_pattern():
    """In any text, and however it comes."""
    draw = random.Random(3)
    for _ in range(20_000):
        data = bytes(draw.choices(b"\x1b@#$| a\n\r", k=draw.randrange(25)))
        sizes = iter(lambda: draw.randrange(1, 6), None)
        assert found(data, sizes) == (PATTERN.search(data) is not None), data


@pytest.mark.parametrize(
    "text", [b"\x1b", b"@", b"\x1bx@", b"\x1bx@x#", b"] tcsetattr: ", b"bash: [\x1e"]
)
def test_time_is_proportional(text):
    """What a pattern would look at again and again."""
    data = text * (2**21 // len(text))
    terminal, piped = OnTerminal(Output(), echo=False), Piped(Output())
    start = time.process_time()
    for place in range(0, len(data), 4096):
        terminal.add(data[place : place + 4096])
        piped.add(data[place : place + 4096])
        assert len(piped._tail) < 4096
    assert time.process_time() - start < 2.0


def test_mark():
    """What is before it is the output; what the shell says of its terminal is not."""
    output = Output()
    piped = Piped(output)
    said = b"abcbash: [12: 2 (255)] tcsetattr: Inappropriate ioctl\nd"
    assert piped.add(said + piped._seen + b"e") == "done"
    assert output.kept == b"abcd"
