"""Families of SQL demands over two tables: numbers, groups and changes."""

# ruff: noqa: E501 (the families read best as a table)

import functools

from cycleqd_jax.tasks.pocket.db_hard_template import PairTemplate

_hard = PairTemplate
_new = functools.partial(PairTemplate, held_out=True)

# fmt: off
GROUPS = (
    # Numbers.
    _hard("number_group", "the {f[0]} {w} of the {u} of {t} with {g} '{a}' | the {f[0]} {w} of all {u} whose {r} has {g} '{a}'",
        "SELECT {f[1]}({w}) FROM {u} JOIN {t} ON {r} = {l} WHERE {g} = '{a}';"),
    _hard("number_number", "the {f[0]} {w} of the {u} of {t} with {n} {o[0]} {k} | the {f[0]} {w} of all {u} whose {r} has {n} {o[0]} {k}",
        "SELECT {f[1]}({w}) FROM {u} JOIN {t} ON {r} = {l} WHERE {n} {o[1]} {k};"),
    _hard("count_group", "how many {u} of {t} with {g} '{a}' there are | the number of {u} whose {r} has {g} '{a}'",
        "SELECT COUNT(*) FROM {u} JOIN {t} ON {r} = {l} WHERE {g} = '{a}';"),
    _hard("count_number", "how many {u} of {t} with {n} {o[0]} {k} there are | the number of {u} whose {r} has {n} {o[0]} {k}",
        "SELECT COUNT(*) FROM {u} JOIN {t} ON {r} = {l} WHERE {n} {o[1]} {k};"),
    _hard("number_text", "the {f[0]} {n} of the {r} over all {u} with {s} '{p}' | the {f[0]} {n} over all rows of {u} where {s} is '{p}'",
        "SELECT {f[1]}({n}) FROM {u} JOIN {t} ON {r} = {l} WHERE {s} = '{p}';"),
    _hard("count_in", "how many {t} have {u} with {s} '{p}' | the number of {t} with any {u} where {s} is '{p}'",
        "SELECT COUNT(*) FROM {t} WHERE {l} IN (SELECT {r} FROM {u} WHERE {s} = '{p}');"),
    # Groups.
    _hard("each_event", "each {r} and its {f[0]} {w} | each {r} of {u} with the {f[0]} {w}",
        "SELECT {r}, {f[1]}({w}) FROM {u} GROUP BY {r};"),
    _hard("each_group", "each {g} of {t} and the {f[0]} {w} of its {u} | each {g} and the {f[0]} {w} of all {u} whose {r} has it",
        "SELECT {g}, {f[1]}({w}) FROM {u} JOIN {t} ON {r} = {l} GROUP BY {g};"),
    _hard("each_group_count", "each {g} of {t} with {u} and the number of its {u} | each {g} and how many {u} have a {r} with it",
        "SELECT {g}, COUNT(*) FROM {u} JOIN {t} ON {r} = {l} GROUP BY {g};"),
    _hard("each_text", "each {s} of {u} and the {f[0]} {n} of its {t} | each {s} and the {f[0]} {n} over its rows of {u}",
        "SELECT {s}, {f[1]}({n}) FROM {u} JOIN {t} ON {r} = {l} GROUP BY {s};"),
    _hard("often", "each {r} with at least {h} {u} | each {r} that occurs {h} or more times in {u}",
        "SELECT {r} FROM {u} GROUP BY {r} HAVING COUNT(*) >= {h};"),
    _hard("having_number", "each {r} with a {f[0]} {w} {i[0]} {edge} | each {r} whose {f[0]} {w} is {i[0]} {edge}",
        "SELECT {r} FROM {u} GROUP BY {r} HAVING {f[1]}({w}) {i[1]} {edge};"),
    _hard("having_group", "each {g} of {t} whose {f[0]} {n} is {o[0]} {rim} | each {g} with a {f[0]} {n} {o[0]} {rim}",
        "SELECT {g} FROM {t} GROUP BY {g} HAVING {f[1]}({n}) {o[1]} {rim};"),
    _hard("best_event", "the {r} with the {e[0]} total {w} | the {r} whose sum of {w} is the {e[0]}",
        "SELECT {r} FROM {u} GROUP BY {r} ORDER BY SUM({w}){e[1]} LIMIT 1;"),
    # Changes.
    _hard("delete_in", "delete all {u} of {t} with {g} '{a}' | delete the rows of {u} whose {r} has {g} '{a}'",
        "DELETE FROM {u} WHERE {r} IN (SELECT {l} FROM {t} WHERE {g} = '{a}');"),
    # Held out.
    _new("number_both", "the {f[0]} {w} of the {u} with {s} '{p}' of {t} with {g} '{a}' | the {f[0]} {w} of all {u} where {s} is '{p}' and the {r} has {g} '{a}'",
        "SELECT {f[1]}({w}) FROM {u} JOIN {t} ON {r} = {l} WHERE {s} = '{p}' AND {g} = '{a}';"),
    _new("number_product", "the {f[0]} of {n} times {w} over all {u} | the {f[0]} product of the {n} of the {r} and the {w} over all {u}",
        "SELECT {f[1]}({n} * {w}) FROM {u} JOIN {t} ON {r} = {l};"),
    _new("count_not_in", "how many {t} have no {u} with {s} '{p}' | the number of {t} without any {u} where {s} is '{p}'",
        "SELECT COUNT(*) FROM {t} WHERE {l} NOT IN (SELECT {r} FROM {u} WHERE {s} = '{p}');"),
    _new("each_text_count", "each {s} and how many {u} of {t} with {n} {o[0]} {k} have it | each {s} and its number of {u}, only of those whose {r} has {n} {o[0]} {k}",
        "SELECT {s}, COUNT(*) FROM {u} JOIN {t} ON {r} = {l} WHERE {n} {o[1]} {k} GROUP BY {s};"),
    _new("often_group", "each {g} of {t} with more than {h} {u} | each {g} whose {t} have more than {h} rows in {u}",
        "SELECT {g} FROM {u} JOIN {t} ON {r} = {l} GROUP BY {g} HAVING COUNT(*) > {h};"),
    _new("best_text", "the {s} with the {e[0]} average {w} of {u} | the {s} whose mean {w} is the {e[0]}",
        "SELECT {s} FROM {u} GROUP BY {s} ORDER BY AVG({w}){e[1]} LIMIT 1;"),
    _new("delete_number", "delete all {u} of {t} with {n} {o[0]} {k} | delete the rows of {u} whose {r} has {n} {o[0]} {k}",
        "DELETE FROM {u} WHERE {r} IN (SELECT {l} FROM {t} WHERE {n} {o[1]} {k});"),
    _new("set_without", "set the {m} of all {t} without {u} to {v} | change {m} to {v} in the rows of {t} that have no row in {u}",
        "UPDATE {t} SET {m} = {v} WHERE {l} NOT IN (SELECT {r} FROM {u});"),
    _new("number_in", "the {f[0]} {n} of the {t} that have {u} with {w} {i[0]} {j}, each counted once | the {f[0]} {n} of all {t} with any {u} where {w} is {i[0]} {j}",
        "SELECT {f[1]}({n}) FROM {t} WHERE {l} IN (SELECT {r} FROM {u} WHERE {w} {i[1]} {j});"),
    _new("count_distinct", "how many different {r} have {u} with {w} {i[0]} {j} | the number of distinct {r} in {u} where {w} is {i[0]} {j}",
        "SELECT COUNT(DISTINCT {r}) FROM {u} WHERE {w} {i[1]} {j};"),
    _new("each_text_group", "each {s} and the {f[0]} {w} of the {u} of {t} with {g} '{a}' | each {s} and its {f[0]} {w}, only of {u} whose {r} has {g} '{a}'",
        "SELECT {s}, {f[1]}({w}) FROM {u} JOIN {t} ON {r} = {l} WHERE {g} = '{a}' GROUP BY {s};"),
    _new("each_label", "each {l} of {t} with {g} '{a}' and its number of {u}, 0 included | each {l} with {g} '{a}' and how many {u} it has, also those without any",
        "SELECT {l}, COUNT({r}) FROM {t} LEFT JOIN {u} ON {l} = {r} WHERE {g} = '{a}' GROUP BY {l};"),
    _new("having_join", "each {g} of {t} whose {u} have a {f[0]} {w} {i[0]} {edge} | each {g} with a {f[0]} {w} {i[0]} {edge} over its {u}",
        "SELECT {g} FROM {u} JOIN {t} ON {r} = {l} GROUP BY {g} HAVING {f[1]}({w}) {i[1]} {edge};"),
    _new("where_having", "each {r} with at least {h} {u} of {w} {i[0]} {j} | each {r} that has {h} or more {u} where {w} is {i[0]} {j}",
        "SELECT {r} FROM {u} WHERE {w} {i[1]} {j} GROUP BY {r} HAVING COUNT(*) >= {h};"),
    _new("each_sorted", "each {r} and its {f[0]} {w}, sorted by the {f[0]} {w} | each {r} with its {f[0]} {w}, by that number ascending",
        "SELECT {r}, {f[1]}({w}) FROM {u} GROUP BY {r} ORDER BY {f[1]}({w});", ordered=True),
    _new("best_group", "the {g} of {t} whose {u} have the {e[0]} total {w} | the {g} with the {e[0]} sum of {w} over its {u}",
        "SELECT {g} FROM {u} JOIN {t} ON {r} = {l} GROUP BY {g} ORDER BY SUM({w}){e[1]} LIMIT 1;"),
    _new("delete_without", "delete all {t} with {n} {o[0]} {k} and without {u} | delete the rows of {t} with {n} {o[0]} {k} that have no row in {u}",
        "DELETE FROM {t} WHERE {n} {o[1]} {k} AND {l} NOT IN (SELECT {r} FROM {u});"),
    _new("increase_in", "add {step} to the {m} of all {t} that have {u} with {s} '{p}' | increase {m} by {step} for the {t} with any {u} where {s} is '{p}'",
        "UPDATE {t} SET {m} = {m} + {step} WHERE {l} IN (SELECT {r} FROM {u} WHERE {s} = '{p}');"),
    _new("set_in", "set the {w} of all {u} of {t} with {n} {o[0]} {k} to {v} | change {w} to {v} in the rows of {u} whose {r} has {n} {o[0]} {k}",
        "UPDATE {u} SET {w} = {v} WHERE {r} IN (SELECT {l} FROM {t} WHERE {n} {o[1]} {k});"),
    _new("insert_each", "add to {u} a row with {s} '{p}' and {w} {v} for every one of the {t} with {g} '{a}' | insert '{p}', {v} into {u} for each {l} with {g} '{a}'",
        "INSERT INTO {u} SELECT {l}, '{p}', {v} FROM {t} WHERE {g} = '{a}';"),
)
# fmt: on
