"""The models of the endpoint: all individuals of a run, by name.

A run that is still going on is read again whenever its search has written something.
All functions read files, so an event loop calls them in a thread.
"""

import contextlib
import dataclasses
import difflib
import pathlib
import threading
from collections.abc import Iterator, Mapping

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.reports.population import cells_so_far
from cycleqd_jax.runs.opened import OpenedRun
from cycleqd_jax.serving.errors import ApiError

_SHOWN = 100  # characters of a wrong name


@dataclasses.dataclass(frozen=True)
class Model:
    """One model.

    Attributes:
      name: as it is asked for.
      individual: the child or expert behind a champion or a cell; else the name.
    """

    name: str
    individual: str


class Catalogue:
    """The models of one run; safe to use from several threads.

    Attributes:
      name: of the run.
      created: when the run began, in seconds since 1970.
    """

    def __init__(self, opened: OpenedRun):
        self._lock = threading.RLock()
        self._opened = opened
        self._seen = _state(opened.path)
        self._models: dict[str, Model] | None = None
        self._loaded: dict[str, Individual] = {}
        self.name = opened.path.name
        self.created = int((opened.path / "config.yaml").stat().st_mtime)

    @property
    def opened(self) -> OpenedRun:
        """The run as it is by now."""
        with self._lock:
            if self._opened.facts is None:
                seen = _state(self._opened.path)
                if seen != self._seen:
                    self._opened = self._opened.reread()
                    self._seen, self._models = seen, None
            return self._opened

    def models(self) -> Mapping[str, Model]:
        """All models by name; cells come last.

        Raises:
          ApiError: the run cannot be read just now.
        """
        with self._lock, _readable():
            opened = self.opened
            if self._models is None:
                found = {name: opened.resolve(name) for name in opened.names()}
                for model in opened.facts.models if opened.facts else ():
                    if model.scored_as in found:  # the elite that is best of all
                        found[model.name] = model.scored_as
                found |= opened.cells() if opened.facts else cells_so_far(opened)
                self._models = {n: Model(n, i) for n, i in found.items()}
            return self._models

    def model(self, name: str) -> Model:
        """The model of a name.

        Raises:
          ApiError: there is none, or the run cannot be read just now.
        """
        with self._lock:
            model = self.models().get(name)
            if model is not None:
                return model
            shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
            near = difflib.get_close_matches(name[:_SHOWN], self.models(), n=1)
            yet, hint = "", f"did you mean {near[0]}? " if near else ""
            if self._opened.comes_later(name):
                yet = " yet"
                hint = "models of this kind come when the run has finished; "
            raise ApiError(
                404,
                f"The model {shown!r} does not exist in {self._opened.path.name}{yet}; "
                f"{hint}GET /v1/models lists all, and so does the report.",
                param="model",
                code="model_not_found",
            )

    def find(self, name: str) -> tuple[Model, Individual]:
        """A model and its individual.

        Raises:
          ApiError: there is none of this name, or it cannot be read.
        """
        with self._lock:
            model = self.model(name)
            with _readable():
                if model.individual not in self._loaded:
                    found = self._opened.individual(model.individual)
                    self._loaded[model.individual] = found
                return model, self._loaded[model.individual]


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Says that it is the run that cannot be read."""
    try:
        yield
    except BadInputError as err:
        raise ApiError(503, str(err), kind="server_error", param="model") from err


def _state(run: pathlib.Path) -> tuple[bool, tuple[str, ...]]:
    """Changes when a search has written a checkpoint or a run has finished."""
    steps = (p.name for p in (run / "checkpoints").glob("*") if p.name.isdecimal())
    return (run / "state.json").exists(), tuple(sorted(steps))
