"""A machine with a python3 in /usr/local/bin, too: the system's is the one that judges.

The machine is this one, in a mount namespace of the test's own, with another folder
over /usr/local/bin.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SYSTEM = "/usr/bin/python3"
_MACHINE = """
mount -t tmpfs none /usr/local/bin || exit 77
for name in python3 python env bash cat; do
    printf '#!/bin/sh\\necho the other one\\nexit 9\\n' > /usr/local/bin/$name
    chmod 755 /usr/local/bin/$name
done
[ "$(python3)" = 'the other one' ] && exec "$@"
"""
_USE = """
import asyncio, json
from cycleqd_jax.sandbox.base import Look, Program
from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox
from cycleqd_jax.sandbox.shells import check_shells

WHICH = "import sys; print(sys.executable)"

async def main():
    check_shells()
    sandbox = BubblewrapSandbox(2)
    said = []
    for argv in (("python3", "-c", WHICH), ("sh", "-c", f"env python3 -c '{WHICH}'")):
        run = await sandbox.run(Program(argv))
        said.append(run.stdout + run.stderr)
    async with sandbox.shell() as shell:
        said.append((await shell.script("python", WHICH, limit_s=20)).output)
        await shell.start_shell(terminal=False, limit_s=20)
        said.append((await shell.type(f"python3 -c '{WHICH}'", limit_s=20)).output)
        await shell.end()
        for how in (Look(), Look(executable=True), Look(tree=False)):
            run = await shell.look(f"python3 -c '{WHICH}'", limit_s=20, how=how)
            said.append(run.output)
    await sandbox.close()
    print(json.dumps([text.decode().strip() for text in said]))

asyncio.run(main())
"""


@pytest.mark.parametrize("options", ["--mount", "--user --map-root-user --mount"])
def test_the_systems_is_used(options):
    """By programs, shells and looks; started as root, and in a user namespace."""
    if options == "--mount" and os.geteuid() != 0:
        pytest.skip("needs root")
    if not os.path.exists(SYSTEM):
        pytest.skip("the system has none")
    use = [sys.executable, "-c", _USE]
    done = subprocess.run(
        ["unshare", *options.split(), "sh", "-c", _MACHINE, "sh", *use],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin"},
        capture_output=True,
        text=True,
    )
    if done.returncode == 77:
        pytest.skip("no mounts here")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [SYSTEM] * 7
