"""The closed encoding: what comes out is what went in, and nothing else can."""

import collections
import decimal
import fractions
import marshal
import math
import random
import sys
import types

import numpy as np
import pytest

from cycleqd_jax.tasks.coding import _outputs, values

PLAIN = [
    None,
    True,
    False,
    0,
    -1,
    2**31 - 1,
    -(2**31),
    2**31,
    -(2**63),
    10**5000,
    -(7**3000),
    0.0,
    -0.0,
    1e308,
    float("inf"),
    -float("inf"),
    1 + 2j,
    "",
    "plain",
    'é€𝄞\n\0"\\',
    "\ud800",
    b"\x00\xff",
    (),
    [],
    {},
    set(),
    frozenset({1, (2, "x")}),
    [1, [2, (3, {4: {5, 6}})]],
    {"a": [1], (1, 2): {"b": None}},
]


@pytest.mark.parametrize(
    "value",
    PLAIN,
    # By place: `repr` of a set depends on the process.
    ids=range(len(PLAIN)),
)
def test_plain_values_come_back(value):
    got = values.decode_plain(marshal.dumps(value, 2))
    assert got == value and type(got) is type(value)


def test_nan_and_negative_zero_come_back():
    assert math.isnan(values.decode_plain(marshal.dumps(float("nan"), 2)))
    assert math.copysign(1, values.decode_plain(marshal.dumps(-0.0, 2))) == -1


def _random_value(rng, depth=0):
    kind = rng.randrange(7 if depth > 3 else 12)
    items = [
        _random_value(rng, depth + 1)
        for _ in range(rng.randrange(4) if depth < 4 else 0)
    ]
    keys = [rng.choice([rng.randrange(9), str(i), (i, None)]) for i in range(3)]
    return [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.randrange(-(10**6), 10**6),
        lambda: rng.randrange(-(10**40), 10**40),
        lambda: rng.gauss(0, 1e6),
        lambda: complex(rng.random(), rng.random()),
        lambda: "".join(rng.choices('abé€𝄞\n"', k=5)),
        lambda: items,
        lambda: tuple(items),
        lambda: set(keys),
        lambda: frozenset(keys),
        lambda: dict(zip(keys, items, strict=False)),
    ][kind]()


@pytest.mark.parametrize("seed", range(20))
def test_random_values_come_back_plain_and_tagged(seed):
    rng = random.Random(seed)
    for _ in range(50):
        value = _random_value(rng)
        for got in (
            values.decode_plain(marshal.dumps(value, 2)),
            values.decode_tagged(marshal.dumps(_outputs.tagged(value, 0), 2)),
        ):
            assert got == value and type(got) is type(value)


