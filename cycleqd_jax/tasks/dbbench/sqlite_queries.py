"""The grammar of MySQL's tables and SELECT; see `sqlite_grammar`."""

from cycleqd_jax.tasks.dbbench.sqlite_call_grammar import CallReader
from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour
from cycleqd_jax.tasks.dbbench.sqlite_reader import quoted

_SELECT_OPTIONS = frozenset(
    """
HIGH_PRIORITY STRAIGHT_JOIN SQL_SMALL_RESULT SQL_BIG_RESULT SQL_BUFFER_RESULT
SQL_NO_CACHE SQL_CALC_FOUND_ROWS
""".split()
)
_JOINS = frozenset(
    ("JOIN", "INNER", "CROSS", "LEFT", "RIGHT", "NATURAL", "STRAIGHT_JOIN")
)


class QueryReader(CallReader):
    """Adds subqueries and SELECT to the expressions."""

    def subquery(self) -> None:
        """A query in parentheses."""
        self.need("(")
        self.nested(self.query)
        self.need(")")

    def query(self) -> None:
        """A SELECT with all it may have, or several with UNION between."""
        if self.take("WITH"):
            self.take("RECURSIVE")
            self.comma_list(self._common_table)
        self._query_term()
        while self.word in ("UNION", "EXCEPT", "INTERSECT"):
            self.out.append(self.step().text.upper())
            if not self.take("ALL"):
                self.take("DISTINCT")
            self._query_term()
        self.order_by()
        self.limit()
        self._locking()

    def _common_table(self) -> None:
        self.write_name()
        if self.take("("):
            self.comma_list(self.write_name)
            self.need(")")
        self.need("AS")
        self.subquery()

    def _query_term(self) -> None:
        if self.word == "(":
            self.subquery()
        else:
            self._select()

    def _select(self) -> None:
        self.need("SELECT")
        while True:
            if self.word in ("DISTINCT", "DISTINCTROW"):
                self.step()
                self.out.append("DISTINCT")
            elif self.word == "ALL" or self.word in _SELECT_OPTIONS:
                self.step()
            else:
                break
        if not self.take("*") or self.take(","):  # a star alone stands in front only
            self.comma_list(self._projection)
        if self.take("FROM"):
            if self.word == "DUAL":
                self.step()
                self.out.pop()
            else:
                self.table_references()
        if self.take("WHERE"):
            self.expression()
        if self.take("GROUP", "BY"):
            self.comma_list(self._group_term)
            if self.skip("WITH", "ROLLUP"):
                self.out.append("WITH ROLLUP")
        if self.take("HAVING"):
            self.expression()
        if self.take("WINDOW"):
            self.comma_list(self._named_window)
        self.order_by()
        self.limit()
        self._locking()

    def _group_term(self) -> None:
        self.expression()
        if self.word in ("ASC", "DESC") and self.flavour is Flavour.MARIADB:
            self.step()

    def _named_window(self) -> None:
        self.write_name()
        self.need("AS")
        self._window()

    def _projection(self) -> None:
        start, written = self.token.start, len(self.out)
        self.expression()
        end = self._tokens[self.position - 1].end
        explicit = len(self.out)
        self.alias(strings=True)
        if len(self.out) == explicit and self.out[-1] != "*":
            plain = self.out[written:explicit]
            if any(piece[:1] not in ("`", ".") for piece in plain):
                self.out += ["AS", quoted(self.sql[start:end])]

    def limit(self) -> None:
        """An optional LIMIT, always written as LIMIT n OFFSET m."""
        if not self.skip("LIMIT"):
            return
        first = self._digits()
        if self.skip(","):
            self.out.append(f"LIMIT {self._digits()} OFFSET {first}")
        elif self.skip("OFFSET"):
            self.out.append(f"LIMIT {first} OFFSET {self._digits()}")
        else:
            self.out.append(f"LIMIT {first}")

    def _locking(self) -> None:
        if self.skip("FOR", "UPDATE") or self.skip("FOR", "SHARE"):
            return
        self.skip("LOCK", "IN", "SHARE", "MODE")

    # ---- tables

    def table_references(self) -> None:
        """What may follow FROM."""
        self.comma_list(self._joined)

    def _joined(self) -> None:
        self._factor()
        while self.word in _JOINS:
            outer = self.word in ("LEFT", "RIGHT")
            natural = self.take("NATURAL")
            if self.word == "STRAIGHT_JOIN":
                self.step()
                self.out += ["INNER", "JOIN"]
            elif self.word in ("LEFT", "RIGHT"):
                outer = True
                self.out.append(self.step().text.upper())
                self.take("OUTER")
                self.need("JOIN")
            elif self.word in ("INNER", "CROSS"):
                self.out.append("INNER")
                self.step()
                self.need("JOIN")
            else:
                self.need("JOIN")
            self._factor()
            self._condition(outer and not natural)

    def _condition(self, needed: bool) -> None:
        if self.take("ON"):
            self.expression()
        elif self.take("USING"):
            self.need("(")
            self.comma_list(self.write_name)
            self.need(")")
        elif needed:
            raise self.fail()

    def _factor(self) -> None:
        if self.word == "(":
            if self._query_ahead() and self._is_query():
                self.subquery()
                self.alias(strings=False)
                if self.word == "(" and self.take("("):
                    self.comma_list(self.write_name)
                    self.need(")")
            else:
                self.need("(")
                self.nested(self.table_references)
                self.need(")")
            return
        self.table_name()
        self.alias(strings=False)
        self._index_hint()

    def table_name(self) -> None:
        """The name of a table, with that of its database or not."""
        self.write_name()
        if self.take("."):
            self.write_name(after_dot=True)

    def _index_hint(self) -> None:
        while self.word in ("USE", "FORCE", "IGNORE") and self.peek() in (
            "INDEX",
            "KEY",
        ):
            self.step()
            self.step()
            self.captured(self._names)

    def _names(self) -> None:
        self.need("(")
        if self.word != ")":
            self.comma_list(self._index_name)
        self.need(")")

    def _index_name(self) -> None:
        if self.word == "PRIMARY":
            self.step()
        else:
            self.write_name()
