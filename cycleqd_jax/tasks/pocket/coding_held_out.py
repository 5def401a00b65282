"""More families of small Python functions that `train` leaves out.

Each is a new operation, condition or composition of what the trained families use.
"""

from cycleqd_jax.tasks.pocket.coding_inputs import LETTERS
from cycleqd_jax.tasks.pocket.coding_template import DIGIT, LIMIT, CodingTemplate

# fmt: off
HELD_OUT = (
    CodingTemplate("cubes", "cubes powers", "ints",
        "a list of the cubes of the numbers in {x} | "
        "each number in the list {x} cubed",
        "[n ** 3 for n in {x}]", held_out=True),
    CodingTemplate("ceiling", "ceiling at_most", "ints",
        "the list {x} with numbers above {k} replaced by {k} | "
        "each number in the list {x}, but at most {k}",
        "[min(n, {k}) for n in {x}]", {"k": LIMIT}, held_out=True),
    CodingTemplate("differences", "differences steps", "ints",
        "a list of each number in {x} minus the number before it | "
        "the list of differences of adjacent numbers in {x}, right minus left",
        "[b - a for a, b in zip({x}, {x}[1:])]", held_out=True),
    CodingTemplate("not_divisible", "not_divisible others", "ints",
        "a list of the numbers in {x} not divisible by {k} | "
        "the list {x} without multiples of {k}",
        "[n for n in {x} if n % {k} != 0]", {"k": range(3, 10)}, held_out=True),
    CodingTemplate("count_below", "count_below how_many", "ints",
        "how many numbers in {x} are less than {k} | "
        "the count of numbers in {x} below {k}",
        "sum(n < {k} for n in {x})", {"k": LIMIT}, held_out=True),
    CodingTemplate("kth_largest", "largest pick", "unique",
        "the {kth} largest number in {x} | "
        "the {kth} highest number in the list {x}",
        "sorted({x}, reverse=True)[{below}]", {"k": range(2, 6)}, held_out=True),
    CodingTemplate("any_above", "any_above check", "low",
        "whether any number in {x} is greater than {k} | "
        "whether at least one number in {x} is above {k}",
        "any(n > {k} for n in {x})", {"k": LIMIT}, held_out=True),
    CodingTemplate("drop_last", "drop_last trim", "ints",
        "the list {x} without its last {k} items | "
        "all items of the list {x} before the last {k}",
        "{x}[:-{k}]", {"k": range(2, 7)}, held_out=True),
    CodingTemplate("smallest", "smallest lowest", "unique",
        "a list of the {k} smallest numbers in {x}, smallest first | "
        "the {k} smallest numbers of the list {x} in ascending order",
        "sorted({x})[:{k}]", {"k": range(2, 7)}, held_out=True),
    CodingTemplate("shorter", "shorter short_words", "words",
        "a list of the strings in {x} shorter than {k} characters | "
        "the strings in {x} with less than {k} characters as a list",
        "[w for w in {x} if len(w) < {k}]", {"k": range(4, 7)}, held_out=True),
    CodingTemplate("shortest", "shortest smallest", "lengths",
        "the shortest string in {x} | "
        "the string in {x} with the fewest characters",
        "min({x}, key=len)", held_out=True),
    CodingTemplate("initials", "initials first_letters", "words",
        "a list of the first letters of the strings in {x} | "
        "the list of the first character of each string in {x}",
        "[w[0] for w in {x}]", held_out=True),
    CodingTemplate("without_letter", "without_letter erase", "text",
        "the string {x} with each '{c}' removed | "
        "the string {x} without the letter '{c}'",
        "{x}.replace('{c}', '')", {"c": LETTERS}, held_out=True),
    CodingTemplate("linear_down", "linear line", "int",
        "{k} times {x} minus {m} | "
        "{m} less than {k} times {x}",
        "{k} * {x} - {m}", {"k": DIGIT, "m": DIGIT}, held_out=True),
    CodingTemplate("smaller", "smaller least", "pair",
        "the smaller of {a} and {b}, times {k} | "
        "the minimum of {a} and {b} times {k}",
        "min({a}, {b}) * {k}", {"k": DIGIT}, held_out=True),
    CodingTemplate("repeated", "repeated echo", "text",
        "the string {x} repeated {k} times | "
        "the string {x} {k} times in a row",
        "{x} * {k}", {"k": DIGIT}, held_out=True),
)
# fmt: on