class _Int(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


class _Str(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


class _List(list):
    def __eq__(self, other):
        return True

    def __iter__(self):
        return iter([42])

    def __len__(self):
        return 1


class _Dict(dict):
    def items(self):
        return [("forged", 1)]


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (_Int(3), 3),
        (_Str("x"), "x"),
        (_List([1, 2]), [1, 2]),
        (_Dict(a=1), {"a": 1}),
        (Pair(1, [2]), (1, [2])),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.UserDict(a=1), {"a": 1}),
        (collections.UserList([1, (2,)]), [1, (2,)]),
        (collections.UserString("x"), "x"),
        (collections.ChainMap({"a": 1}, {"a": 2, "b": 3}), {"a": 1, "b": 3}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (np.array([[5]]), 5),
        (np.array(0.5), 0.5),
        (np.float64(0.5), 0.5),
        ({1: 2}.keys(), {1}),
        ({1: 2}.items(), {(1, 2)}),
        (fractions.Fraction(1, 2), 0.5),
        (decimal.Decimal("2"), 2),
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_kind_of_a_built_in_type_has_its_value_and_not_its_methods(value, expected):
    got = values.decode_tagged(marshal.dumps(_outputs.tagged(value, 0), 2))
    assert isinstance(got, values.Inexact)
    assert got.value == expected and not isinstance(got.value, (_Int, _Str, _List))


def test_inner_values_of_subclasses_are_plain():
    got = values.decode_tagged(marshal.dumps(_outputs.tagged([_Int(3)], 0), 2))
    assert got == [3] and type(got[0]) is int


@pytest.mark.parametrize(
    "value", [object(), len, iter([1]), map(str, []), (x for x in ()), {1: 2}.values()]
)
def test_anything_else_equals_nothing(value):
    got = values.decode_tagged(marshal.dumps(_outputs.tagged(value, 0), 2))
    got = got.value if isinstance(got, values.Inexact) else got
    assert got != value and got != got and got != None  # noqa: E711
    with pytest.raises(TypeError):
        hash(got)


@pytest.mark.parametrize("kind", [set, frozenset, dict])
def test_chosen_hashes_are_refused(kind):
    """A set of them would take minutes."""
    prime = sys.hash_info.modulus  # its multiples have the same hash
    few, many = ([i * prime for i in range(size)] for size in (50, 200))

    def make(keys):
        return dict.fromkeys(keys) if kind is dict else kind(keys)

    for value in (make(few), make(range(5000))):
        plain, tree = marshal.dumps(value, 2), _outputs.tagged(value, 0)
        assert values.decode_plain(plain) == value
        assert values.decode_tagged(marshal.dumps(tree, 2)) == value
    plain, tree = marshal.dumps(make(many), 2), _outputs.tagged(make(many), 0)
    with pytest.raises(ValueError, match="same hash"):
        values.decode_plain(plain)
    with pytest.raises(ValueError, match="same hash"):
        values.decode_tagged(marshal.dumps(tree, 2))


def test_long_fractions_and_arrays_equal_nothing():
    long = marshal.dumps(("fraction", 10**40_000, 3 * 10**40_000), 2)
    assert isinstance(values.decode_tagged(long), values.Other)
    several = marshal.dumps(_outputs.tagged(np.array([5, 5]), 0), 2)
    assert isinstance(values.decode_tagged(several), values.Other)


def test_ranges_equal_ranges_unless_they_are_long():
    def through(value):
        return values.decode_tagged(marshal.dumps(_outputs.tagged(value, 0), 2))

    assert through(range(1, 9, 2)) == range(1, 9, 2)
    assert isinstance(through(range(10**15)), values.Other)


def test_deep_values_equal_nothing():
    deep = []
    for _ in range(5000):
        deep = [deep]
    text = marshal.dumps(_outputs.tagged(deep, 0), 2)
    assert values.decode_tagged(text) != deep


CODE = compile("1", "x", "eval")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"?",
        b"S",
        b".",
        marshal.dumps(CODE, 2),
        marshal.dumps("x", 4),
        marshal.dumps([1, 2], 2) + b"N",
        marshal.dumps([1, 2], 2)[:-1],
        b"[\xff\xff\xff\x7f",
        b"[\xff\xff\xff\xff",
        b"l\x01\x00\x00\x00\xff\xff",
        b"u\x01\x00\x00\x00\xff",
        b"{N",
        b"<\x01\x00\x00\x00[\x00\x00\x00\x00",
        b"r\x00\x00\x00\x00",
        b"[\x01\x00\x00\x00" * 500 + b"N",
    ],
)
def test_what_is_not_in_the_encoding_is_refused(data):
    with pytest.raises(ValueError, match=r"\w"):
        values.decode_plain(data)


@pytest.mark.parametrize(
    "node",
    [
        ("unknown", 1),
        ("list", (1,)),
        ("dict", [(1, 2, 3)]),
        ("dict", [("list", []), 1]),
        ("set", [("list", [])]),
        ("fraction", 1, 0),
        ("decimal", "x"),
        ("range", 1, 2, 0),
        ("array", 100, 1),
        ("array", 1, ("list", [])),
        (),
    ],
)
def test_what_is_no_tagged_value_is_refused(node):
    with pytest.raises(ValueError, match=r"\w"):
        values.decode_tagged(marshal.dumps(node, 2))
