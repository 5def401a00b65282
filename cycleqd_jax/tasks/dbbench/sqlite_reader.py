"""Walking through the tokens of a statement, and writing its plain form.

See `sqlite_grammar` for what the plain form is.
"""

from cycleqd_jax.tasks.dbbench.sqlite_errors import Flavour, MySQLError, syntax_error
from cycleqd_jax.tasks.dbbench.sqlite_lexer import Kind, Token, line_of
from cycleqd_jax.tasks.dbbench.sqlite_words import RESERVED

MAX_DEPTH = 60  # nested parentheses, calls, queries


class Reader:
    """Walks through tokens and writes the plain form.

    Attributes:
      sql: the whole text.
      out: pieces of the plain form so far.
      word: the current token in capitals if it is a word or an operator, else "".
    """

    def __init__(self, sql: str, tokens: list[Token], flavour: Flavour):
        self.sql = sql
        self.flavour = flavour
        self.out: list[str] = []
        self._tokens = tokens
        self._reserved = RESERVED[flavour]
        self._depth = 0
        self.position = 0
        self._enter(0)

    # ---- tokens

    def _enter(self, position: int) -> None:
        self.position = position
        self.token = self._tokens[position]
        kind = self.token.kind
        if kind is Kind.WORD:
            self.word = self.token.text.upper()
        else:
            self.word = self.token.text if kind is Kind.OPERATOR else ""

    def step(self) -> Token:
        """Passes the current token and returns it; writes nothing."""
        token = self.token
        if token.kind is not Kind.END:
            self._enter(self.position + 1)
        return token

    def peek(self, ahead: int = 1) -> str:
        """A later token like `word`."""
        index = min(self.position + ahead, len(self._tokens) - 1)
        token = self._tokens[index]
        if token.kind is Kind.WORD:
            return token.text.upper()
        return token.text if token.kind is Kind.OPERATOR else ""

    def fail(self) -> MySQLError:
        """The error that the current token does not fit."""
        start = self.token.start
        return syntax_error(self.sql[start:], self.flavour, line_of(self.sql, start))

    def take(self, *words: str) -> bool:
        """Passes these words if they come next, and writes them."""
        for ahead, word in enumerate(words):
            if self.peek(ahead) != word:
                return False
        for word in words:
            self.step()
            self.out.append(word)
        return True

    def skip(self, *words: str) -> bool:
        """Passes these words if they come next, and does not write them."""
        written = len(self.out)
        taken = self.take(*words)
        del self.out[written:]
        return taken

    def need(self, *words: str) -> None:
        """Passes and writes these words, one after another."""
        for word in words:
            if not self.take(word):
                raise self.fail()

    def must_skip(self, *words: str) -> None:
        """Passes these words without writing them."""
        for word in words:
            if not self.skip(word):
                raise self.fail()

    def captured(self, part) -> str:
        """What `part()` writes, taken out of `out`."""
        written = len(self.out)
        part()
        text = " ".join(self.out[written:])
        del self.out[written:]
        return text

    def comma_list(self, part) -> None:
        """`part()` once or more, with commas between."""
        part()
        while self.take(","):
            part()

    # ---- names

    def at_name(self) -> bool:
        """Whether the current token can be a name."""
        if self.token.kind is Kind.QUOTED:
            return True
        return self.token.kind is Kind.WORD and self.word not in self._reserved

    def name(self, *, after_dot: bool = False) -> str:
        """Passes a name and returns it; writes nothing."""
        is_word = after_dot and self.token.kind is Kind.WORD
        if not (is_word or self.at_name()):
            raise self.fail()
        return self.step().value

    def write_name(self, *, after_dot: bool = False) -> None:
        """Passes a name and writes it in backticks."""
        self.out.append(quoted(self.name(after_dot=after_dot)))

    def dotted(self) -> None:
        """`a`, `a`.`b` or `a`.`b`.`c`, written."""
        self.write_name()
        while self.take("."):
            self.write_name(after_dot=True)

    def alias(self, *, strings: bool) -> None:
        """An optional alias, after AS or not."""
        explicit = self.skip("AS")
        if strings and self.token.kind is Kind.STRING:
            self.out += ["AS", quoted(self.step().value)]
        elif explicit or (self.at_name() and self._ends_window() is False):
            self.out.append("AS")
            self.write_name()

    def _ends_window(self) -> bool:
        """Whether this is the clause WINDOW, a word that MariaDB does not reserve."""
        return self.word == "WINDOW" and self.peek(2) == "AS"

    def nested(self, part) -> None:
        """`part()` one level deeper."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise MySQLError(
                1436, "Thread stack overrun: the statement is nested too deeply"
            )
        part()
        self._depth -= 1


def quoted(name: str) -> str:
    """A name in backticks."""
    return "`" + name.replace("`", "``") + "`"


def string(text: str) -> str:
    """A string literal that the parser reads back as `text`."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
