"""From completions to code: both sanitisers, beside EvalPlus's own."""

import asyncio
import os
import random
import signal
import sys
import warnings

import pytest

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.base import TaskSettings
from cycleqd_jax.tasks.coding import sanitize
from cycleqd_jax.tasks.coding._sanitizer import longest_parsable
from cycleqd_jax.tasks.registry import make_task

LINES = [
    "def f(x):", "def f (x):", "def g(y):", "    return x", "   return y", "  return 1",
    "", "print(f(1))", "if x:", "    y = 3", "import os", "from a import b", "x = 1",
    '"""', "\tfoo", '    """doc"""', "```", "```python", "    retur n (", "class A:",
    " \x0c", "\r", "def f(x): return 1", "# c", '   """', "   if", "def ff(x):",
    "\x1cdef f(", "Here you are:", "    pass", "x = '\\d'", "\\", "    return f(g(1))",
]  # fmt: skip


def texts(seed, count, longest):
    rng = random.Random(seed)
    return [
        "\n".join(rng.choice(LINES) for _ in range(rng.randrange(longest)))
        for _ in range(count)
    ]


def test_the_quicker_search_finds_what_evalplus_finds(ask_evalplus):
    cases = ["", "x", "x\n", "\n", "\n\n", " x\ny", *texts(1, 600, 15)]
    wanted = ask_evalplus("extract", cases)
    with warnings.catch_warnings():  # as in the process: an odd escape is no error
        warnings.simplefilter("ignore")
        assert [longest_parsable(case) for case in cases] == wanted


@pytest.mark.parametrize(
    ("kind", "theirs", "count"),
    [("evalplus", "sanitized", 150), ("reference", "legacy", 2000)],
)
def test_the_process_gives_evalplus_texts(ask_evalplus, kind, theirs, count):
    cases = [(text, "f") for text in texts(2, count, 20)]
    wanted = ask_evalplus(theirs, cases)
    process = sanitize.SanitizerProcess(kind)

    async def main():
        return [await process.sanitize(*case) for case in cases]

    try:
        assert asyncio.run(main()) == wanted
    finally:
        process.close()


def test_the_body_ends_at_the_first_fence():
    assert sanitize.body_of("a\n```\nb") == "a\n"
    assert sanitize.body_of("```python\na\n```") == ""
    assert sanitize.body_of("a") == "a"


@pytest.fixture
def process():
    process = sanitize.SanitizerProcess("reference")
    yield process
    process.close()


def clean(process, *codes):
    async def main():
        return await asyncio.gather(*(process.sanitize(c, "f") for c in codes))

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "left"),
    [
        ("def f(x):\n    return x\n", "def f(x):\n    return x"),
        ("def f(x):\n  return x\n", ""),  # two spaces
        ("def f(x): return x\n", ""),
        ("def f(x):\n    print(x)\n", ""),  # no value
        ("a = 1\ndef f(x):\n    return a\nb = 2\n", "a = 1\ndef f(x):\n    return a"),
        ("def f (x):\n    return x", "def f(x):\n    return x"),
        ("No code here", "No code here"),
    ],
)
def test_legacy_rules(process, code, left):
    assert clean(process, code) == [left]


def test_rules_of_bigcodebench():
    """The results of `bigcodebench.sanitize` 0.2.5."""
    cases = {
        "def f(x):\n    print(x)\n": "def f(x):\n    print(x)",  # no value
        "def g():\n    pass\ndef f(x):\n    g()\ny = f(2)\nf(1)": (
            "def g():\n    pass\ndef f(x):\n    g()"
        ),
        "a = 1\ndef f(x):\n    return x\nb = 3": "def f(x):\n    return x",
        "def f(x): return x\nf(1)": "def f(x): return x\nf(1)",  # all would go
    }
    process = sanitize.SanitizerProcess("bigcodebench")
    try:
        assert clean(process, *cases) == list(cases.values())
    finally:
        process.close()


@pytest.mark.parametrize(
    "code",
    [
        "def f(x):\n    return " + "-" * 50_000 + "1",
        "def f(x):\n    return " + "(" * 5000,
        "def f(x):\n    return '\0'",
        "def f(x):\n    return '\ud800'",
        "def f(x):\n    return '\\d'",
    ],
)
def test_odd_texts_do_no_harm(process, code):
    odd, usual = clean(process, code, "def f(x):\n    return x")
    assert odd.startswith("def f(x):")
    assert usual == "def f(x):\n    return x"


def test_a_killed_process_is_started_again(process):
    good = "def f(x):\n    return x"
    assert clean(process, good) == [good]
    os.kill(process._process.pid, signal.SIGKILL)
    assert clean(process, good) == [good]


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "evalplus.eval", None)
    for name in ("compare", "judge", "task"):
        monkeypatch.delitem(sys.modules, f"cycleqd_jax.tasks.coding.{name}", False)
    with pytest.raises(BadInputError, match=r"pip install 'cycleqd-jax\[coding\]'"):
        make_task("mbpp", TaskSettings())


def test_a_library_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setattr(sanitize.sys, "path", [sanitize.sys.path[0], *(
        p for p in sanitize.sys.path if "site-packages" not in p
    )])  # fmt: skip
    process = sanitize.SanitizerProcess("evalplus")
    with pytest.raises(BadInputError, match=r"cannot be imported.*coding"):
        clean(process, "x")
