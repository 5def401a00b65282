"""The closed encoding: what comes out is what went in, and nothing else can."""

import collections
import decimal
import fractions
import json
import math
import pathlib
import random
import subprocess
import sys
import tracemalloc
import types

import numpy as np
import pytest

from cycleqd_jax.tasks import values
from cycleqd_jax.tasks.values import Like, Long, Other


def through(value):
    """A value encoded and decoded."""
    return values.decode(values.encode(value).encode("ascii"))


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
    'é€𝄞\n\0"\\ \t \u2028 \x7f',
    "\ud800",
    b"\x00\xff",
    (),
    [],
    {},
    set(),
    frozenset({1, (2, "x")}),
    [1, [2, (3, {4: {5, 6}})]],
    {"a": [1], (1, 2): {"b": None}},
    range(1, 9, 2),
]


@pytest.mark.parametrize(
    "value",
    PLAIN,
    # By place: `repr` of a set depends on the process.
    ids=range(len(PLAIN)),
)
def test_plain_values_come_back(value):
    got = through(value)
    assert got == value and type(got) is type(value)


def test_nan_and_negative_zero_come_back():
    assert math.isnan(through(math.nan))
    assert math.copysign(1, through(-0.0)) == -1
    z = through(complex(-0.0, math.inf))
    assert math.copysign(1, z.real) == -1 and z.imag == math.inf


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


def with_types(value):
    """Text of a value in which True is not 1 and the order of a set does not matter."""
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(with_types, value))})"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}({', '.join(sorted(map(with_types, value)))})"
    if isinstance(value, dict):
        return f"dict{with_types(list(value.items()))}"
    return repr(value)


@pytest.mark.parametrize("seed", range(20))
def test_random_values_come_back(seed):
    rng = random.Random(seed)
    for _ in range(50):
        value = _random_value(rng)
        assert with_types(through(value)) == with_types(value)


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
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.UserDict(a=1), {"a": 1}),
        (collections.UserList([1, (2,)]), [1, (2,)]),
        (collections.UserString("x"), "x"),
        (collections.ChainMap({"a": 1}, {"a": 2, "b": 3}), {"a": 1, "b": 3}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(2), 2),
        (np.bool_(True), True),
        ({1: 2}.keys(), {1}),
        ({1: 2}.items(), {(1, 2)}),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_equals_a_built_in_type_has_its_value_and_not_its_methods(value, expected):
    got = through(value)
    assert isinstance(got, Like)
    assert got.value == expected and type(got.value) is type(expected)


@pytest.mark.parametrize(
    "value",
    [
        collections.Counter("aab"),
        collections.OrderedDict(b=1, a=2),
        collections.deque([1, [2]]),
        fractions.Fraction(1, 2),
        fractions.Fraction(7**300, 2),
        decimal.Decimal("0.10"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_values_of_some_library_types_come_back(value):
    got = through(value)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize("value", [np.array([[5]]), np.array(0.5), np.array([1 + 2j])])
def test_an_array_of_one_element_comes_back(value):
    got = through(value)
    assert got == value and got.shape == value.shape
    assert isinstance(through(np.array([5, 5])), Other)  # `==` with it is no bool


def test_inner_values_of_subclasses_are_plain():
    got = through([_Int(3), {"a": np.float64(0.5)}])
    assert got == [3, {"a": 0.5}]
    assert type(got[0]) is int and type(got[1]["a"]) is float


@pytest.mark.parametrize(
    "value", [object(), len, iter([1]), map(str, []), (x for x in ()), {1: 2}.values()]
)
def test_anything_else_equals_nothing(value):
    got = through(value)
    assert isinstance(got, Other) and got.name == type(value).__name__
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
        assert through(value) == value
    with pytest.raises(ValueError, match="same hash"):
        through(make(many))


def test_long_values_equal_those_of_the_same_content():
    long = [(i, "x" * 9) for i in range(60_000)]
    got = through(long)
    assert isinstance(got, Long) and got == through(list(long))
    assert got != through(long[1:]) and got != long
    assert isinstance(through(1 << 10**8), Long)
    escaped = "\0" * 250_000  # six characters of the text each
    assert isinstance(through(escaped), Long) and through(escaped) != through("\0")
    # One that is not of built-in types only has no digest.
    assert isinstance(through([_Str("x" * 10**7)]), Other)


def test_long_fractions_and_ranges_equal_nothing():
    assert isinstance(through(fractions.Fraction(10**40_000, 3)), Other)
    assert isinstance(through(range(10**15)), Other)


def test_deep_and_endless_values_equal_nothing():
    deep = []
    for _ in range(5000):
        deep = [deep]
    endless = []
    endless.append(endless)
    assert through(deep) != deep
    assert through(endless) != endless


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[1",
        b"garbage",
        b"[1] 2",
        b"[" * 30_000,
        b"1" * 10_000,
        "é".encode(),
        b"\xff",
        b'"' + b"x" * values.LONGEST + b'"',
        b'{"list": [1]}',
        b'{"import": "os"}',
        b'{"tuple": 3}',
        b'{"tuple": [1], "set": [1]}',
        b'{"dict": [[1]]}',
        b'{"dict": [1]}',
        b'{"dict": [[1, 2, 3]]}',
        b'{"dict": [[[1], 2]]}',
        b'{"set": [[1]]}',
        b'{"set": [{"other": "x"}]}',
        b'{"int": "xyz"}',
        b'{"int": 5}',
        b'{"bytes": "0"}',
        b'{"complex": ["a", 1.0]}',
        b'{"Fraction": [1, 0]}',
        b'{"Fraction": ["1", 2]}',
        b'{"Decimal": "x"}',
        b'{"range": [1, 2, 0]}',
        b'{"range": [1, 2.0, 1]}',
        b'{"array": [100, 1]}',
        b'{"array": [1, [1, 2]]}',
        b'{"array": [1, "x"]}',
        b'{"other": 1}',
        b'{"sha256": []}',
    ],
    ids=lambda text: repr(text[:25]),
)
def test_what_is_not_in_the_encoding_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        values.decode(text)


def test_decoding_takes_memory_in_proportion_to_the_text():
    """The worst text makes some tens of bytes of each character."""
    text = b"[" + b"[]," * 30_000 + b"0]"
    tracemalloc.start()
    try:
        assert len(values.decode(text)) == 30_001
        assert tracemalloc.get_traced_memory()[1] < 80 * len(text)
    finally:
        tracemalloc.stop()


def test_the_file_runs_by_itself(tmp_path):
    """In a sandbox there is nothing but the file, and time is short."""
    source = pathlib.Path(values.__file__).read_bytes()
    (tmp_path / "values.py").write_bytes(source)
    program = (
        "import sys; sys.path.insert(0, '.'); import values; "
        "assert not {'json', 're', 'collections', 'numpy'} & sys.modules.keys(); "
        "print(values.encode({1: (2.5, None)}))"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert values.decode(done.stdout) == {1: (2.5, None)}
    assert json.loads(done.stdout) == {"dict": [[1, {"tuple": [2.5, None]}]]}


def test_a_description_is_short_and_always_there():
    assert values.describe([1, 2]) == "[1, 2]"
    assert len(values.describe("x" * 500)) == 80
    assert values.describe(10**5000) == "a long int"
