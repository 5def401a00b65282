"""Texts that a judging script calculates with and tests are read from its code."""

import pytest

from cycleqd_jax.sandbox import guards


def test_variables_that_are_calculated_with():
    code = (
        "f() { n=$1; ((a <= n)); }\nfor ((b = 1; b < ${c}; b++)); do f $b; done\n"
        "[[ $d -gt 1 && $e < z ]] && g=$((h + ${#i} + ${#j[@]} + 0x1F))"
    )
    assert guards.calculated(code) == ("a", "b", "c", "d", "h", "n")


@pytest.mark.parametrize(
    ("code", "guarded"),
    [
        ("[ $(cat /x) = 3 ]", True),
        ("test $x -eq 3", True),
        ('[ "$(cat /x)" = 3 ] && [ -d "$path" ]', False),
        ("[ -f '$x' ]", False),
        ('n=$(cat /x); [ "$n" = 3 ] && echo $((n + 1))', True),
    ],
)
def test_tests_without_quotes_are_guarded(code, guarded):
    assert bool(guards.begin(code)) == guarded
