"""Replies, answers and comparison, by the rules of the reference."""

import random
import re
import time

import pytest

from cycleqd_jax.tasks.dbbench import literals
from cycleqd_jax.tasks.dbbench.actions import parse_reply, shorten
from cycleqd_jax.tasks.dbbench.judge import is_right

REPLIES = [
    ("Action: Operation\n```sql\n SELECT 1\n FROM t \n```", "SELECT 1  FROM t", None),
    ("Action: Operation\n```sql\n\n```", "", None),
    ("Action: Operation\n```sql\nSELECT 1```", None, None),
    ("Action: Operation\n```SQL\nSELECT 1\n```", None, None),
    ("Action: Operation", None, None),
    ("Action: Operation\r\n```sql\nSELECT 1\n```", None, None),
    ("action: Operation\n```sql\nSELECT 1\n```", None, None),
    ("Action: Answer\nAction: Operation\n```sql\nSELECT 1\n```", None, None),
    ("```sql\nSELECT 1\n```\nAction: Operation\n", "SELECT 1", None),
    ("Action: Operation\n```sql\nA\n```\n```sql\nB\n```", "A", None),
    ("Action: Operation\n\nFinal Answer: [1]", None, " [1]"),
    ("Final Answer: [1]", None, None),
    ("\nFinal Answer: [1]\nFinal Answer: [2]", None, " [1]"),
    ("\nFinal Answer:", None, ""),
    ("", None, None),
]


@pytest.mark.parametrize(("reply", "statement", "answer"), REPLIES)
def test_a_reply_is_read_by_its_first_action(reply, statement, answer):
    action = parse_reply(reply)
    assert (action.statement, action.answer) == (statement, answer)


def test_reading_a_reply_takes_time_in_proportion_to_its_length():
    reply = "Action: Operation\n" + "```sql\nx" * 200_000 + " Final Answer:" * 1000
    began = time.process_time()
    assert parse_reply(reply).statement is None
    assert time.process_time() - began < 1


@pytest.mark.parametrize("seed", range(5))
def test_random_replies_are_read_as_the_reference_s_patterns_read_them(seed):
    rng = random.Random(seed)
    parts = ["Action: ", "Operation", "Answer", "\n", "\n", "```sql", "```", "\r", "x",
             "Final Answer:", " [1]", " "]  # fmt: skip
    for _ in range(4000):
        reply = "".join(rng.choices(parts, k=rng.randint(0, 16)))
        action = re.search(r"Action: (.*?)\n", reply)
        operates = action is not None and action.group(1) == "Operation"
        block = re.search(r"```sql\n([\s\S]*?)\n```", reply) if operates else None
        answer = re.search(r"\nFinal Answer:(.*)", reply)
        statement = block.group(1).strip().replace("\n", " ") if block else None
        expected = (operates, statement, answer.group(1) if answer else None)
        read = parse_reply(reply)
        assert (read.operates, read.statement, read.answer) == expected


def test_a_long_feedback_is_cut():
    assert shorten("x" * 800) == "x" * 800
    assert shorten("x" * 801) == "x" * 800 + "[TRUNCATED]"


ANSWERS = [
    (" 27", ["27.0"], True),
    (" 1_0", ["10"], True),
    ("\t[3]", ["3"], True),
    (" [1,]", ["1"], True),
    (" (1)", ["1"], False),  # no sequence: the text itself, which is no number
    (" (1,)", ["1"], True),
    (" {'a': 1, 'b': 2}", ["b", "a"], True),
    (" {'b', 'a'}", ["a", "b"], True),
    (" ['a'] + ['b']", ["a", "b"], True),
    (" ['a'] * 2", ["a", "b"], False),
    (" 'a', 'b'", ["a", "b"], True),
    (" 'ab'", ["ab"], False),
    (" 'a'", ["a"], True),
    (" ab", ["ab"], False),
    ("ab", ["ab"], True),
    (" [b'7']", ["7"], True),
    (" [7.0 // 2]", ["3"], True),
    (" [-(-2) ** 2 % 7]", ["3"], True),
    (" [not 1, 1]", ["0", "1"], False),  # numbers are no texts
    (" [1 < 2]", ["1"], True),
    (" [1 if 0 else 2]", ["2"], True),
    (" [None]", ["none"], False),
    (" ['NONE']", ["none"], False),
    (" ['none', 'none']", ["none"], True),
    (" ['a', 'a', 'b']", ["a", "b"], True),
    (" [[1]]", ["1"], False),
    (" [inf]", ["inf"], False),
    (" ['inf']", ["inf"], True),
    (" ['nan']", ["nan"], False),
    (" [1e999]", ["inf"], True),
    (" [1/0]", ["1"], False),
    (" []", [""], False),
    ("", [""], True),
    (' ["it\'s"]', ["it's"], True),
    (" ['a' 'b']", ["ab"], True),
    (" [10**400]", ["1"], False),  # no float
    (" [1j]", ["1"], False),
    (" [__import__('os').getpid()]", ["1"], False),
    (" [x for x in ('a', 'b')]", ["a", "b"], False),  # only literals and arithmetic
]


@pytest.mark.parametrize(("answer", "target", "right"), ANSWERS)
def test_an_answer_is_compared_by_its_values(answer, target, right):
    assert is_right("other", answer, target) is right


def test_of_a_modification_only_the_state_counts():
    for category in ("INSERT", "UPDATE", "DELETE"):
        assert is_right(category, "[('ab',)]", "[('ab',)]")
        assert not is_right(category, "[('ab',)] ", "[('ab',)]")


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "9**9**9**9",
        "1 << 10**9",
        "'a' * 10**9",
        "[[0] * 10000] * 10000",
        "((((1,) * 100,) * 100,) * 100,) * 100",
        "(" * 10_000,
        "[" * 10_000,
        "-" * 19_000 + "1",
        "1" + "+1" * 9_000,
        "not " * 4_000 + "1",
        "'%999999999d' % 1",
        "1" * 5_000,
        "x" * 10**6,
        "[" + "'a' * 9999," * 1500 + "] * 9999",
        "\0",
        "\ud800",
        "'\\ud800",
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_no_answer_takes_long(text):
    began = time.process_time()
    with pytest.raises(ValueError):
        literals.evaluate(text)
    assert is_right("other", f" [{text}]", ["1"]) is False
    assert time.process_time() - began < 1


def test_odd_escapes_are_no_warnings():
    assert literals.evaluate(r"'\d'") == r"\d"
