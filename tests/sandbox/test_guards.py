"""Texts that a judging script calculates with and tests are read from its code."""

import subprocess

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


@pytest.mark.parametrize("text", ["x[$(echo 0)]", "no number", "3; 4"])
def test_a_text_ends_the_script_from_within_a_subshell(text, tmp_path):
    (tmp_path / "text").write_text(text)
    code = 'v() { n=$(cat text); echo $((n + 1)); }; [ "$(v)" != 4 ] || exit 1; '
    code = guards.begin(code) + code + "echo passed"
    done = subprocess.run(
        ["/bin/bash", "-c", code], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert b"passed" not in done.stdout
