"""Creates a sandbox by its name in the config."""

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
from cycleqd_jax.sandbox.memo import MemoSandbox
from cycleqd_jax.sandbox.none import UnsafeSandbox

KINDS = {"bubblewrap": BubblewrapSandbox, "none": UnsafeSandbox}


def make_sandbox(kind: str, workers: int, memoise: bool) -> Sandbox:
    """Creates a sandbox and checks that it works on this machine.

    Args:
      kind: "bubblewrap", or "none" for no protection at all (see `UnsafeSandbox`).
      workers: programs at once; at least 1.
      memoise: run equal programs only once (see `MemoSandbox`).

    Raises:
      BadInputError: the sandbox is unknown, not installed or not permitted here.
    """
    if kind not in KINDS:
        raise BadInputError(
            f"sandbox: expected one of {', '.join(KINDS)}, got {kind!r}; choose one"
        )
    sandbox = KINDS[kind](workers)
    return MemoSandbox(sandbox) if memoise else sandbox
