"""Uses sessions in a process of its own, maybe as another user; prints JSON.

Arguments: a user id or "-", then what to do: commands (run in one session, each line
of standard input one), or hang (prints the words "it runs" and waits for ever).
"""

import asyncio
import json
import os
import sys


async def main(do, lines):
    """Does it."""
    from cycleqd_jax.sandbox.session import Sessions

    sessions = Sessions(2)
    sessions.check()
    async with sessions.open() as session:
        await session.start_shell(terminal=False, limit_s=20)
        if do == "hang":
            await session.type("sleep 1000 & setsid sleep 1000 &", limit_s=20)
            print("it runs", flush=True)
            await asyncio.sleep(1000)
        said = [await session.type(line, limit_s=20) for line in lines]
        print(json.dumps([[t.ended, t.output.decode("latin-1")] for t in said]))
    await sessions.close()


if __name__ == "__main__":
    if sys.argv[1] != "-":
        uid = int(sys.argv[1])
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    given = sys.stdin.read().splitlines() if sys.argv[2] == "commands" else []
    asyncio.run(main(sys.argv[2], given))
