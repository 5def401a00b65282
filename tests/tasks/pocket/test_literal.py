"""The closed encoding: what goes round, what compares equal, what is refused."""

import math

import pytest

from cycleqd_jax.tasks.pocket import literal


def encode(value) -> bytes:
    scope = {}
    exec(literal.ENCODER, scope)
    return scope["_encode"](value).encode("ascii")


VALUES = [
    None,
    True,
    False,
    0,
    -(10**30),
    1.5,
    -0.0,
    math.inf,
    -math.inf,
    "",
    'quo"te \\ back\n\t\0 é \u2028 \U0001f600 \x7f',
    [],
    [1, [2.0, "x"], (), {}],
    (1, "a", None),
    {"a": 1, 2: [3], (4, 5): {"b": ()}},
    {1, "a", (2, 3)},
]


@pytest.mark.parametrize("value", VALUES)
def test_round_trip_keeps_value_and_type(value):
    back = literal.decode(encode(value))
    assert back == value and type(back) is type(value)
    assert literal.same(value, back)


@pytest.mark.parametrize(
    "value", [object(), b"bytes", 1j, iter([]), {}.keys(), type, [lambda: 0]]
)
def test_what_has_no_encoding_equals_nothing(value):
    back = literal.decode(encode(value))
    assert not literal.same(back, back) and not literal.same(value, back)


def test_subclasses_are_not_taken_for_their_base():
    class Liar(int):
        def __repr__(self):
            return "42"

    assert isinstance(literal.decode(encode(Liar(1))), literal.Other)


def test_endless_nesting_is_cut():
    value = []
    value.append(value)
    assert not literal.same(literal.decode(encode(value)), value)


@pytest.mark.parametrize(
    ("expected", "actual", "equal"),
    [
        (1, 1.0, True),
        (1.0, 1, True),
        (0.1 + 0.2, 0.3, True),
        (2, 3, False),
        (10**20, 10**20 + 1, False),
        (1.0, 1.001, False),
        (True, 1, False),
        (1, True, False),
        (True, True, True),
        (False, 0.0, False),
        ([1], (1,), False),
        ([1, 2], [1], False),
        ([1, [2]], [1, [2.0]], True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1.0}, True),
        ({"a": 1}, {"a": 2}, False),
        ({1}, [1], False),
        ("1", 1, False),
        ("", None, False),
        (math.nan, math.nan, False),
        (1.0, 10**400, False),
    ],
)
def test_comparison_rules(expected, actual, equal):
    assert literal.same(expected, actual) is equal


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[1",
        b"garbage",
        b'{"tuple": 3}',
        b'{"dict": [[1]]}',
        b'{"dict": [[[1], 2]]}',
        b'{"set": [[1]]}',
        b'{"tuple": [], "set": []}',
        b'{"import": "os"}',
        b"[" * 30_000,
        b"1" * 10_000,
        "é".encode(),
        b"\xff",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_forgeries_are_refused(text):
    with pytest.raises(ValueError):
        literal.decode(text)
