"""The grammar of MySQL's calls; see `sqlite_grammar`."""

from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour
from cycleqd_jax.tasks.dbbench.sqlite_grammar import ExpressionReader
from cycleqd_jax.tasks.dbbench.sqlite_lexer import Kind
from cycleqd_jax.tasks.dbbench.sqlite_reader import string
from cycleqd_jax.tasks.dbbench.sqlite_words import WINDOW_ONLY

_DISTINCT = frozenset(("COUNT", "SUM", "AVG", "MIN", "MAX", "GROUP_CONCAT"))
_NEEDING = _DISTINCT | {"NTILE", "LAG", "LEAD"}  # at least one argument
_ARITHMETIC = {"DATE_ADD", "ADDDATE", "DATE_SUB", "SUBDATE"}
_CAST_WORDS = frozenset(
    """
SIGNED UNSIGNED CHAR NCHAR DECIMAL DEC BINARY DATE DATETIME TIME YEAR FLOAT DOUBLE REAL
JSON
""".split()
)
_CAST_MARIADB = frozenset("INT INTEGER VARCHAR".split())


class CallReader(ExpressionReader):
    """Adds calls to the expressions."""

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
        if not self._over() and name in WINDOW_ONLY:
            raise self.fail()

    def _arguments(self, name: str) -> None:
        self.out.append(f"F_{name}(")
        if self.word != ")" or name.partition("_DISTINCT")[0].upper() in _NEEDING:
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
            if name in ("DECIMAL", "DEC") and self.skip(","):
                sizes.append(self._digits())
            self.must_skip(")")
        if name in ("CHAR", "VARCHAR") and self.skip("CHARACTER", "SET"):
            self.name()
        same = {"INT": "SIGNED", "INTEGER": "SIGNED"}
        same |= {"DEC": "DECIMAL", "NCHAR": "CHAR"}
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

    def _over(self) -> bool:
        if not self.take("OVER"):
            return False
        if self.at_name():
            self.write_name()
        else:
            self._window()
        return True

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

    def order_by(self) -> None:
        """An optional ORDER BY."""
        if self.take("ORDER", "BY"):
            self.comma_list(self._order_term)

    def _order_term(self) -> None:
        self.expression()
        if not self.take("ASC"):
            self.take("DESC")
