"""Asks several individuals of a run one question and prints their answers.

    python -m experiments.ask RUN "question" [--models base champion/TASK ...]

Without --models it asks the base, the experts, the champions and the result.
--vote also prints the answer that most of them give, --best-of the one with the
highest log-probability per token. A line says so below answers that were cut.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

import rich.table
import rich.text

from cycleqd_jax.chat import Finish
from cycleqd_jax.errors import BadInputError, printable
from cycleqd_jax.inference.requests import Generation
from cycleqd_jax.reports import console
from cycleqd_jax.runs.names import BASE, champion_name, expert_name
from cycleqd_jax.runs.opened import OpenedRun, open_run
from cycleqd_jax.serving.catalogue import Catalogue
from cycleqd_jax.serving.loading import open_desk
from cycleqd_jax.serving.settings import ServeSettings
from cycleqd_jax.serving.together import (
    ask_all,
    check_names,
    likeliest_reply,
    majority,
)

_CUT = "Cut: there was no room for more."  # as the explorer's chat says it


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and asks; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ask",
        description="Ask several individuals of a run one question.",
    )
    parser.add_argument(
        "run",
        type=console.path,
        help="run folder, like runs/quickstart, or the URL of its mirror",
    )
    parser.add_argument("question", help="what the user says")
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        help="individuals, like base, champion/TASK, child/17 or a cell TASK/7,3",
    )
    parser.add_argument("--system", help="the system's message; may be empty")
    parser.add_argument(
        "--max-tokens", type=int, default=256, help="limit of each answer (256)"
    )
    parser.add_argument(
        "--base-model",
        type=console.path,
        metavar="PATH",
        help="where the run's base model is, if the run was made on another machine",
    )
    parser.add_argument(
        "--vote", action="store_true", help="print the answer that most models give"
    )
    parser.add_argument(
        "--best-of",
        action="store_true",
        help="print the answer with the highest log-probability per token",
    )
    args = parser.parse_args(argv)
    return console.guarded(
        lambda: _ask(args), interrupted="The run is as it was; ask again."
    )


def _ask(args: argparse.Namespace) -> int:
    console.set_up_process()
    opened = open_run(args.run).with_base(args.base_model)
    if args.max_tokens < 1:
        raise BadInputError(
            f"--max-tokens: expected at least 1, got {args.max_tokens}."
        )
    names = list(dict.fromkeys(args.models or _usual(opened)))
    catalogue = Catalogue(opened)
    check_names(catalogue, names)
    with console.ConsoleObserver() as observer:
        desk = open_desk(opened, ServeSettings(), observer)
        messages = [{"role": "user", "content": args.question}]
        if args.system is not None:
            messages.insert(0, {"role": "system", "content": args.system})
        observer.phase(f"asking {', '.join(names)}")
        replies = ask_all(desk, catalogue, names, messages, args.max_tokens)
    out = console.make_console()
    out.print(_table(replies, plain=not out.is_terminal))
    if args.vote:
        name, count = majority(replies)
        out.print(f"{count} of {len(replies)} say, like {name}:", markup=False)
        out.print(_shown(replies[name]), soft_wrap=True)
    if args.best_of:
        name = likeliest_reply(replies)
        out.print(f"the likeliest answer is that of {name}:", markup=False)
        out.print(_shown(replies[name]), soft_wrap=True)
    return console.DONE


def _usual(opened: OpenedRun) -> list[str]:
    """Base, experts, champions, result."""
    names = [BASE, *map(expert_name, opened.experts)]
    if opened.facts:
        names += [champion_name(group) for group in opened.facts.aggregation]
        names.append(opened.facts.result)
    return names


def _table(replies: Mapping[str, Generation], *, plain: bool) -> rich.table.Table:
    """One column per individual."""
    table = rich.table.Table(safe_box=plain)
    for name in replies:
        table.add_column(rich.text.Text(name), overflow="fold", ratio=1)
    table.add_row(*map(_shown, replies.values()))
    return table


def _shown(reply: Generation) -> rich.text.Text:
    """A reply, and a line below it if it was cut."""
    text = rich.text.Text(printable(reply.text, keep="\n"))
    if reply.finish is Finish.LENGTH:
        text.rstrip()
        text.append(f"\n{_CUT}" if text else _CUT, style="dim")
    return text


if __name__ == "__main__":
    sys.exit(main())
