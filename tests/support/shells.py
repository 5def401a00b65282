"""Machines for tests of shells."""

import asyncio

from cycleqd_jax.sandbox.base import PLAIN_ROOT, ShellLimits
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox


def in_shell(use, root=PLAIN_ROOT, **limits):
    """Awaits `use(shell)` in a fresh machine."""

    async def main():
        sandbox = BubblewrapSandbox(2)
        try:
            async with sandbox.shell(root, ShellLimits(**limits)) as shell:
                return await use(shell)
        finally:
            await sandbox.close()

    return asyncio.run(main())


def typed(*commands, limit_s=5.0, terminal=False, **limits):
    """Types commands one after the other; what became of each."""

    async def use(shell):
        await shell.start_shell(terminal=terminal, limit_s=20)
        return [await shell.type(c, limit_s=limit_s) for c in commands]

    return in_shell(use, **limits)


def outputs(*commands, **options):
    """What each command printed."""
    results = typed(*commands, **options)
    assert [r.ended for r in results] == ["done"] * len(commands)
    return [r.output.decode() for r in results]
