"""The grammar of ALTER, DROP, TRUNCATE and RENAME; see `sqlite_grammar`."""

from cycleqd_jax.tasks.dbbench.sqlite_definitions import Alter, DefinitionReader, Drop
from cycleqd_jax.tasks.dbbench.sqlite_errors import MySQLError, unsupported
from cycleqd_jax.tasks.dbbench.sqlite_lexer import Kind


class AlterationReader(DefinitionReader):
    """Adds what changes definitions."""

    def _read_alter(self):
        self.step()
        self.skip("IGNORE")
        if self.word in ("DATABASE", "SCHEMA", "USER"):
            raise MySQLError(1044, "Access denied for user to database")
        self.must_skip("TABLE")
        table = self.names()
        actions = []
        while True:
            actions += self._action()
            if not self.skip(","):
                return Alter(table, tuple(actions))

    def _action(self) -> list[tuple]:
        if self.skip("ADD"):
            if self.skip("CONSTRAINT") and self.at_name():
                self.name()
            key = self._key()
            if key is not None:
                return [("key", *key)]
            self.skip("COLUMN")
            self.skip("IF", "NOT", "EXISTS")
            if self.skip("("):
                added = [("add", self.column(), "")]
                while self.skip(","):
                    added.append(("add", self.column(), ""))
                self.must_skip(")")
                return added
            return [("add", self.column(), self._place())]
        if self.skip("DROP"):
            if self.skip("PRIMARY", "KEY"):
                return [("nothing",)]
            if self.word in ("KEY", "INDEX", "FOREIGN", "CONSTRAINT", "CHECK"):
                self.step()
                self.skip("KEY")
                self.name()
                return [("nothing",)]
            self.skip("COLUMN")
            self.skip("IF", "EXISTS")
            return [("drop", self.name())]
        if self.skip("MODIFY"):
            self.skip("COLUMN")
            column = self.column()
            return [("change", column.name, column, self._place())]
        if self.skip("CHANGE"):
            self.skip("COLUMN")
            old = self.name()
            return [("change", old, self.column(), self._place())]
        if self.skip("RENAME", "COLUMN"):
            old = self.name()
            self.must_skip("TO")
            return [("rename_column", old, self.name())]
        if self.skip("RENAME"):
            self.skip("TO") or self.skip("AS")
            return [("rename", self.names()[-1])]
        if self.skip("ALTER"):
            self.skip("COLUMN")
            self.name()
            if not self.skip("DROP", "DEFAULT"):
                self.must_skip("SET", "DEFAULT")
                self.captured(self._operand)
            return [("nothing",)]
        if self.token.kind is Kind.WORD and self.word in (
            "ENGINE", "DEFAULT", "CHARACTER", "CHARSET", "COLLATE", "CONVERT",
            "AUTO_INCREMENT", "COMMENT", "ORDER", "ROW_FORMAT",
        ):  # fmt: skip
            while self.token.kind is not Kind.END and self.word not in (";", ","):
                self.step()
            return [("nothing",)]
        raise self.fail()

    def _place(self) -> str | None:
        if self.skip("FIRST"):
            return None
        return self.name() if self.skip("AFTER") else ""

    def _read_drop(self):
        self.step()
        self.skip("TEMPORARY")
        what = self.word
        if what in ("TABLE", "TABLES", "VIEW", "DATABASE", "SCHEMA"):
            self.step()
            exists = self.skip("IF", "EXISTS")
            tables = [self.names()]
            while self.skip(","):
                tables.append(self.names())
            self.skip("CASCADE") or self.skip("RESTRICT")
            what = {"TABLES": "TABLE", "SCHEMA": "DATABASE"}.get(what, what)
            return Drop(what, tuple(tables), exists)
        if self.skip("INDEX"):
            self.name()
            self.must_skip("ON")
            return Alter(self.names(), ())
        if what in ("TRIGGER", "PROCEDURE", "FUNCTION", "EVENT", "USER"):
            raise unsupported(f"DROP {what}")
        raise self.fail()

    def _read_truncate(self):
        self.step()
        self.skip("TABLE")
        return Drop("TRUNCATE", (self.names(),))

    def _read_rename(self):
        self.step()
        self.must_skip("TABLE")
        table = self.names()
        self.must_skip("TO")
        return Alter(table, (("rename", self.names()[-1]),))
