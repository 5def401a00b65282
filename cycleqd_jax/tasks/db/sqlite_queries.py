"""The grammar of MySQL's calls, tables and SELECT; see `sqlite_grammar`."""

from cycleqd_jax.tasks.db.sqlite_errors import Flavour
from cycleqd_jax.tasks.db.sqlite_grammar import _JOINS, Reader, quoted, string
from cycleqd_jax.tasks.db.sqlite_lexer import Kind

_DISTINCT = frozenset(("COUNT", "SUM", "AVG", "MIN", "MAX", "GROUP_CONCAT"))
_ARITHMETIC = {"DATE_ADD", "ADDDATE", "DATE_SUB", "SUBDATE"}
_SELECT_OPTIONS = frozenset(
    """
HIGH_PRIORITY STRAIGHT_JOIN SQL_SMALL_RESULT SQL_BIG_RESULT SQL_BUFFER_RESULT
SQL_NO_CACHE SQL_CALC_FOUND_ROWS
""".split()
)
_CAST_WORDS = frozenset(
    """
SIGNED UNSIGNED CHAR NCHAR DECIMAL DEC BINARY DATE DATETIME TIME YEAR FLOAT DOUBLE REAL
JSON
""".split()
)
_CAST_MARIADB = frozenset("INT INTEGER VARCHAR NUMERIC BIGINT".split())


