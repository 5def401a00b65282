"""The comparison rules, beside EvalPlus's own functions and by the published table."""

import decimal
import fractions
import math
import random
import sys
import time

import numpy as np
import pytest

from cycleqd_jax.tasks.coding.compare import Comparison, Rules
from cycleqd_jax.tasks.values import Like, Other

NAMES = [
    ("mbpp", "plain"),
    ("mbpp", "are_equivalent"),
    ("mbpp", "sum_div"),
    ("mbpp", "surface_Area"),
    ("mbpp", "digit_distance_nums"),
    ("mbpp", "similar_elements"),
    ("mbpp", "Diff"),
    ("mbpp", "check_str"),
    ("humaneval", "plain"),
    ("humaneval", "are_equivalent"),
    ("humaneval", "Diff"),
]


def verdicts(dataset, entry_point, atol, inputs, expected, outputs, rules="evalplus"):
    comparison = Comparison(dataset, entry_point, atol, Rules(rules))
    tolerances = comparison.tolerances(expected)
    return [
        comparison.right(*case)
        for case in zip(inputs, expected, outputs, tolerances, strict=True)
    ]


def _number(rng):
    exact = rng.choice([0, 1, 2, 33, -5, True, False, 0.5, 1.0, 2.0, 1e6, -0.0])
    near = exact + rng.choice([0, 0, 1e-9, 1e-7, 5e-7, 2e-6, 5e-5, 2e-4])
    return rng.choice([exact, near, complex(near), 10**30])


def _value(rng, depth=0):
    many = [_value(rng, depth + 1) for _ in range(rng.randrange(3) if depth < 2 else 0)]
    numbers = [_number(rng) for _ in range(rng.randrange(4))]
    floats = [rng.choice([0.5, 1.0, 2.0]) for _ in range(rng.randrange(4))]
    return rng.choice(
        [
            _number(rng),
            rng.choice(["", "a", "ab", "1.0", None, b"a"]),
            many,
            tuple(many),
            numbers,
            tuple(numbers),
            floats,
            tuple(floats),
            set(numbers),
            frozenset(numbers),
            {str(i): v for i, v in enumerate(many)},
        ]
    )


def _variant(rng, value):
    """Something near a value: other type, other order, slightly other numbers."""
    if isinstance(value, (list, tuple)):
        items = list(value)
        if items and rng.random() < 0.5:
            place = rng.randrange(len(items))
            items[place] = _variant(rng, items[place])
        if rng.random() < 0.2:
            rng.shuffle(items)
        if rng.random() < 0.1:
            items = items[:-1]
        return rng.choice([list, tuple, type(value)])(items)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return rng.choice(
            [
                value,
                float(value),
                value + 1e-7,
                value + 3e-6,
                value * (1 + 5e-8),
                [value],
            ]
        )
    return rng.choice([value, _value(rng)])


@pytest.mark.parametrize("seed", range(3))
def test_verdicts_are_those_of_evalplus(seed, ask_evalplus):
    rng = random.Random(seed)
    cases = []
    for _ in range(40):
        dataset, name = rng.choice(NAMES)
        atol = rng.choice([0, 0, 0, 1e-4, 1e-6])
        size = rng.randint(1, 12)
        inputs = [[rng.randint(0, 200), rng.randint(0, 200)] for _ in range(size)]
        if name == "check_str":
            expected = [rng.random() < 0.5 for _ in range(size)]
        elif name in ("surface_Area", "digit_distance_nums", "sum_div"):
            expected = [_number(rng) for _ in range(size)]
        else:
            expected = [_value(rng) for _ in range(size)]
        outputs = [
            _variant(rng, value) if rng.random() < 0.7 else _value(rng)
            for value in expected
        ]
        cases.append((dataset, name, atol, inputs, expected, outputs))
    theirs = ask_evalplus("verdicts", cases)
    flat = [right for case in theirs for right in case]
    assert 0.2 < sum(flat) / len(flat) < 0.9  # both verdicts occur
    for case, wanted in zip(cases, theirs, strict=True):
        assert verdicts(*case) == wanted, case


def one(
    expected, output, *, rules, name="plain", atol=0.0, arguments=(), dataset="mbpp"
):
    (verdict,) = verdicts(dataset, name, atol, [arguments], [expected], [output], rules)
    return verdict


