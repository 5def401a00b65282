"""Runs a problem's unit tests on an answer and writes which of them failed.

This is the main program in the sandbox. It starts in a folder with `answer` and `test`
(code, UTF-8). Both are one module, as in the benchmark, so they share this process:
what the answer does, it can do to its tests. It writes to standard output:

    cycleqd_jax bigcodebench 1
    {"tests": 5, "failed": [["test_case_3", "AssertionError: 1 != 2"]]}

Source: bigcodebench 0.2.5 (Apache-2.0), `bigcodebench/eval/__init__.py`.
"""

import builtins
import io
import json
import os
import subprocess
import sys
import types
import unittest

GREETING = b"cycleqd_jax bigcodebench 1\n"
NAME = "__test__"
SHOWN = 200  # characters of a failure


class Stream(io.StringIO):
    """Takes what is printed and has nothing to read."""

    def read(self, *_):
        raise OSError

    readline = readlines = read

    def readable(self):
        return False


def piped(function):
    """Lets a function of `subprocess` keep what its program prints."""

    def call(*args, **kwargs):
        if kwargs.get("capture_output"):
            kwargs.pop("stdout", None)
            kwargs.pop("stderr", None)
        else:
            kwargs.setdefault("stdout", subprocess.PIPE)
            kwargs.setdefault("stderr", subprocess.PIPE)
        return function(*args, **kwargs)

    return call


def last_line(text):
    """The last line of a traceback, which says what is wrong."""
    lines = str(text).strip().splitlines()
    return lines[-1][:SHOWN] if lines else ""


def report_of(code):
    """Runs code with the class `TestCases`, and all its tests."""
    builtins.exit = builtins.quit = None
    sys.stdin = sys.stdout = sys.stderr = Stream()
    subprocess.Popen, subprocess.run = piped(subprocess.Popen), piped(subprocess.run)
    module = types.ModuleType(NAME)
    more = {"__builtins__": builtins, "__file__": f"{NAME}.py", "__package__": None}
    more |= {"sys": sys, "os": os, "environ": os.environ}
    module.__dict__.update(more)
    try:
        exec(compile(code, f"{NAME}.py", "exec"), module.__dict__)
        sys.modules[NAME] = module
        suite = unittest.TestLoader().loadTestsFromTestCase(module.TestCases)
        result = unittest.TestResult()
        suite.run(result)
    except BaseException as err:  # noqa: BLE001 - whatever it is, the answer fails
        text = f"{type(err).__name__}: {err}"
        return {"tests": 0, "failed": [["ALL", last_line(text)]]}
    failed = [
        [str(test.id()).rpartition(".")[2][:SHOWN], last_line(trace)]
        for test, trace in result.failures + result.errors
    ]
    return {"tests": result.testsRun, "failed": failed}


def main():
    """Everything."""
    out = os.dup(1)
    os.write(out, GREETING)
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    with open("answer", encoding="utf-8") as file:
        code = file.read()
    with open("test", encoding="utf-8") as file:
        code += "\n" + file.read()
    here = os.getcwd()
    sys.path[:] = [path for path in sys.path if path not in ("", here)]
    sys.argv = [""]
    os.mkdir("work")
    os.chdir("work")
    report = json.dumps(report_of(code)).encode()
    while report:
        report = report[os.write(out, report) :]
    os._exit(0)  # threads and what is registered for the end do not matter


if __name__ == "__main__":
    main()
