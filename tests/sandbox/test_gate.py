import asyncio
import random

from cycleqd_jax.sandbox.gate import Gate


def test_slots_and_being_alone_under_random_use():
    inside: list[bool] = []
    most = 0
    draw = random.Random(3)
    gate = Gate(3)

    async def use(alone: bool, hold_s: float) -> None:
        nonlocal most
        async with gate.enter(alone=alone) as slot:
            assert 0 <= slot < 3
            inside.append(alone)
            most = max(most, len(inside))
            assert len(inside) == 1 if alone else not any(inside)
            try:
                await asyncio.sleep(hold_s)
            finally:
                inside.remove(alone)

    async def main() -> None:
        tasks = []
        for _ in range(200):
            tasks.append(
                asyncio.ensure_future(
                    use(draw.random() < 0.2, draw.choice([0, 0, 0.001, 0.003]))
                )
            )
            if draw.random() < 0.3:
                draw.choice(tasks).cancel()
            if draw.random() < 0.3:
                await asyncio.sleep(0.001)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError), result
        for alone in (True, False):  # nothing was lost
            await asyncio.wait_for(use(alone, 0), 1)

    asyncio.run(main())
    assert most == 3
