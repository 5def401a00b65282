"""Figures of runs that nobody looks at."""

import base64

import pytest

from cycleqd_jax.reports import drawing

# One grey pixel.
DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJ"
    "RU5ErkJggg=="
)


@pytest.fixture(scope="module", autouse=True)
def figures_as_dots(request):
    """Figures are laid out and not drawn, which would take a sixth of a toy run.

    Slow tests draw as users do. A module that looks at figures has a fixture of this
    name that does nothing.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.config.option.markexpr == "not slow":
            patch.setattr(drawing, "to_png", lambda figure: DOT)
        yield
