"""Creates the sandbox that the settings ask for."""

from cycleqd_jax.sandbox.base import Sandbox
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
from cycleqd_jax.sandbox.memo import MemoSandbox
from cycleqd_jax.sandbox.none import UnsafeSandbox
from cycleqd_jax.sandbox.settings import SandboxSettings

_KINDS = {"bubblewrap": BubblewrapSandbox, "none": UnsafeSandbox}


def make_sandbox(settings: SandboxSettings) -> Sandbox:
    """Creates a sandbox and checks that it works on this machine.

    Raises:
      BadInputError: it is not installed or not permitted here.
    """
    sandbox = _KINDS[settings.kind](settings.workers)
    return MemoSandbox(sandbox) if settings.memoise else sandbox
