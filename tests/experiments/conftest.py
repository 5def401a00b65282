"""Fixtures of this folder."""

from undrawn import figures_as_dots as figures_as_dots
