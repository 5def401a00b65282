"""MBPP+'s arguments as Python values.

JSON has no tuples, sets or complex numbers, so the file holds lists and texts where the
problems mean those; which problem means what is decided by its number
(evalplus/evalplus, `mbpp_deserialize_inputs`). HumanEval+ needs none of this.
"""

from collections.abc import Callable
from typing import Any

Arguments = list[Any]  # of one call


def _tuples(arguments: Arguments) -> Arguments:
    return [tuple(argument) for argument in arguments]


def _lists_of_tuples(arguments: Arguments) -> Arguments:
    return [[tuple(item) for item in argument] for argument in arguments]


def _first_list_of_tuples(arguments: Arguments) -> Arguments:
    return [[tuple(item) for item in arguments[0]], arguments[1]]


def _second_tuple(arguments: Arguments) -> Arguments:
    return [arguments[0], tuple(arguments[1])]


def _first_tuple(arguments: Arguments) -> Arguments:
    return [tuple(arguments[0]), arguments[1]]


def _first_of_three_tuple(arguments: Arguments) -> Arguments:
    return [tuple(arguments[0]), arguments[1], arguments[2]]


def _tuples_of_tuples(arguments: Arguments) -> Arguments:
    return [tuple(tuple(item) for item in argument) for argument in arguments]


def _list_of_sets(arguments: Arguments) -> Arguments:
    # An empty list stands for an empty dictionary.
    sets = [set(x) if isinstance(x, list) and x else {} for x in arguments[0]]
    return [sets]


def _mixed_tuple(arguments: Arguments) -> Arguments:
    return [tuple(tuple(x) if isinstance(x, list) else x for x in arguments[0])]


def _dict_of_tuples(arguments: Arguments) -> Arguments:
    rows = {key: tuple(value) for key, value in arguments[0].items()}
    return [rows, *arguments[1:]]


def _number_and_complex(arguments: Arguments) -> Arguments:
    return [float(arguments[0]), complex(arguments[1])]


def _one_complex(arguments: Arguments) -> Arguments:
    return [complex(arguments[0])]


def _all_tuples(arguments: Arguments) -> Arguments:
    return [_deep_tuple(argument) for argument in arguments]


def _deep_tuple(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_deep_tuple(item) for item in value)
    return value


_FORMS: dict[Callable[[Arguments], Arguments], str] = {
    _tuples: "2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 "
    "726 740 744 809",
    _lists_of_tuples: "63 64 70 94 120 237 272 299 400 409 417 438 473 614 780",
    _first_list_of_tuples: "75 413 444 753",
    _second_tuple: "106 750",
    _list_of_sets: "115",
    _number_and_complex: "124",
    _first_tuple: "250 405 446 617 720 763 808",
    _tuples_of_tuples: "259 401 445",
    _mixed_tuple: "278",
    _first_of_three_tuple: "307",
    _dict_of_tuples: "722",
    _one_complex: "252",
    _all_tuples: "580 615 791",
}
_FORM_OF = {
    f"Mbpp/{number}": form
    for form, numbers in _FORMS.items()
    for number in numbers.split()
}


def mbpp_inputs(task_id: str, inputs: list[Arguments]) -> list[Arguments]:
    """The arguments of a problem's calls, with the types that it means.

    Args:
      task_id: like "Mbpp/2".
      inputs: as the file has them, one list of arguments per call.

    Raises:
      ValueError, TypeError, IndexError, KeyError, AttributeError: they do not have the
        shape that this problem's arguments have.
    """
    form = _FORM_OF.get(task_id)
    return inputs if form is None else [form(arguments) for arguments in inputs]
