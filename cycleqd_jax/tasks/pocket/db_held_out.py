"""More families of SQL demands over small tables that `train` leaves out.

Each is a new condition, column, order or composition of what the trained families use.
"""

# ruff: noqa: E501 (the families read best as a table)

from cycleqd_jax.tasks.pocket.db_templates import DbTemplate

# fmt: off
HELD_OUT = (
    # Rows by a condition.
    DbTemplate("differs", "the {l} of all {t} with {n} other than {k} | the {l} where {n} is not {k}",
        "SELECT {l} FROM {t} WHERE {n} != {k};", held_out=True),
    DbTemplate("two_bounds", "the {l} of all {t} with {n} above {k} and below {top} | the {l} where {n} is over {k} and under {top}",
        "SELECT {l} FROM {t} WHERE {n} > {k} AND {n} < {top};", held_out=True),
    DbTemplate("two_numbers", "the {l} where {n} is above {k} and {m} is above {v} | the {l} of {t} with {n} over {k} and {m} over {v}",
        "SELECT {l} FROM {t} WHERE {n} > {k} AND {m} > {v};", held_out=True),
    DbTemplate("group_or_below", "the {l} where {g} is '{a}' or {n} is below {k} | the {l} of {t} with {g} '{a}' or {n} under {k}",
        "SELECT {l} FROM {t} WHERE {g} = '{a}' OR {n} < {k};", held_out=True),
    DbTemplate("not_group_above", "the {l} where {g} is not '{a}' and {n} is above {k} | the {l} of {t} with {g} other than '{a}' and {n} over {k}",
        "SELECT {l} FROM {t} WHERE {g} != '{a}' AND {n} > {k};", held_out=True),
    DbTemplate("containing", "the {l} of all {t} whose {l} contains '{z}' | the {l} containing '{z}'",
        "SELECT {l} FROM {t} WHERE {l} LIKE '%{z}%';", held_out=True),
    DbTemplate("below_average", "the {l} of all {t} with {n} below the average {n} | the {l} where {n} is below its average",
        "SELECT {l} FROM {t} WHERE {n} < (SELECT AVG({n}) FROM {t});", held_out=True),
    # One cell, other columns.
    DbTemplate("lookup_group", "the {g} of '{one}' | the {g} where {l} is '{one}'",
        "SELECT {g} FROM {t} WHERE {l} = '{one}';", held_out=True),
    DbTemplate("difference", "the {l} and {n} minus {m} of all {t} | the {l} and the difference of {n} and {m} of every row",
        "SELECT {l}, {n} - {m} FROM {t};", held_out=True),
    # Numbers, orders, groups.
    DbTemplate("sum_above", "the total {m} where {n} is above {k} | the sum of {m} of all {t} with {n} greater than {k}",
        "SELECT SUM({m}) FROM {t} WHERE {n} > {k};", held_out=True),
    DbTemplate("sorted_of_group", "the {l} where {g} is '{a}' sorted by {n} | the {l} of all {t} with {g} '{a}' ordered by {n} ascending",
        "SELECT {l} FROM {t} WHERE {g} = '{a}' ORDER BY {n};", ordered=True, held_out=True),
    DbTemplate("worst_of_group", "the {l} with the lowest {n} where {g} is '{a}' | the {l} of the '{a}' row with the smallest {n}",
        "SELECT {l} FROM {t} WHERE {g} = '{a}' ORDER BY {n} LIMIT 1;", held_out=True),
    DbTemplate("average_each", "each {g} and its average {n} | each {g} and its mean {n}",
        "SELECT {g}, AVG({n}) FROM {t} GROUP BY {g};", held_out=True),
    # Changes.
    DbTemplate("decrease", "decrease {n} by {step} where {g} is '{a}' | subtract {step} from the {n} of all {t} with {g} '{a}'",
        "UPDATE {t} SET {n} = {n} - {step} WHERE {g} = '{a}';", held_out=True),
    DbTemplate("delete_others", "delete all {t} with {g} other than '{a}' | delete the rows where {g} is not '{a}'",
        "DELETE FROM {t} WHERE {g} != '{a}';", held_out=True),
)
# fmt: on
