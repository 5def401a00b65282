"""Families of SQL demands over two tables: joins and subqueries that return rows."""

# ruff: noqa: E501 (the families read best as a table)

import functools

from cycleqd_jax.tasks.pocket.db_hard_template import PairTemplate

_hard = PairTemplate
_new = functools.partial(PairTemplate, held_out=True)

# fmt: off
QUERIES = (
    # Joins.
    _hard("join_rows", "the {r}, its {n} and the {w} of all {u} | the {r} and {w} of every row of {u}, with the {n} between them",
        "SELECT {r}, {n}, {w} FROM {u} JOIN {t} ON {r} = {l};"),
    _hard("join_event", "the {r} and its {n} for all {u} with {w} {i[0]} {j} | the {r} and {n} of each of the {u} where {w} is {i[0]} {j}",
        "SELECT {r}, {n} FROM {u} JOIN {t} ON {r} = {l} WHERE {w} {i[1]} {j};"),
    _hard("join_text", "the {g} and {w} for all {u} with {s} '{p}' | the {g} of the {r} and the {w} of each of the {u} where {s} is '{p}'",
        "SELECT {g}, {w} FROM {u} JOIN {t} ON {r} = {l} WHERE {s} = '{p}';"),
    _hard("join_group", "the {s} and {w} of all {u} of {t} with {g} '{a}' | the {s} and {w} of the {u} whose {r} has {g} '{a}'",
        "SELECT {s}, {w} FROM {u} JOIN {t} ON {r} = {l} WHERE {g} = '{a}';"),
    _hard("join_number", "the {s} of all {u} of {t} with {n} {o[0]} {k} | the {s} of the {u} whose {r} has {n} {o[0]} {k}",
        "SELECT {s} FROM {u} JOIN {t} ON {r} = {l} WHERE {n} {o[1]} {k};"),
    _hard("join_both", "the {r} of all {u} with {w} {i[0]} {j} of {t} with {g} '{a}' | the {r} of the {u} where {w} is {i[0]} {j} and the {g} of the {r} is '{a}'",
        "SELECT {r} FROM {u} JOIN {t} ON {r} = {l} WHERE {g} = '{a}' AND {w} {i[1]} {j};"),
    _hard("join_text_number", "the {w} of all {u} with {s} '{p}' of {t} with {n} {o[0]} {k} | the {w} of the {u} where {s} is '{p}' and the {n} of the {r} is {o[0]} {k}",
        "SELECT {w} FROM {u} JOIN {t} ON {r} = {l} WHERE {s} = '{p}' AND {n} {o[1]} {k};"),
    _hard("join_distinct", "each different {g} of {t} with {u} of {s} '{p}' | the distinct {g} of the {t} that have {u} with {s} '{p}'",
        "SELECT DISTINCT {g} FROM {t} JOIN {u} ON {l} = {r} WHERE {s} = '{p}';"),
    _hard("join_sorted", "the {r} and {s} of all {u} sorted by {n}, then {w} | the {r} and {s} of every row of {u}, by the {n} of the {r} and then by {w}",
        "SELECT {r}, {s} FROM {u} JOIN {t} ON {r} = {l} ORDER BY {n}, {w};", ordered=True),
    _hard("join_top", "the {r} of the {few} {u} with the {e[0]} {w} of {t} with {g} '{a}' | the {r} of the {few} rows of {u} with the {e[0]} {w} where the {g} of the {r} is '{a}'",
        "SELECT {r} FROM {u} JOIN {t} ON {r} = {l} WHERE {g} = '{a}' ORDER BY {w}{e[1]} LIMIT {few};"),
    # Subqueries.
    _hard("in_number", "the {l} of all {t} that have {u} with {w} {i[0]} {j}, each once | each {l} of {t} with any {u} where {w} is {i[0]} {j}",
        "SELECT {l} FROM {t} WHERE {l} IN (SELECT {r} FROM {u} WHERE {w} {i[1]} {j});"),
    _hard("in_text", "the {l} of all {t} that have {u} with {s} '{p}', each once | each {l} of {t} with any {u} where {s} is '{p}'",
        "SELECT {l} FROM {t} WHERE {l} IN (SELECT {r} FROM {u} WHERE {s} = '{p}');"),
    _hard("not_in", "the {l} and {n} of all {t} without {u} | the {l} and {n} of the {t} that have no row in {u}",
        "SELECT {l}, {n} FROM {t} WHERE {l} NOT IN (SELECT {r} FROM {u});"),
    _hard("in_and_group", "the {l} of all {t} with {g} '{a}' that have {u} with {w} {i[0]} {j}, each once | each {l} of {t} with {g} '{a}' and any {u} where {w} is {i[0]} {j}",
        "SELECT {l} FROM {t} WHERE {g} = '{a}' AND {l} IN (SELECT {r} FROM {u} WHERE {w} {i[1]} {j});"),
    _hard("above_group", "the {l} of all {t} with {n} {o[0]} the average {n} where {g} is '{a}' | the {l} where {n} is {o[0]} the mean {n} of the {t} with {g} '{a}'",
        "SELECT {l} FROM {t} WHERE {n} {o[1]} (SELECT AVG({n}) FROM {t} WHERE {g} = '{a}');"),
    _hard("same_group", "the {l} and {n} of all {t} with the same {g} as '{one}' | the {l} and {n} where {g} is that of '{one}'",
        "SELECT {l}, {n} FROM {t} WHERE {g} = (SELECT {g} FROM {t} WHERE {l} = '{one}');"),
    _hard("event_average", "the {r} and {s} of all {u} with {w} {i[0]} the average {w} | the {r} and {s} where {w} is {i[0]} the mean {w} of all {u}",
        "SELECT {r}, {s} FROM {u} WHERE {w} {i[1]} (SELECT AVG({w}) FROM {u});"),
    # Held out.
    _new("join_two_numbers", "the {s} of all {u} with {w} {i[0]} {j} of {t} with {n} {o[0]} {k} | the {s} of the {u} where {w} is {i[0]} {j} and the {n} of the {r} is {o[0]} {k}",
        "SELECT {s} FROM {u} JOIN {t} ON {r} = {l} WHERE {w} {i[1]} {j} AND {n} {o[1]} {k};"),
    _new("join_plus", "the {r} and {m} plus {w} of all {u} with {w} {i[0]} {j} | the {r} and the sum of its {m} and the {w} of each of the {u} where {w} is {i[0]} {j}",
        "SELECT {r}, {m} + {w} FROM {u} JOIN {t} ON {r} = {l} WHERE {w} {i[1]} {j};"),
    _new("join_sorted_group", "the {r} of all {u} of {t} with {g} '{a}' sorted by {w} | the {r} of the {u} whose {r} has {g} '{a}', ordered by {w} ascending",
        "SELECT {r} FROM {u} JOIN {t} ON {r} = {l} WHERE {g} = '{a}' ORDER BY {w};", ordered=True),
    _new("join_distinct_text", "each different {s} of {u} of {t} with {n} {o[0]} {k} | the distinct {s} of the {u} whose {r} has {n} {o[0]} {k}",
        "SELECT DISTINCT {s} FROM {u} JOIN {t} ON {r} = {l} WHERE {n} {o[1]} {k};"),
    _new("not_in_number", "the {l} of all {t} without {u} with {w} {i[0]} {j} | the {l} of the {t} that have no row in {u} where {w} is {i[0]} {j}",
        "SELECT {l} FROM {t} WHERE {l} NOT IN (SELECT {r} FROM {u} WHERE {w} {i[1]} {j});"),
    _new("event_text_average", "the {r} of all {u} with {w} {i[0]} the average {w} where {s} is '{p}' | the {r} where {w} is {i[0]} the mean {w} of the {u} with {s} '{p}'",
        "SELECT {r} FROM {u} WHERE {w} {i[1]} (SELECT AVG({w}) FROM {u} WHERE {s} = '{p}');"),
    _new("best_in", "the {l} with the {e[0]} {n} of the {t} that have {u} with {s} '{p}' | the {l} with the {e[0]} {n} of all {t} with any {u} where {s} is '{p}'",
        "SELECT {l} FROM {t} WHERE {l} IN (SELECT {r} FROM {u} WHERE {s} = '{p}') ORDER BY {n}{e[1]} LIMIT 1;"),
    _new("join_either", "the {r} and {w} of all {u} with {s} '{p}' or of {t} with {g} '{a}' | the {r} and {w} of the {u} where {s} is '{p}' or the {g} of the {r} is '{a}'",
        "SELECT {r}, {w} FROM {u} JOIN {t} ON {r} = {l} WHERE {s} = '{p}' OR {g} = '{a}';"),
    _new("join_times", "the {r} and {n} times {w} of all {u} | the {r} and the product of its {n} and the {w} of every row of {u}",
        "SELECT {r}, {n} * {w} FROM {u} JOIN {t} ON {r} = {l};"),
    _new("join_best", "the {s} of the row of {u} with the {e[0]} {w} of {t} with {n} {o[0]} {k} | the {s} with the {e[0]} {w} of all {u} whose {r} has {n} {o[0]} {k}",
        "SELECT {s} FROM {u} JOIN {t} ON {r} = {l} WHERE {n} {o[1]} {k} ORDER BY {w}{e[1]} LIMIT 1;"),
    _new("not_in_text", "the {l} of all {t} without {u} with {s} '{p}' | the {l} of the {t} that have no row in {u} where {s} is '{p}'",
        "SELECT {l} FROM {t} WHERE {l} NOT IN (SELECT {r} FROM {u} WHERE {s} = '{p}');"),
    _new("above_one", "the {l} of all {t} with {n} {o[0]} that of '{one}' | the {l} where {n} is {o[0]} the {n} of '{one}'",
        "SELECT {l} FROM {t} WHERE {n} {o[1]} (SELECT {n} FROM {t} WHERE {l} = '{one}');"),
)
# fmt: on
