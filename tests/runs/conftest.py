"""What the tests of this folder share."""

from undrawn import figures_as_dots as figures_as_dots
