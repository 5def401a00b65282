"""Families of Python functions of one expression."""

from cycleqd_jax.tasks.pocket.coding_inputs import LETTERS
from cycleqd_jax.tasks.pocket.coding_template import DIGIT, LIMIT, CodingTemplate

# fmt: off
TEMPLATES = (
    # Lists of integers, element by element.
    CodingTemplate("times", "scale multiply", "ints",
        "the list {x} with each number times {k} | "
        "each number in the list {x} multiplied by {k}",
        "[n * {k} for n in {x}]", {"k": DIGIT}),
    CodingTemplate("plus", "shift add_all", "ints",
        "the list {x} with {k} added to each number | "
        "each number in the list {x} plus {k}",
        "[n + {k} for n in {x}]", {"k": LIMIT}),
    CodingTemplate("minus", "lower subtract", "ints",
        "the list {x} with {k} subtracted from each number | "
        "each number in the list {x} minus {k}",
        "[n - {k} for n in {x}]", {"k": LIMIT}, held_out=True),
    CodingTemplate("squares", "squares powers", "ints",
        "a list of the squares of the numbers in {x} | "
        "each number in the list {x} squared",
        "[n ** 2 for n in {x}]"),
    CodingTemplate("by_index", "weighted by_index", "ints",
        "the list {x} with each number times its index | "
        "each number in the list {x} multiplied by its index",
        "[i * n for i, n in enumerate({x})]"),
    CodingTemplate("floor_at", "floor_at at_least", "ints",
        "the list {x} with numbers below {k} replaced by {k} | "
        "each number in the list {x}, but at least {k}",
        "[max(n, {k}) for n in {x}]", {"k": LIMIT}),
    CodingTemplate("neighbours", "neighbours pairs", "ints",
        "a list of the sums of neighbouring numbers in {x} | "
        "the list of sums of adjacent numbers in {x}",
        "[a + b for a, b in zip({x}, {x}[1:])]"),
    # Filters.
    CodingTemplate("above", "above bigger", "ints",
        "a list of the numbers in {x} greater than {k} | "
        "the list {x} with only numbers above {k}",
        "[n for n in {x} if n > {k}]", {"k": LIMIT}),
    CodingTemplate("below", "below smaller", "ints",
        "a list of the numbers in {x} less than {k} | "
        "the list {x} with only numbers below {k}",
        "[n for n in {x} if n < {k}]", {"k": LIMIT}, held_out=True),
    CodingTemplate("evens", "evens even", "ints",
        "a list of the even numbers in {x} | "
        "the list {x} with only even numbers",
        "[n for n in {x} if n % 2 == 0]"),
    CodingTemplate("odds", "odds odd", "ints",
        "a list of the odd numbers in {x} | "
        "the list {x} with only odd numbers",
        "[n for n in {x} if n % 2 == 1]", held_out=True),
    CodingTemplate("divisible", "divisible multiples", "ints",
        "a list of the numbers in {x} divisible by {k} | "
        "the list {x} with only multiples of {k}",
        "[n for n in {x} if n % {k} == 0]", {"k": range(3, 10)}),
    CodingTemplate("without", "without remove", "ints",
        "the list {x} without the number {k} | "
        "a list of the numbers in {x} not equal to {k}",
        "[n for n in {x} if n != {k}]", {"k": LIMIT}),
    # Numbers from lists.
    CodingTemplate("sum_below", "sum_below small_sum", "ints",
        "the sum of the numbers in {x} below {k} | "
        "the sum of all numbers in {x} less than {k}",
        "sum(n for n in {x} if n < {k})", {"k": LIMIT}, held_out=True),
    CodingTemplate("sum_squares", "sum_squares energy", "ints",
        "the sum of the squares of the numbers in {x} | "
        "the sum of squares of {x}",
        "sum(n * n for n in {x})"),
    CodingTemplate("count_above", "count_above how_many", "ints",
        "how many numbers in {x} are greater than {k} | "
        "the count of numbers in {x} above {k}",
        "sum(n > {k} for n in {x})", {"k": LIMIT}),
    CodingTemplate("count", "count occurrences", "ints",
        "how often {k} occurs in the list {x} | "
        "the count of {k} in the list {x}",
        "{x}.count({k})", {"k": LIMIT}),
    CodingTemplate("spread", "spread width", "some",
        "the largest minus the smallest number in {x} | "
        "the maximum of {x} minus its minimum",
        "max({x}) - min({x})"),
    CodingTemplate("mean", "mean average", "some",
        "the mean of the numbers in {x} | "
        "the average of the list {x}",
        "sum({x}) / len({x})"),
    CodingTemplate("kth_smallest", "smallest pick", "unique",
        "the {kth} smallest number in {x} | "
        "the {kth} lowest number in the list {x}",
        "sorted({x})[{below}]", {"k": range(2, 6)}),
    # Yes or no.
    CodingTemplate("contains", "contains has", "ints",
        "whether {k} is in the list {x} | "
        "whether the list {x} contains {k}",
        "{k} in {x}", {"k": LIMIT}),
    CodingTemplate("all_above", "all_above check", "high",
        "whether all numbers in {x} are greater than {k} | "
        "whether every number in {x} is above {k}",
        "all(n > {k} for n in {x})", {"k": [-3, -2, -1, 0, 1, 2]}),
    # Slices and orders.
    CodingTemplate("first", "first head", "ints",
        "the first {k} items of the list {x} | "
        "a list of the first {k} items of {x}",
        "{x}[:{k}]", {"k": range(2, 7)}),
    CodingTemplate("last", "last tail", "ints",
        "the last {k} items of the list {x} | "
        "a list of the last {k} items of {x}",
        "{x}[-{k}:]", {"k": range(2, 7)}, held_out=True),
    CodingTemplate("drop", "drop skip", "ints",
        "the list {x} without its first {k} items | "
        "all items of the list {x} after the first {k}",
        "{x}[{k}:]", {"k": range(2, 7)}),
    CodingTemplate("reverse", "backwards flip", "ints",
        "the list {x} in reverse order | "
        "a reversed copy of the list {x}",
        "{x}[::-1]"),
    CodingTemplate("descending", "descending rank", "ints",
        "the list {x} sorted in descending order | "
        "a list of the numbers in {x} from largest to smallest",
        "sorted({x}, reverse=True)"),
    CodingTemplate("distinct", "distinct unique", "ints",
        "a sorted list of the distinct numbers in {x} | "
        "the list {x} sorted without duplicates",
        "sorted(set({x}))"),
    CodingTemplate("largest", "largest top", "unique",
        "a list of the {k} largest numbers in {x}, largest first | "
        "the {k} largest numbers of the list {x} in descending order",
        "sorted({x}, reverse=True)[:{k}]", {"k": range(2, 7)}),
    # Words and strings.
    CodingTemplate("word_lengths", "lengths sizes", "words",
        "a list of the lengths of the strings in {x} | "
        "the list of lengths of the strings in {x}",
        "[len(w) for w in {x}]"),
    CodingTemplate("longer", "longer long_words", "words",
        "a list of the strings in {x} longer than {k} characters | "
        "the strings in {x} with more than {k} characters as a list",
        "[w for w in {x} if len(w) > {k}]", {"k": range(3, 6)}),
    CodingTemplate("starting", "starting begins", "words",
        "a list of the strings in {x} starting with '{c}' | "
        "the list {x} with only strings starting with '{c}'",
        "[w for w in {x} if w.startswith('{c}')]", {"c": "abcdemnrst"}),
    CodingTemplate("upper", "shout upper_all", "words",
        "a list of the strings in {x} in upper case | "
        "the list {x} with each string in upper case",
        "[w.upper() for w in {x}]"),
    CodingTemplate("join", "join glue", "words",
        "the strings in {x} joined by '{c}' | "
        "one string of all strings in {x} joined by '{c}'",
        "'{c}'.join({x})", {"c": "-+/:;#_"}),
    CodingTemplate("longest", "longest widest", "lengths",
        "the longest string in {x} | "
        "the string in {x} with the most characters",
        "max({x}, key=len)"),
    CodingTemplate("by_length", "by_length order", "lengths",
        "the list {x} sorted by length | "
        "a list of the strings in {x} from shortest to longest",
        "sorted({x}, key=len)", held_out=True),
    CodingTemplate("count_letter", "count_letter letters", "text",
        "how often '{c}' occurs in the string {x} | "
        "the count of '{c}' in the string {x}",
        "{x}.count('{c}')", {"c": LETTERS}),
    CodingTemplate("swap_letter", "swap_letter change", "text",
        "the string {x} with each '{c}' replaced by '{d}' | "
        "the string {x} after replacing '{c}' by '{d}'",
        "{x}.replace('{c}', '{d}')", {"c": LETTERS, "d": "xyz_"}),
    CodingTemplate("palindrome", "palindrome mirror", "text",
        "whether the string {x} is a palindrome | "
        "whether the string {x} equals its reverse",
        "{x} == {x}[::-1]"),
    CodingTemplate("word_count", "word_count num_words", "phrase",
        "the number of words in the string {x} | "
        "how many words the string {x} has",
        "len({x}.split())"),
    # Single numbers.
    CodingTemplate("linear", "linear line", "int",
        "{k} times {x} plus {m} | "
        "{m} more than {k} times {x}",
        "{k} * {x} + {m}", {"k": DIGIT, "m": DIGIT}),
    CodingTemplate("sum_to", "sum_to series", "natural",
        "the sum of the integers from 1 to {x} | "
        "the sum of all whole numbers from 1 to {x}",
        "sum(range(1, {x} + 1))"),
    CodingTemplate("multiples", "multiples table", "natural",
        "a list of the first {x} positive multiples of {k} | "
        "the list of the first {x} multiples of {k}, starting with {k}",
        "[{k} * i for i in range(1, {x} + 1)]", {"k": DIGIT}),
    CodingTemplate("digit_sum", "digit_sum cross", "natural",
        "the sum of the digits of {x} | "
        "the sum of the decimal digits of the integer {x}",
        "sum(int(c) for c in str({x}))"),
    CodingTemplate("clamp", "clamp limit", "int",
        "{x} limited to the range from {k} to {j} | "
        "{x}, but at least {k} and at most {j}",
        "max({k}, min({x}, {j}))", {"k": range(0, 6), "j": range(3, 15)}),
    CodingTemplate("larger", "larger best", "pair",
        "the larger of {a} and {b}, plus {k} | "
        "the maximum of {a} and {b} plus {k}",
        "max({a}, {b}) + {k}", {"k": DIGIT}),
    # Dictionaries.
    CodingTemplate("keys_above", "keys_above winners", "dict",
        "a list of the keys of the dict {x} with values above {k} | "
        "a list of the keys in the dict {x} whose value is greater than {k}",
        "[k for k, v in {x}.items() if v > {k}]", {"k": LIMIT}),
    CodingTemplate("best_key", "best_key top", "dict",
        "the key of the dict {x} with the largest value | "
        "the key with the highest value in the dict {x}",
        "max({x}, key={x}.get)"),
)
# fmt: on
