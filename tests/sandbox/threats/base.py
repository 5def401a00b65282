"""What a hostile program is, and the words that the threats are written with.

Each threat is a Python program unless its source starts with `#!sh`. It prints
"escaped: ..." when it got at what it must not; everything else is judged by `expect`.
Text in braces is filled in by the driver: TOKEN, a word to find processes by; SECRET, a
file of the host; SOCKET, a listening socket file of the host; PORT and UDP, open ports
of the host; PID, a process of the host.
"""

import dataclasses
from collections.abc import Callable, Mapping

from cycleqd_jax.sandbox.base import Ending, Execution, Limits, Program

from .system_calls import call_numbers

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

    def program(self, words: Mapping[str, str]) -> Program:
        source = self.source
        for word, value in words.items():
            source = source.replace("{" + word + "}", value)
        # The word is in every command line, so whatever stays can be found.
        source += f"\n# {words['TOKEN']}"
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
HOG = ends(Ending.MEMORY_LIMIT)
LITTER = ends(Ending.ENTRIES_LIMIT)

PRELUDE = f"""
import ctypes, errno, os, signal, socket, sys, threading, time
CALLS = {call_numbers()}
libc = ctypes.CDLL(None, use_errno=True)
def denied(what, call, *args):
    try:
        got = call(*args)
    except OSError:
        return
    print("escaped:", what, repr(got)[:200])
def denied_call(what, name, *args):
    if libc.syscall(CALLS[name], *args) != -1:
        print("escaped:", what)
"""
