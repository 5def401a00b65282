"""Colours and fonts of all figures, and PNG bytes that only the data decide.

Figures are matplotlib objects on the Agg canvas; pyplot, with its global state and its
windows, is not used.
"""

import io
from collections.abc import Callable
from typing import Any, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Draw = TypeVar("Draw", bound=Callable[..., Any])

INK, MUTED, FAINT, RESULT = "#1f2933", "#6b7785", "#e6e9ed", "#b4232c"
# Okabe and Ito's palette: told apart with any colour vision. At most five tasks.
TASK_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")

_STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so it is the same everywhere
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "text.parse_math": False,  # names may have a $
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def styled(draw: Draw) -> Draw:
    """Decorates a function that draws: this file's style, whatever the user's is."""
    return matplotlib.rc_context(_STYLE)(draw)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches, laid out without overlaps."""
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure) -> bytes:
    """PNG bytes; equal figures give equal bytes."""
    buffer = io.BytesIO()
    # matplotlib's own default metadata names its version.
    figure.savefig(buffer, format="png", metadata={"Software": "cycleqd_jax"})
    return buffer.getvalue()


def score_axis(axes: Axes) -> None:
    """A horizontal axis of scores from 0 to 1."""
    axes.set_xlim(-0.02, 1.02)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    axes.grid(axis="x", color=FAINT)
    axes.set_axisbelow(True)
