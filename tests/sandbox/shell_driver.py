"""Uses shells in a process of its own, maybe as another user; prints JSON.

Arguments: a user id or "-", then what to do: commands (run in one shell, each line
of standard input one), hang (prints the words "it runs" and waits for ever), or churn
(prints them and starts, ends and looks at shells for ever).
"""

import asyncio
import json
import os
import sys


async def churn(sandbox):
    """Starts, ends and looks, three at a time."""

    async def one():
        while True:
            async with sandbox.shell() as shell:
                await shell.start_shell(terminal=False, limit_s=20)
                await shell.type("sleep 1000 & setsid sleep 1000 &", limit_s=20)
                await shell.end(keep_processes=True)
                await shell.look("ps -A | wc -l", limit_s=20)

    print("it runs", flush=True)
    await asyncio.gather(*(one() for _ in range(3)))


async def main(do, lines):
    """Does it."""
    from cycleqd_jax.sandbox.bubblewrap import BubblewrapSandbox

    sandbox = BubblewrapSandbox(2)
    if do == "churn":
        await churn(sandbox)
    async with sandbox.shell() as shell:
        await shell.start_shell(terminal=False, limit_s=20)
        if do == "hang":
            await shell.type("sleep 1000 & setsid sleep 1000 &", limit_s=20)
            print("it runs", flush=True)
            await asyncio.sleep(1000)
        said = [await shell.type(line, limit_s=20) for line in lines]
        print(json.dumps([[t.ended, t.output.decode("latin-1")] for t in said]))
    await sandbox.close()


if __name__ == "__main__":
    if sys.argv[1] != "-":
        uid = int(sys.argv[1])
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    given = sys.stdin.read().splitlines() if sys.argv[2] == "commands" else []
    asyncio.run(main(sys.argv[2], given))
