"""Answers that import NumPy, which EvalPlus's process has."""

import subprocess

import pytest

from cycleqd_jax.tasks.base import TaskSettings
from cycleqd_jax.tasks.coding.task import Mbpp

SYSTEM = ["/usr/bin/python3", "-c", "import numpy"]
RIGHT = {
    "numbers": "return [np.int64(x) ** 2 for x in xs]",
    "a number": "return np.sum(xs)",
    "plain": "return np.square(xs).tolist()",
    "floats in a tuple": "return (np.float64(xs[0]), np.bool_(True))",
    "a key": "return {np.int64(xs[0]): np.str_('x')}",
}
WRONG = {
    "an array": "return np.square(xs)",
    "other numbers": "return [np.int64(x) for x in xs]",
    "bytes": "return [int(x ** 2).to_bytes(8, 'little') for x in xs]",
}
SOLUTIONS = {
    "numbers": "return [x ** 2 for x in xs]",
    "a number": "return sum(xs)",
    "plain": "return [x ** 2 for x in xs]",
    "floats in a tuple": "return (float(xs[0]), True)",
    "a key": "return {xs[0]: 'x'}",
}


@pytest.fixture(scope="module", autouse=True)
def numpy_of_the_system():
    """The sandbox's Python is the system's."""
    if subprocess.run(SYSTEM, capture_output=True).returncode != 0:
        pytest.skip("NumPy is not installed for the system's Python: python3-numpy")


def verdict(write_rows, answer, solution, body):
    row = {
        "task_id": "Mbpp/9100",
        "prompt": '"""\nSquares. Write it.\nassert f([2]) == [4]\n"""\n',
        "entry_point": "f",
        "canonical_solution": f"\ndef f(xs):\n    {solution}\n",
        "base_input": [[[2, 300]]],
        "plus_input": [[[5, -70000]]],
        "atol": 0,
        "contract": "",
        "assertion": "",
    }
    task = Mbpp(TaskSettings(options={"data": str(write_rows([row]))}))
    reply = f"\nimport numpy as np\ndef f(xs):\n    {body}\n```"
    (result,) = answer(task, [("Mbpp/9100", reply)])
    return result


@pytest.mark.parametrize("name", RIGHT)
def test_its_numbers_are_numbers(write_rows, answer, name):
    result = verdict(write_rows, answer, SOLUTIONS[name], RIGHT[name])
    assert result.metrics["plus"] == 1.0, result.explanation


@pytest.mark.parametrize("name", WRONG)
def test_what_equals_no_list_is_wrong(write_rows, answer, name):
    result = verdict(write_rows, answer, SOLUTIONS["numbers"], WRONG[name])
    assert result.metrics["base"] == 0.0
    assert "test 1" in result.explanation and "failed with" not in result.explanation
