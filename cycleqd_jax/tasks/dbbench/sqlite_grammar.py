"""The grammar of MySQL's expressions and queries.

It finds the first token that does not fit, which a syntax error names, and writes what
fits in a plain form that leaves a parser nothing to guess: names in backticks, strings
with doubled quotes, no comments, and everything with a syntax of its own as a call,
like `F_CAST(x, 'SIGNED')` for `CAST(x AS SIGNED)`.
"""

from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, MySQLError
from cycleqd_jax.tasks.dbbench.sqlite_lexer import Kind
from cycleqd_jax.tasks.dbbench.sqlite_reader import Reader, quoted, string
from cycleqd_jax.tasks.dbbench.sqlite_words import (
    CALLABLE,
    TIGHT,
    UNITS,
    WITHOUT_PARENTHESES,
)

_COMPARISONS = frozenset(("=", "<=>", "<>", "!=", ">=", "<=", "<", ">"))
_BINARY = frozenset(
    ("+", "-", "*", "/", "%", "^", "&", "|", "<<", ">>", "&&", "||", *_COMPARISONS)
)
_BINARY_WORDS = frozenset(("AND", "OR", "XOR", "DIV", "MOD"))


class ExpressionReader(Reader):
    """Reads expressions."""

    def expression(self) -> None:
        """An expression with all operators."""
        self.nested(self._expression)

    def _expression(self) -> None:
        self._operand()
        while True:
            if self.word in _BINARY or self.word in _BINARY_WORDS:
                self._binary()
            elif not self._predicate():
                return

    def _binary(self) -> None:
        word = self.step().text.upper()
        self.out.append({"&&": "AND", "||": "OR", "!=": "<>"}.get(word, word))
        if word in _COMPARISONS and self.word in ("ANY", "SOME", "ALL"):
            if self.peek() == "(":
                self.out.append("ALL" if self.step().text.upper() == "ALL" else "ANY")
                self.subquery()
                return
        self._operand()

    def _predicate(self) -> bool:
        """What follows an operand besides plain operators; False if nothing does."""
        if self.take("IS"):
            self.take("NOT")
            if self.word not in ("NULL", "TRUE", "FALSE", "UNKNOWN"):
                raise self.fail()
            self.out.append("NULL" if self.word == "UNKNOWN" else self.word)
            self.step()
            return True
        if self.word == "NOT" and self.peek() in (
            "IN", "BETWEEN", "LIKE", "REGEXP", "RLIKE",
        ):  # fmt: skip
            self.need("NOT")
        if self.take("IN"):
            self._in_list()
        elif self.take("BETWEEN"):
            self._arithmetic()
            self.need("AND")
            self._operand()
        elif self.take("LIKE"):
            self._operand()
            if self.take("ESCAPE"):
                self._operand()
        elif self.word in ("REGEXP", "RLIKE"):
            self.step()
            self.out.append("RLIKE")
            self._operand()
        elif self.take("COLLATE"):
            if self.token.kind is Kind.STRING:
                self.out.append(quoted(self.step().value))
            elif self.take("BINARY"):
                self.out[-1] = "`binary`"
            else:
                self.write_name()
        elif self.word in ("->", "->>") and self.flavour is Flavour.MYSQL8:
            self._json_path()
        else:
            return False
        return True

    def _json_path(self) -> None:
        name = "F_JSON_ARROW" if self.step().text == "->" else "F_JSON_ARROWS"
        if self.token.kind is not Kind.STRING:
            raise self.fail()
        operand = self.out.pop()
        while self.out and self.out[-1] == ".":
            operand = self.out.pop(-2) + "." + operand
            self.out.pop()
        self.out.append(f"{name}({operand}, {string(self.step().value)})")

    def _arithmetic(self) -> None:
        """An operand with operators that bind tighter than AND."""
        self._operand()
        while self.word in _BINARY - _COMPARISONS - {"&&", "||"} or self.word in (
            "DIV",
            "MOD",
        ):
            self._binary()

    def _in_list(self) -> None:
        if self.word == "(" and self._query_ahead():
            self.subquery()
            return
        self.need("(")
        self.comma_list(self.expression)
        self.need(")")

    def _query_ahead(self) -> bool:
        """Whether a parenthesis here opens a query."""
        ahead = 0
        while self.peek(ahead) == "(":
            ahead += 1
        return self.peek(ahead) in ("SELECT", "WITH")

    def _operand(self) -> None:
        while True:
            if self.word in ("-", "+", "~"):
                self.out.append(self.step().text)
            elif self.word in ("NOT", "!"):
                self.step()
                self.out.append("NOT")
            else:
                break
        self.nested(self._primary)

    def _primary(self) -> None:
        kind, word = self.token.kind, self.word
        if kind is Kind.STRING:
            self._strings()
        elif kind is Kind.NUMBER:
            self.out.append(self.step().text)
        elif kind is Kind.BYTES:
            self.out.append(f"F_BYTES('{self.step().value}')")
        elif kind is Kind.VARIABLE:
            self._variable()
        elif word == "(":
            self._parenthesis()
        elif kind is Kind.QUOTED:
            self._column_or_call()
        elif kind is Kind.WORD:
            self._word(word)
        else:
            raise self.fail()

    def _strings(self) -> None:
        text = self.step().value
        while self.token.kind is Kind.STRING:
            text += self.step().value
        self.out.append(string(text))

    def _variable(self) -> None:
        token = self.step()
        name = "F_SYSTEM_VARIABLE" if token.text.startswith("@@") else "F_VARIABLE"
        self.out.append(f"{name}({string(token.value.lower())})")
        if name == "F_VARIABLE" and self.skip(":="):
            self.out[-1] = f"F_ASSIGN({string(token.value.lower())},"
            self.expression()
            self.out.append(")")

    def _parenthesis(self) -> None:
        if self._query_ahead() and self._is_query():
            self.subquery()
            return
        self.need("(")
        self.comma_list(self.expression)
        self.need(")")

    def _is_query(self) -> bool:
        """Whether what the parentheses here hold is a query, not an expression.

        In `((SELECT 1) + 2)` the outer ones hold an expression.
        """
        if self.peek(1) in ("SELECT", "WITH"):
            return True
        depth, ahead = 0, 1
        while True:
            word = self.peek(ahead)
            depth += (word == "(") - (word == ")")
            if depth == 0:
                return self.peek(ahead + 1) in (")", "UNION", "ORDER", "LIMIT")
            if self._tokens[min(self.position + ahead, len(self._tokens) - 1)].kind is (
                Kind.END
            ):
                return True
            ahead += 1

    def _word(self, word: str) -> None:
        calls = self.peek() == "("
        if word in ("NULL", "TRUE", "FALSE"):
            self.out.append(self.step().text.upper())
        elif word == "CASE":
            self._case()
        elif word == "EXISTS" and calls:
            self.need("EXISTS")
            self.subquery()
        elif word == "BINARY":
            self.step()
            self.out.append("F_BINARY(")
            self._operand()
            self.out.append(")")
        elif word == "INTERVAL":
            self._interval()
        elif word == "ROW" and calls:
            self.step()
            self._parenthesis()
        elif word == "MATCH" and calls:
            raise MySQLError(1191, "Can't find FULLTEXT index matching the column list")
        elif word in WITHOUT_PARENTHESES and not calls:
            self.out.append(f"F_{self.step().text.upper()}()")
        elif word == "DEFAULT" and not calls:
            self.step()
            self.out.append("F_DEFAULT_VALUE()")
        elif word in ("DATE", "TIME", "TIMESTAMP") and self._string_next():
            self.step()
            self.out.append(f"F_LITERAL('{word}', {string(self.step().value)})")
        elif word.startswith("_") and self._string_next():
            self.step()  # a character set before a string
            self._strings()
        elif word == "N" and self._string_next() and self._touches():
            self.step()
            self._strings()
        else:
            self._column_or_call()

    def _string_next(self) -> bool:
        following = self._tokens[min(self.position + 1, len(self._tokens) - 1)]
        return following.kind is Kind.STRING

    def _touches(self) -> bool:
        """Whether the next token follows without a space."""
        return self._tokens[self.position + 1].start == self.token.end

    def _column_or_call(self) -> None:
        if self.peek() == "(":
            name = self.word
            if self.token.kind is Kind.WORD and (
                name in CALLABLE or name not in self._reserved
            ):
                if not (name in TIGHT and not self._touches()):
                    self.call(name)
                    return
                if name in ("COUNT", "GROUP_CONCAT", "CAST", "TRIM", "EXTRACT"):
                    name = self.word
                self._loose_call(name)
                return
        if not self.at_name():
            if self.word in CALLABLE or self.word in ("MATCH", "EXISTS"):
                self.step()  # fits; what must follow does not
            raise self.fail()
        self.write_name()
        while self.word == ".":
            self.need(".")
            if self.word == "*":
                self.need("*")
                return
            self.write_name(after_dot=True)

    def _loose_call(self, name: str) -> None:
        """A name, a space and a parenthesis: no function of the server."""
        self.step()
        self.must_skip("(")
        if self.word != ")":
            self.captured(lambda: self.comma_list(self.expression))
        self.must_skip(")")
        raise MySQLError(
            1630,
            f"FUNCTION {{database}}.{name} does not exist. Check the 'Function Name "
            "Parsing and Resolution' section in the Reference Manual",
        )

    def _case(self) -> None:
        self.need("CASE")
        if self.word != "WHEN":
            self.expression()
        if self.word != "WHEN":
            raise self.fail()
        while self.take("WHEN"):
            self.expression()
            self.need("THEN")
            self.expression()
        if self.take("ELSE"):
            self.expression()
        self.need("END")

    def _interval(self) -> None:
        if self.peek() == "(" and self._has_comma():
            self.call("INTERVAL")
            return
        self.step()
        self.out.append("F_INTERVAL(")
        self.expression()
        self.out.append(f", '{self.unit()}')")

    def _has_comma(self) -> bool:
        depth, ahead = 0, 1
        while self.position + ahead < len(self._tokens):
            word = self.peek(ahead)
            depth += (word == "(") - (word == ")")
            if depth == 0:
                return False
            if depth == 1 and word == ",":
                return True
            ahead += 1
        return False

    def unit(self) -> str:
        """Passes a unit of time and returns it."""
        word = self.word.removeprefix("SQL_TSI_")
        if word not in UNITS:
            raise self.fail()
        self.step()
        return word

    def call(self, name: str) -> None:
        """A call of a function; overridden where calls have their own syntax."""
        raise NotImplementedError

    def subquery(self) -> None:
        """A query in parentheses."""
        raise NotImplementedError
