"""The settings of the sandbox.

They are apart from `base.py`, which needs the standard library only.
"""

from typing import Literal

from cycleqd_jax.files import Section, Whole


class SandboxSettings(Section):
    """Settings of the sandbox for code that a model wrote.

    Attributes:
      kind: "bubblewrap", or "none" to run it with this user's own rights.
      workers: number of programs at a time.
      memoise: whether equal answers to a problem are judged once.
    """

    kind: Literal["bubblewrap", "none"] = "bubblewrap"
    workers: Whole = 2
    memoise: bool = True