class QueryReader(Reader):
    """Adds calls, subqueries and SELECT to the expressions."""

    def subquery(self) -> None:
        """A query in parentheses."""
        self.need("(")
        self.nested(self.query)
        self.need(")")

    # ---- calls

    def call(self, name: str) -> None:
        """A call of a function, its own syntax turned into arguments."""
        written = self.step().text
        self.must_skip("(")
        special = getattr(self, f"_call_{name.lower()}", None)
        if special is not None:
            special()
        elif name in _DISTINCT and self.skip("DISTINCT"):
            self._arguments(f"{name}_DISTINCT")
        elif name in _ARITHMETIC:
            self._date_arithmetic(name)
        else:
            self._arguments(written)
        self._over()

    def _arguments(self, name: str) -> None:
        self.out.append(f"F_{name}(")
        if self.word != ")":
            self.comma_list(self.expression)
        self.need(")")

    def _call_count(self) -> None:
        if self.word == "*" and self.peek() == ")":
            self.skip("*", ")")
            self.out.append("F_COUNT(1)")
        elif self.skip("DISTINCT"):
            self._arguments("COUNT_DISTINCT")
        else:
            self.skip("ALL")
            self._arguments("COUNT")

    def _call_cast(self) -> None:
        self.out.append("F_CAST(")
        self.expression()
        self.must_skip("AS")
        self.out.append("," + self._cast_type())
        self.need(")")

    def _call_convert(self) -> None:
        self.out.append("F_CAST(")
        self.expression()
        if self.skip("USING"):
            if not self.skip("BINARY"):
                self.name()
            self.out.append(", 'CHAR')")
            self.must_skip(")")
            return
        self.must_skip(",")
        self.out.append("," + self._cast_type())
        self.need(")")

    def _cast_type(self) -> str:
        """The type of a cast as arguments: its name, length and scale."""
        known = set(_CAST_WORDS)
        if self.flavour is Flavour.MARIADB:
            known = (known | _CAST_MARIADB) - {"YEAR", "JSON", "REAL"}
        if self.word not in known:
            raise self.fail()
        name = self.step().text.upper()
        if name == "DOUBLE":
            self.skip("PRECISION")
        if name in ("SIGNED", "UNSIGNED"):
            self.skip("INTEGER") or self.skip("INT")
        sizes = []
        if self.skip("("):
            sizes.append(self._digits())
            if name in ("DECIMAL", "DEC", "NUMERIC") and self.skip(","):
                sizes.append(self._digits())
            self.must_skip(")")
        if name in ("CHAR", "VARCHAR") and self.skip("CHARACTER", "SET"):
            self.name()
        same = {"INT": "SIGNED", "INTEGER": "SIGNED", "BIGINT": "SIGNED"}
        same |= {"DEC": "DECIMAL", "NUMERIC": "DECIMAL", "NCHAR": "CHAR"}
        same |= {"VARCHAR": "CHAR", "REAL": "DOUBLE"}
        return ", ".join([f"'{same.get(name, name)}'", *sizes])

    def _digits(self) -> str:
        if self.token.kind is not Kind.NUMBER or not self.token.text.isdecimal():
            raise self.fail()
        return self.step().text

    def _call_group_concat(self) -> None:
        distinct = self.skip("DISTINCT")
        values = self.captured(lambda: self.comma_list(self.expression))
        order = []
        if self.skip("ORDER", "BY"):
            while True:
                key = self.captured(self.expression)
                down = self.skip("DESC")
                if not down:
                    self.skip("ASC")
                order.append(f"{int(down)}, {key}")
                if not self.skip(","):
                    break
        separator = ","
        if self.skip("SEPARATOR"):
            if self.token.kind is not Kind.STRING:
                raise self.fail()
            separator = self.step().value
        self.must_skip(")")
        keys = "".join(f", {term}" for term in order)
        self.out.append(
            f"F_GROUP_CONCAT({int(distinct)}, {string(separator)}, {len(order)}"
            f"{keys}, {values})"
        )

    def _call_extract(self) -> None:
        self.out.append(f"F_EXTRACT('{self.unit()}',")
        self.must_skip("FROM")
        self.expression()
        self.need(")")

    def _call_trim(self) -> None:
        side = self.word if self.word in ("LEADING", "TRAILING", "BOTH") else None
        if side:
            self.step()
        if side and self.skip("FROM"):
            removed = "' '"
        else:
            removed = self.captured(self.expression)
            if not self.skip("FROM"):
                if side:
                    raise self.fail()
                self.must_skip(")")
                self.out.append(f"F_TRIM('BOTH', ' ', {removed})")
                return
        self.out.append(f"F_TRIM('{side or 'BOTH'}', {removed},")
        self.expression()
        self.need(")")

    def _call_substring(self) -> None:
        self.out.append("F_SUBSTRING(")
        self.expression()
        if self.word not in (",", "FROM"):
            raise self.fail()
        if self.skip("FROM"):
            self.out.append(",")
            self.expression()
            if self.skip("FOR"):
                self.out.append(",")
                self.expression()
        else:
            while self.take(","):
                self.expression()
        self.need(")")

    _call_substr = _call_mid = _call_substring

    def _call_position(self) -> None:
        self.out.append("F_LOCATE(")
        self._arithmetic()
        self.must_skip("IN")
        self.out.append(",")
        self.expression()
        self.need(")")

    def _call_char(self) -> None:
        self.out.append("F_CHAR(")
        self.comma_list(self.expression)
        if self.skip("USING"):
            self.name()
            self.out[self._last("F_CHAR(")] = "F_CHAR_USING("
        self.need(")")

    def _last(self, piece: str) -> int:
        return len(self.out) - 1 - self.out[::-1].index(piece)

    def _call_values(self) -> None:
        self.out.append("F_VALUES(")
        self.dotted()
        self.need(")")

    def _unit_call(self, name: str) -> None:
        self.out.append(f"F_{name}('{self.unit()}'")
        while self.take(","):
            self.expression()
        self.need(")")

    def _call_timestampdiff(self) -> None:
        self._unit_call("TIMESTAMPDIFF")

    def _call_timestampadd(self) -> None:
        self._unit_call("TIMESTAMPADD")

    def _date_arithmetic(self, name: str) -> None:
        self.out.append(f"F_{name}(")
        self.expression()
        self.need(",")
        if self.word == "INTERVAL":
            self.step()
            self.expression()
            self.out.append(f", '{self.unit()}'")
        else:
            self.expression()
            self.out.append(", 'DAY'")
        self.need(")")

    def _over(self) -> None:
        if not self.take("OVER"):
            return
        if self.at_name():
            self.write_name()
        else:
            self._window()

    def _window(self) -> None:
        self.need("(")
        if self.take("PARTITION", "BY"):
            self.comma_list(self.expression)
        self.order_by()
        if self.word in ("ROWS", "RANGE"):
            self.out.append(self.step().text.upper())
            if self.take("BETWEEN"):
                self._bound()
                self.need("AND")
            self._bound()
        self.need(")")

    def _bound(self) -> None:
        if self.take("CURRENT", "ROW"):
            return
        if not self.take("UNBOUNDED"):
            self.expression()
        if not (self.take("PRECEDING") or self.take("FOLLOWING")):
            raise self.fail()

    # ---- queries

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
        if self.take("*"):
            return
        start, written = self.token.start, len(self.out)
        self.expression()
        end = self._tokens[self.position - 1].end
        explicit = len(self.out)
        self.alias(strings=True)
        if len(self.out) == explicit and self.out[-1] != "*":
            plain = self.out[written:explicit]
            if any(piece[:1] not in ("`", ".") for piece in plain):
                self.out += ["AS", quoted(self.sql[start:end])]

    def order_by(self) -> None:
        """An optional ORDER BY."""
        if self.take("ORDER", "BY"):
            self.comma_list(self._order_term)

    def _order_term(self) -> None:
        self.expression()
        if not self.take("ASC"):
            self.take("DESC")

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
