"""Compiles a run's programs for a chip that need not be here, and says what they need.

python -m experiments.scale_check --model llama-3-8b --topology v5e:2x4 \
        [--individuals 16 --slots 64 --length 2048 --rank 64] [--json FILE]

Weights are not read: programs are compiled for their shapes. `docs/scale.md` explains
the figures.

Exit codes: 0 all programs fit, 1 one does not, 2 bad input, 130 interrupted, 143
terminated.
"""

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Sequence

import rich.box
import rich.table

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import parse_section, write_text
from cycleqd_jax.inference.settings import EngineSettings, MeshSettings
from cycleqd_jax.models import sharding
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.reports import console
from cycleqd_jax.runs.known_models import KnownModel, known_model
from cycleqd_jax.runs.memory import size_text
from experiments.scale import programs
from experiments.scale.abstract import AbstractRun, make_run
from experiments.scale.chips import Target, find_target
from experiments.scale.measure import Row, continued, measure
from experiments.scale.programs import Job

_QUICK_LAYERS = (4, 6)  # fewer would fit into a chip's cache whole, and say too little


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and compiles; returns the exit code."""
    args = _parser().parse_args(argv)
    return console.guarded(
        lambda: _run(args),
        interrupted="The file of --json, if there is one, has the finished programs.",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.scale_check",
        description="Compile a run's programs for a TPU topology, which need not be "
        "here, or for this machine, and say what they need on each device.",
    )
    parser.add_argument(
        "--model", required=True, help="llama-3-8b, llama-3.1-70b or smollm2-135m"
    )
    parser.add_argument(
        "--topology", default="local", help="v5e:2x4, v5p:2x2x2, v6e:2x4, ... or local"
    )
    parser.add_argument(
        "--mesh",
        metavar="DATAxTENSOR",
        help="default: as many of the devices along tensor as divide the key-value "
        "heads, the others along data",
    )
    numbers = {
        "individuals": (16, "that share a pass in factored mode"),
        "slots": (64, "conversations at once"),
        "length": (2048, "tokens of each"),
        "prefill-rows": (8, "conversations of a prefill call"),
        "prefill-chunk": (0, "tokens of each; 0 takes 256, or what divides the length"),
        "decode-steps": (16, "tokens of a decode call"),
    }
    for name, (default, text) in numbers.items():
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{text}; default {default}"
        )
    parser.add_argument(
        "--rank",
        type=_rank,
        default=64,
        help="of the basis, for each of three experts; a number or full; default 64",
    )
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--attention", default="auto", help="as engine.attention")
    parser.add_argument(
        "--modes", default=",".join(programs.MODES), help="default: %(default)s"
    )
    parser.add_argument(
        "--programs", default=",".join(programs.NAMES), help="default: %(default)s"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="compile {} and {} layers and continue the straight line to all, where a "
        "program has all of them".format(*_QUICK_LAYERS),
    )
    parser.add_argument("--json", metavar="FILE", type=console.path)
    return parser


def _run(args: argparse.Namespace) -> int:
    console.set_up_process()
    if args.json and not pathlib.Path(args.json).parent.is_dir():
        raise BadInputError(f"{args.json}: expected a file in a folder that is there.")
    model = known_model(args.model)
    if model is None:
        raise BadInputError(
            f"--model {args.model}: expected llama-3-8b, llama-3.1-70b or smollm2-135m."
        )
    names = _chosen("--programs", args.programs, programs.NAMES)
    modes = _chosen("--modes", args.modes, programs.MODES)
    target = find_target(args.topology)
    run = _abstract_run(args, model.config, target)
    out, rows = console.make_console(), []
    for index, job in enumerate(programs.jobs(run, names, modes)):
        out.print(f"... {job.name}")
        if _is_whole(args, model, job):
            row = measure(job, target.limits)
        else:
            row = _continued(args, model.config, target, names, modes, index)
        rows.append(row)
        if args.json:  # after each, as a program may take minutes
            data = _facts(args, model.name, run, target) | {
                "programs": [
                    row.to_json() | {"layers_are_all": _is_whole(args, model, row.job)}
                    for row in rows
                ]
            }
            write_text(pathlib.Path(args.json), json.dumps(data, indent=2) + "\n")
    out.print(_table(args, model.name, run, target, rows))
    bad = [row for row in rows if not row.fits]
    for row in bad:
        needs = row.refusal or f"needs {size_text(row.total)}"
        out.print(
            f"{row.job.name} does not fit: {needs}, but a device has "
            f"{size_text(target.limits.memory)}; choose more devices, fewer --slots, "
            "or a lower --rank."
        )
    return console.FAILED if bad else console.DONE


def _is_whole(args: argparse.Namespace, model: KnownModel, job: Job) -> bool:
    """True if a program is compiled as a run calls it, not continued to all layers."""
    shallow = model.config.num_hidden_layers <= max(_QUICK_LAYERS)
    return not args.quick or shallow or not job.unrolls


def _continued(args, config, target, names, modes, index: int) -> Row:
    """The row at all layers, on the line through the rows at few."""
    found = []
    for layers in _QUICK_LAYERS:
        small = config.model_copy(update={"num_hidden_layers": layers})
        run = _abstract_run(args, small, target)
        found.append(
            measure(list(programs.jobs(run, names, modes))[index], target.limits)
        )
    whole = list(programs.jobs(_abstract_run(args, config, target), names, modes))
    return continued(whole[index], found, _QUICK_LAYERS, config.num_hidden_layers)


def _abstract_run(
    args: argparse.Namespace, config: ModelConfig, target: Target
) -> AbstractRun:
    mesh = _mesh(args.mesh, config, len(target.devices))
    for name in ("individuals", "rank"):
        if (value := getattr(args, name)) != "full" and value < 1:
            raise BadInputError(f"--{name} is {value}; expected 1 or more.")
    given = {
        name: getattr(args, name)
        for name in ("slots", "length", "prefill_rows", "decode_steps", "attention")
    }
    chunk = args.prefill_chunk or math.gcd(256, args.length)
    given |= {"prefill_chunk": chunk, "mesh": mesh}
    engine = parse_section("engine", given, EngineSettings)
    run = make_run(
        config,
        args.dtype,
        engine,
        tuple(target.devices[: mesh.data * mesh.tensor]),
        individuals=args.individuals,
        rank=args.rank,
    )
    if run.mesh is not None:
        sharding.check_sizes(
            run.mesh, slots=args.slots, kv_heads=config.num_key_value_heads
        )
    return run


def _mesh(text: str | None, config: ModelConfig, devices: int) -> MeshSettings:
    if text is None:
        tensor = math.gcd(devices, config.num_key_value_heads)
        return MeshSettings(data=devices // tensor, tensor=tensor)
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise BadInputError(f"--mesh {text}: expected DATAxTENSOR, like 1x8.")
    data, tensor = map(int, sides)
    if data * tensor > devices:
        raise BadInputError(
            f"--mesh {text}: needs {data * tensor} devices, but there are {devices}."
        )
    return MeshSettings(data=data, tensor=tensor)


def _rank(text: str) -> int | str:
    return "full" if text == "full" else int(text)


def _chosen(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    asked = tuple(text.split(","))
    for name in asked:
        if name not in known:
            raise BadInputError(
                f"{option} {text}: {name!r} is none of {', '.join(known)}."
            )
    return asked


def _facts(args, model: str, run: AbstractRun, target: Target) -> dict:
    mesh, limits = run.engine.mesh, target.limits
    return {
        "model": model,
        "layers": run.program.config.num_hidden_layers,
        "layers_compiled": list(_QUICK_LAYERS) if args.quick else "all",
        "topology": target.name,
        "mesh": {"data": mesh.data, "tensor": mesh.tensor},
        "dtype": args.dtype,
        "attention": args.attention,
        "individuals": args.individuals,
        "slots": args.slots,
        "length": args.length,
        "rank": args.rank,
        "limits": limits._asdict(),
    }


def _table(args, model: str, run, target: Target, rows: list[Row]) -> rich.table.Table:
    mesh = run.engine.mesh
    title = (
        f"{model} on {target.name} (mesh {mesh.data} x {mesh.tensor}), {args.dtype}, "
        f"{args.slots} slots x {args.length}, {args.individuals} individuals, rank "
        f"{args.rank}; for each device, which has {size_text(target.limits.memory)}"
    )
    table = rich.table.Table(title=title, box=rich.box.SIMPLE)
    table.add_column("program")
    for heading in (
        "arguments",
        "temporaries",
        "held beside",
        "in all",
        "operations",
        "bytes moved",
        "of the needed",
        "at the limit",
        "collectives",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    one, job = row.figures, row.job
    if one is None:
        return [job.name, *["-"] * 3, "does not fit", *["-"] * 5]
    talk = ", ".join(
        f"{kind['count']:.0f} {name} ({size_text(kind['bytes'])})"
        for name, kind in one.collectives.items()
    )
    return [
        job.name + (f" ({job.remark})" if job.remark else ""),
        size_text(one.arguments),
        size_text(one.temporaries),
        size_text(job.held),
        size_text(row.total) + ("" if row.fits else " !"),
        f"{one.flops:.3g}",
        size_text(one.moved),
        "" if job.needed is None else f"{one.moved / job.needed:.2f}",
        f"{1000 * row.seconds:.3g} ms",
        talk or "none",
    ]


if __name__ == "__main__":
    sys.exit(main())
