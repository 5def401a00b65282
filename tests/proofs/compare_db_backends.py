"""Compares the embedded database of DBBench with a real server.

    python tests/proofs/compare_db_backends.py --data .../cycleqd_standard_dev.jsonl
    python tests/proofs/compare_db_backends.py --record tests/.../recorded.json

The first runs each problem's gold statement on both and says on how many feedback and
table state agree; the second has a server answer the statements of a recording anew.
Both start a MariaDB of their own. The embedded database imitates MariaDB for this.
"""

import argparse
import asyncio
import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence

TESTS = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent)]

import mariadb  # noqa: E402

from cycleqd_jax.tasks.dbbench.backend import Backend, Table  # noqa: E402
from cycleqd_jax.tasks.dbbench.data import read_problems  # noqa: E402
from cycleqd_jax.tasks.dbbench.mysql import MysqlBackend  # noqa: E402
from cycleqd_jax.tasks.dbbench.sqlite import open_backend  # noqa: E402

AT_ONCE = 8  # databases


@dataclasses.dataclass(frozen=True)
class Case:
    """Statements on one table, in order.

    Attributes:
      name: of the case.
      table: what the database begins with.
      statements: what a model could send.
    """

    name: str
    table: Table
    statements: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What came of a case: a text for each statement, and the state after all."""

    texts: tuple[str, ...]
    state: str


def gold_cases(path: pathlib.Path) -> list[Case]:
    """Each problem's gold statement: its label, or its query where it has one."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    cases = []
    for problem, row in zip(read_problems(path), rows, strict=True):
        case = problem.data["case"]
        query = row.get("sql")
        query = query.get("query") if isinstance(query, dict) else query
        statement = case.label[0] if case.modifies else query
        statements = (statement.strip().replace("\n", " "),) if statement else ()
        cases.append(Case(problem.id, case.table, statements))
    return cases


def recorded_cases(recording: dict) -> list[Case]:
    """The cases of a recording, without its answers."""
    return [
        Case(
            case["table"],
            table_of(recording["tables"][case["table"]]),
            tuple(statement for statement, _ in case["statements"]),
        )
        for case in recording["cases"]
    ]


def table_of(raw: dict) -> Table:
    """The table that a recording holds."""
    rows = tuple(tuple(row) for row in raw["rows"])
    return Table(raw["name"], tuple(raw["columns"]), rows)


async def play(backend: Backend, cases: Sequence[Case]) -> list[Answers]:
    """The answers of a backend to all cases."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> Answers:
        async with places:
            database = await backend.open(case.table)
            try:
                texts = [await database.execute(s) for s in case.statements]
                return Answers(tuple(texts), await database.state())
            finally:
                await database.close()

    try:
        return await asyncio.gather(*map(one, cases))
    finally:
        await backend.aclose()


def on_server(url: str, cases: Sequence[Case]) -> list[Answers]:
    """The answers of a MySQL or MariaDB server."""
    return asyncio.run(play(MysqlBackend(url), cases))


def embedded(cases: Sequence[Case], flavour: str = "mariadb") -> list[Answers]:
    """The answers of the embedded database."""
    return asyncio.run(play(open_backend(flavour=flavour), cases))


def disagreements(cases, first, second) -> list[tuple[str, str, str, str]]:
    """(case, statement or "state", first's text, second's) where they differ."""
    found = []
    for case, a, b in zip(cases, first, second, strict=True):
        for statement, x, y in zip(case.statements, a.texts, b.texts, strict=True):
            if x != y:
                found.append((case.name, statement, x, y))
        if a.state != b.state:
            found.append((case.name, "state", a.state, b.state))
    return found


def main() -> None:
    """Compares or records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--record", type=pathlib.Path)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        mariadb.running(pathlib.Path(folder)) as server,
    ):
        if arguments.record is not None:
            _record(arguments.record, server)
        if arguments.data is not None:
            _compare(gold_cases(arguments.data), server)


def _record(path: pathlib.Path, server: mariadb.MariaDB) -> None:
    recording = json.loads(path.read_text())
    cases = recorded_cases(recording)
    recording["server"] = server.query("SELECT VERSION()")[0][0]
    for case, raw, said in zip(
        cases, recording["cases"], on_server(server.url, cases), strict=True
    ):
        raw["statements"] = [
            list(pair) for pair in zip(case.statements, said.texts, strict=True)
        ]
        raw["state"] = said.state
    text = json.dumps(recording, ensure_ascii=False, indent=1)
    path.write_text(text + "\n")
    print(f"recorded {sum(len(c.statements) for c in cases)} statements")


def _compare(cases: list[Case], server: mariadb.MariaDB) -> None:
    found = disagreements(cases, on_server(server.url, cases), embedded(cases))
    for name, what, expected, got in found:
        print(f"{name}: {what}\n  server   {expected}\n  embedded {got}")
    texts = sum(len(case.statements) for case in cases)
    wrong = sum(what != "state" for _, what, _, _ in found)
    print(f"feedback: {texts - wrong} of {texts} agree")
    print(f"state: {len(cases) - (len(found) - wrong)} of {len(cases)} agree")


if __name__ == "__main__":
    main()