@pytest.mark.parametrize(
    ("expected", "output", "name", "arguments", "reference", "evalplus"),
    [
        # The table of differences, row by row.
        ([1, 2], [2, 1, 1], "Diff", (), False, True),
        (33, 38, "surface_Area", (3, 4), False, False),
        (33, 35, "surface_Area", (3, 4), False, True),
        (1, 9, "digit_distance_nums", (90, 1), False, False),
        (1, 10, "digit_distance_nums", (90, 1), False, True),
        ([0.5, 1.0], (0.5, 1.0 + 1e-9), "plain", (), True, False),
        ([0.5, 0.5], 0.5 + 1e-9, "plain", (), True, False),
        ([], 5.0, "plain", (), True, False),
        (True, False, "check_str", (), True, False),
        ([math.nan, 1.0], [math.nan, 1.0 + 1e-9], "plain", (), True, False),
        ([0.5, 0.5], [0.5 + 1e-9], "plain", (), False, False),
        ([0.0, 1.0], range(2), "plain", (), True, False),
        # NumPy's bool is no bool, only not nothing.
        (True, Like(False), "check_str", (), True, True),
        # What both say.
        (0.5, 0.5 + 5e-7, "plain", (), True, True),
        (0.5, 0.5 + 5e-6, "plain", (), False, False),
        (7, 7.0, "plain", (), True, True),
        (7, 7.0000001, "plain", (), False, False),
        (True, 1, "plain", (), True, True),
        ([1], (1,), "plain", (), False, False),
        (True, "match", "check_str", (), True, True),
        (False, None, "check_str", (), True, True),
        (5, 0, "sum_div", (), True, True),
        (5, 1, "sum_div", (), False, False),
        (True, "nonsense", "are_equivalent", (), True, True),
    ],
)
def test_rules_of_both_versions(expected, output, name, arguments, reference, evalplus):
    for rules, wanted in (("reference", reference), ("evalplus", evalplus)):
        atol = 1e-9 if name == "surface_Area" else 0.0
        got = one(
            expected, output, rules=rules, name=name, arguments=arguments, atol=atol
        )
        assert got is wanted, rules


def test_the_tolerance_for_floats_stays_on():
    expected, outputs = [1, 0.5, 1], [1.0000001, 0.5, 1 + 1]
    assert verdicts("mbpp", "f", 0, [[]] * 3, expected, outputs) == [False, True, False]
    expected, outputs = [0.5, [1, 2]], [0.5, [1, 2.0000001]]
    assert verdicts("mbpp", "f", 0, [[]] * 2, expected, outputs) == [True, True]
    assert verdicts("mbpp", "f", 0, [[]], expected[1:], outputs[1:]) == [False]


@pytest.mark.parametrize("rules", ["evalplus", "reference"])
def test_a_root_is_right_if_the_polynomial_vanishes_there(rules):
    def root(output):
        return one(
            -1.0, output, rules=rules, name="find_zero", atol=1e-4,
            arguments=([-1.0, 0.0, 1.0],), dataset="humaneval",
        )  # fmt: skip

    assert root(-1.0) and root(1.0)  # another root than the expected one
    assert not root(0.5) and not root(None) and not root("1") and not root(10**400)


def test_only_the_type_of_a_built_in_is_close():
    assert one(0.5, Like(0.5), rules="evalplus")  # equal
    assert one(0.5, 0.5 + 1e-8, rules="evalplus")
    assert not one(0.5, Like(0.5 + 1e-8), rules="evalplus")
    assert one(0.5, Like(0.5 + 1e-8), rules="reference")
    assert one(0.5, Like(fractions.Fraction(1, 2)), rules="evalplus")
    assert not one(2, Like(decimal.Decimal("sNaN")), rules="evalplus")


@pytest.mark.parametrize("name", ["plain", "Diff", "surface_Area", "find_zero"])
@pytest.mark.parametrize("rules", ["evalplus", "reference"])
def test_what_has_no_encoding_is_never_right(name, rules):
    for expected in (None, [], 0, 0.5, [0.5], "<object>"):
        for dataset in ("mbpp", "humaneval"):
            assert not one(
                expected, Other("object"), rules=rules, name=name,
                arguments=([1], 2), dataset=dataset,
            )  # fmt: skip


@pytest.mark.parametrize("rules", ["evalplus", "reference"])
def test_an_array_of_one_number_equals_it(rules):
    for expected in (5, 5.0, [5], [[5]]):
        assert one(expected, Like(np.array([5])), rules=rules)
    assert not one([5, 5], Like(np.array([5])), rules=rules)
    assert not one(6, Like(np.array(5)), rules=rules)


@pytest.mark.parametrize("rules", ["evalplus", "reference"])
@pytest.mark.parametrize(
    ("first", "others"),
    [("x" * 100_000, "a"), (range(10**6), range(10**6)), (b"x" * 100_000, b"a")],
    ids=["texts", "ranges", "bytes"],
)
def test_no_array_is_made_that_takes_all_memory(rules, first, others, monkeypatch):
    """NumPy would make one of at least 10**9 bytes."""
    for name in ("asanyarray", "allclose"):
        monkeypatch.delattr(np, name)
    monkeypatch.delattr(np.testing, "assert_allclose")
    output = [first] + [others] * 10_000
    assert not one([0.5] * len(output), output, rules=rules)


def test_chosen_hashes_cannot_take_all_time():
    prime = sys.hash_info.modulus  # its multiples have the same hash
    start = time.process_time()
    output = [i * prime for i in range(50_000)]
    assert not one([1], output, rules="evalplus", name="Diff")
    assert one([1], [1] * 50_000, rules="evalplus", name="Diff")
    assert time.process_time() - start < 5


def test_broadcasting_cannot_take_all_memory():
    column = [[0.5]] * 200_000
    assert not one([0.5] * 200_000, column, rules="evalplus")
    assert one([0.5] * 3, [[0.5]] * 3, rules="evalplus")  # as NumPy says
