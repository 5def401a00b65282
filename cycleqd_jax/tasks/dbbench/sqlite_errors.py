"""Errors of a statement, in the words of MySQL 8 (or of MariaDB) with their codes."""

import enum


class Flavour(enum.StrEnum):
    """Which server is imitated where the two differ.

    MySQL 8: words like RANK are reserved, every selected column must be grouped or
    aggregated, text is ordered and compared by utf8mb4_0900_ai_ci, groups come in the
    order of their first row. MariaDB (10.11): none of that, utf8mb4_general_ci, groups
    come sorted.
    """

    MYSQL8 = "mysql8"
    MARIADB = "mariadb"


_STATES = {
    1044: "42000",
    1046: "3D000",
    1048: "23000",
    1050: "42S01",
    1051: "42S02",
    1052: "23000",
    1054: "42S22",
    1055: "42000",
    1056: "42000",
    1060: "42S21",
    1062: "23000",
    1064: "42000",
    1065: "42000",
    1066: "42000",
    1068: "42000",
    1091: "42000",
    1103: "42000",
    1109: "42S02",
    1110: "42000",
    1136: "21S01",
    1140: "42000",
    1142: "42000",
    1146: "42S02",
    1222: "21000",
    1227: "42000",
    1235: "42000",
    1241: "21000",
    1242: "21000",
    1248: "42000",
    1264: "22003",
    1292: "22007",
    1305: "42000",
    1365: "22012",
    1406: "22001",
    1582: "42000",
    1690: "22003",
    3024: "HY000",
}


class MySQLError(Exception):
    """What a server would answer to a statement.

    Args:
      code: MySQL's number of the error.
      message: its text, without number.
    """

    def __init__(self, code: int, message: str):
        super().__init__(f"{code} ({_STATES.get(code, 'HY000')}): {message}")
        self.code = code


def syntax_error(near: str, flavour: Flavour, line: int = 1) -> MySQLError:
    """Error 1064.

    Args:
      near: the text from the first token that does not fit, to the end.
      flavour: names the server.
      line: on which it stands, from 1.
    """
    data = near.encode()
    if flavour is Flavour.MYSQL8:
        server, shown = "MySQL", data[:80]
    else:
        server = "MariaDB"
        shown = data if len(data) <= 80 else data[:77] + b"..."
    return MySQLError(
        1064,
        "You have an error in your SQL syntax; check the manual that corresponds to "
        f"your {server} server version for the right syntax to use near "
        f"'{shown.decode(errors='ignore')}' at line {line}",
    )


_CLAUSES = {
    "field list": "SELECT",
    "where clause": "WHERE",
    "group statement": "GROUP BY",
    "having clause": "HAVING",
    "order clause": "ORDER BY",
    "on clause": "ON",
    "from clause": "FROM",
}


def unknown_column(name: str, clause: str, flavour: Flavour) -> MySQLError:
    """Error 1054.

    Args:
      name: as it was written, with its table if it was given.
      clause: in MySQL's words, like "field list" or "where clause".
      flavour: MariaDB names clauses by their keywords.
    """
    return MySQLError(
        1054, f"Unknown column '{name}' in '{clause_name(clause, flavour)}'"
    )


def clause_name(clause: str, flavour: Flavour) -> str:
    """A clause in the flavour's words."""
    return _CLAUSES.get(clause, clause) if flavour is Flavour.MARIADB else clause


def no_such_table(database: str, name: str) -> MySQLError:
    """Error 1146."""
    return MySQLError(1146, f"Table '{database}.{name}' doesn't exist")


def unsupported(what: str) -> MySQLError:
    """What this database cannot do although a server can."""
    return MySQLError(1235, f"This version of MySQL doesn't yet support '{what}'")
