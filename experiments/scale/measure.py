"""Compiles programs and reads their memory, work and time at the chip's limits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from experiments.scale.chips import Limits
from experiments.scale.hlo import Program
from experiments.scale.programs import Job, Part

_GIB = 2**30


class Figures(NamedTuple):
    """The compiler's figures of a job, for one device; sizes in bytes.

    Attributes:
      arguments: of the program; what it overwrites counts once.
      temporaries: the most that it needs beside arguments and results.
      peak: the most that it needs at a time.
      flops: operations.
      moved: between main memory and cores; see `hlo`.
      xla_bytes: XLA's own "bytes accessed", which counts moves within the chip too.
      xla_parts: its parts as `hlo.XlaTraffic` names them, for one call.
      collectives: operation -> how often and how many bytes.
    """

    arguments: float
    temporaries: float
    peak: float
    flops: float
    moved: float
    xla_bytes: float
    xla_parts: dict[str, float]
    collectives: dict[str, dict[str, float]]


class Row(NamedTuple):
    """A job, measured.

    Attributes:
      job: what was compiled.
      figures: None if the compiler refused it.
      limits: of the device.
      refusal: the compiler's sentence; None if it compiled.
    """

    job: Job
    figures: Figures | None
    limits: Limits
    refusal: str | None = None

    @property
    def total(self) -> float | None:
        """Bytes on each device, with what a run holds beside the program."""
        return None if self.figures is None else self.figures.peak + self.job.held

    @property
    def fits(self) -> bool:
        """True if that is at most the memory of a device."""
        return self.total is not None and self.total <= self.limits.memory

    @property
    def seconds(self) -> float | None:
        """The time that the slowest of the device's limits allows."""
        if self.figures is None:
            return None
        sent = sum(kind["bytes"] for kind in self.figures.collectives.values())
        return max(
            self.job.passes * self.figures.flops / self.limits.rate,
            self.figures.moved / self.limits.bandwidth,
            sent / self.limits.link,
        )

    def to_json(self) -> dict[str, Any]:
        """All figures under plain names."""
        one = self.figures
        return {
            "name": self.job.name,
            "remark": self.job.remark,
            "fits": self.fits,
            "refusal": self.refusal,
            "argument_bytes": one and one.arguments,
            "temporary_bytes": one and one.temporaries,
            "peak_bytes": one and one.peak,
            "held_bytes": self.job.held,
            "total_bytes": self.total,
            "flops": one and one.flops,
            "bytes_accessed": one and one.moved,
            "bytes_accessed_by_xla": one and one.xla_bytes,
            "parts_of_bytes_accessed_by_xla": one and one.xla_parts,
            "bytes_needed": self.job.needed,
            "seconds_at_roofline": self.seconds,
            "collectives": one and one.collectives,
        }


def measure(job: Job, limits: Limits) -> Row:
    """Compiles all parts of a job."""
    found = []
    for part in job.parts:
        try:
            found.append(read(part, part.lower().compile()))
        except jax.errors.JaxRuntimeError as err:
            if "RESOURCE_EXHAUSTED" not in str(err):
                raise
            return Row(job, None, limits, str(err).splitlines()[0])
    # Parts run one after another.
    peak = max(
        one.peak - (one.arguments if job.held_has_arguments else 0) for one in found
    )
    collectives: dict[str, dict[str, float]] = {}
    for one, part in zip(found, job.parts, strict=True):
        for name, kind in one.collectives.items():
            total = collectives.setdefault(name, {"count": 0, "bytes": 0, "largest": 0})
            total["count"] += kind["count"] * part.calls
            total["bytes"] += kind["bytes"] * part.calls
            total["largest"] = max(total["largest"], kind["largest"])

    def total(figure: Callable[[Figures], float]) -> float:
        return sum(
            figure(one) * part.calls for one, part in zip(found, job.parts, strict=True)
        )

    figures = Figures(
        arguments=max(one.arguments for one in found),
        temporaries=max(one.temporaries for one in found),
        peak=peak,
        flops=total(lambda one: one.flops),
        moved=total(lambda one: one.moved),
        xla_bytes=total(lambda one: one.xla_bytes),
        xla_parts={
            name: total(lambda one, name=name: one.xla_parts[name])
            for name in found[0].xla_parts
        },
        collectives=collectives,
    )
    return Row(job, figures, limits)


def read(part: Part, compiled: jax.stages.Compiled) -> Figures:
    """The figures of one compiled program."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    program = Program(compiled.as_text())
    traffic, collectives = program.traffic(), {}
    for one in program.collectives():
        share = 1 if one.in_loop else 1 / part.steps
        kind = collectives.setdefault(one.op, {"count": 0, "bytes": 0, "largest": 0})
        kind["count"] += share
        kind["bytes"] += one.bytes * share
        kind["largest"] = max(kind["largest"], one.bytes)
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    sizes = (memory.argument_size_in_bytes, results, memory.temp_size_in_bytes)
    return Figures(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes + results,
        peak=sum(sizes) + memory.generated_code_size_in_bytes,
        flops=cost["flops"],
        moved=traffic.in_loops + traffic.outside / part.steps,
        xla_bytes=cost["bytes accessed"],
        xla_parts=program.xla_traffic()._asdict(),
        collectives=collectives,
    )


def continued(job: Job, rows: list[Row], layers: tuple[int, int], wanted: int) -> Row:
    """The row of a deeper model, on the straight line through two of fewer layers.

    A program of unrolled layers grows by the same amount with each.

    Args:
      job: of the deeper model; its own sizes are used where no compiler is asked.
      rows: measured with as many layers as `layers` says.
      layers: two numbers, ascending.
      wanted: layers of the deeper model.
    """
    few, more = rows
    if few.figures is None or more.figures is None:
        return (more if more.figures is None else few)._replace(job=job)
    steps = (wanted - layers[0]) / (layers[1] - layers[0])

    def line(a: float, b: float) -> float:
        return max(a + (b - a) * steps, 0.0)

    found = {
        name: line(a, getattr(more.figures, name))
        for name, a in few.figures._asdict().items()
        if not isinstance(a, dict)
    }
    parts = {
        name: line(a, more.figures.xla_parts[name])
        for name, a in few.figures.xla_parts.items()
    }
    collectives = {
        op: {
            what: line(few.figures.collectives.get(op, {}).get(what, 0.0), number)
            for what, number in kind.items()
        }
        for op, kind in more.figures.collectives.items()
    }
    for op, kind in collectives.items():
        kind["largest"] = more.figures.collectives[op]["largest"]
    figures = Figures(xla_parts=parts, collectives=collectives, **found)
    return Row(job, figures, few.limits)
