"""Brings individuals and requests into the engine, first come first served.

Individuals in factored form are rows of one population and share every device call.
All others are loaded alone, when no request of another one runs. A reply has a seat
from when its individual is loaded until it ends; there are as many seats as slots.
Everything here runs in one event loop; device calls and loading run in threads.
"""

import asyncio
import collections
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

from cycleqd_jax.errors import CycleQDError
from cycleqd_jax.evaluation.loader import IndividualLoader
from cycleqd_jax.inference.engine import Engine
from cycleqd_jax.merging.genome import Genome
from cycleqd_jax.merging.individuals import Individual
from cycleqd_jax.serving.errors import FAILED, ApiError
from cycleqd_jax.serving.tickets import Ahead, Row, Ticket

_SHARED = "*"  # stands for the population of all individuals in factored form
_IDLE_S = 0.25  # without requests: a client in a dialogue asks again sooner
_MOST_FAILURES = 3  # of the engine, without an answer between them

logger = logging.getLogger(__name__)


class Desk:
    """Gives seats in the engine.

    Attributes:
      engine: answers.
      failure: why nothing can be answered any more; None while all is well.
      running: replies that have a seat.
      generated: tokens of all replies so far, also of those that were broken off.
    """

    def __init__(self, loader: IndividualLoader, max_waiting: int):
        """Starts nothing yet; `serving` does.

        Args:
          loader: nothing else may load individuals into its engine.
          max_waiting: replies that may wait for a seat.
        """
        self.engine: Engine = loader.engine
        self.failure: str | None = None
        self.running = self.generated = 0
        self._loader = loader
        self._max_waiting = max_waiting
        self._taken = 0  # replies for which there is room
        self._waiting: collections.deque[Ticket] = collections.deque()
        self._rows = [Row() for _ in range(loader.individuals_per_pass)]
        self._loaded: str | None = None
        self._counter = itertools.count(1)
        self._answered = 0
        self._ahead: Ahead | None = None
        self._wake = asyncio.Event()  # for `_admit`: tickets or seats have changed

    @property
    def seats(self) -> int:
        """The number of replies that can run at once."""
        return self.engine.settings.slots

    @property
    def waiting(self) -> int:
        """Replies that wait for a seat."""
        return len(self._waiting)

    @property
    def is_warm(self) -> bool:
        """True if `serving` has nothing left to compile ahead."""
        return self._ahead is None

    def warm_up(
        self, key: str, individual: Individual, progress: Callable[[str], None]
    ) -> None:
        """Lets `serving` compile all that requests will run, while nobody asks.

        Programs are compiled one by one, so a request waits for one of them at most,
        beside those that it needs itself.

        Args:
          key: names the individual, see `seat`.
          individual: a genome.
          progress: is told of each program.
        """
        self._ahead = Ahead(key, individual, progress, self.engine.programs())

    @contextlib.contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Room for some replies, from when they are asked for until all have ended.

        Raises:
          ApiError: there is no room now, `count` is more than there ever is, or the
            engine has failed.
        """
        if self.failure is not None:
            raise ApiError(503, self.failure, kind=FAILED)
        most = self.seats + self._max_waiting
        if count > most:
            raise ApiError(
                400,
                f"The request asks for {count} replies (prompts times n); this server "
                f"takes {most} at most, ask in parts.",
            )
        if self._taken + count > most:
            raise ApiError(
                429,
                f"The queue is full: {self._taken} replies of {most} run or wait; "
                "ask again later.",
                kind="rate_limit_error",
                code="queue_full",
            )
        self._taken += count
        try:
            yield
        finally:
            self._taken -= count

    @contextlib.asynccontextmanager
    async def seat(self, key: str, individual: Individual) -> AsyncIterator[int]:
        """A seat for one reply; gives the index of its individual in the engine.

        Args:
          key: names the individual; equal keys are equal individuals.
          individual: what it is.

        Raises:
          ApiError: the individual cannot be loaded, or the engine has failed.
        """
        if self.failure is not None:
            raise ApiError(503, self.failure, kind=FAILED)
        ticket = Ticket(key, individual, asyncio.get_running_loop().create_future())
        self._waiting.append(ticket)
        self._wake.set()
        try:
            row = await ticket.seat
        except BaseException:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            elif ticket.seat.done() and not ticket.seat.cancelled():
                if ticket.seat.exception() is None:  # it came just now
                    self._leave(ticket.seat.result())
            self._wake.set()
            raise
        try:
            yield row
            self._answered += 1
        finally:
            self._leave(row)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Gives seats and runs the engine as long as the body runs."""
        self._wake = asyncio.Event()  # one belongs to one loop
        works = self._admit(), self._serve()
        tasks = [asyncio.create_task(self._watched(work)) for work in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._fail_waiting("The server is stopping.")

    async def _watched(self, work: Coroutine[None, None, None]) -> None:
        """Does `work`; if that fails, refuses all requests that wait and that come."""
        try:
            await work
        except Exception as err:  # a defect: any kind
            logger.exception("The desk failed.")
            text = " ".join(str(err).split())[:300]
            self.failure = f"The server failed ({text}); start it again."
            self._fail_waiting(self.failure)

    async def _serve(self) -> None:
        """Runs the engine, and a bounded number of times again after a failed call."""
        failures, answered = 0, -1
        while failures < _MOST_FAILURES:
            try:
                await self.engine.serve()
            except Exception as err:  # of a device call: any kind
                logger.exception("The engine failed.")
                failures = failures + 1 if self._answered == answered else 1
                answered = self._answered
                reason = " ".join(str(err).split())[:300]
        self.failure = (
            f"The engine failed {failures} times in a row ({reason}); start the server "
            "again."
        )
        self._fail_waiting(self.failure)

    def _fail_waiting(self, reason: str) -> None:
        while self._waiting:
            ticket = self._waiting.popleft()
            if not ticket.seat.done():
                ticket.seat.set_exception(ApiError(503, reason, kind=FAILED))

    async def _admit(self) -> None:
        """Gives seats in the order of tickets; compiles ahead while there are none."""
        while True:
            idle = self._ahead is not None and not self.running and not self._waiting
            try:
                async with asyncio.timeout(_IDLE_S if idle else None):
                    await self._wake.wait()
                self._wake.clear()
            except TimeoutError:
                await self._compile_next(self._ahead)
            while self._waiting and self.running < self.seats:
                ticket = self._waiting[0]
                if ticket.seat.done():  # cancelled just now
                    self._waiting.popleft()
                    continue
                shares = self._shares(ticket.individual)
                wanted = _SHARED if shares else ticket.key
                if wanted != self._loaded and self.running:
                    break
                try:
                    if wanted != self._loaded:
                        await self._load(wanted, ticket.individual)
                        continue  # the ticket may have been cancelled meanwhile
                    row = self._take_row(ticket.key, ticket.individual) if shares else 0
                except (CycleQDError, MemoryError, OSError, RuntimeError) as err:
                    self._refuse(ticket, err)
                    continue
                self._waiting.popleft()
                self.running += 1
                self._rows[row].users += 1
                ticket.seat.set_result(row)

    async def _compile_next(self, ahead: Ahead) -> None:
        """Compiles one program; when none is left, those that load an individual."""
        shares = self._shares(ahead.individual)
        wanted = _SHARED if shares else ahead.key
        try:
            name, call = next(ahead.programs, (None, None))
            if name is not None:
                ahead.progress(name)
                if self._loaded is None:
                    await self._load(wanted, ahead.individual)
                await self.engine.quiet()
                await asyncio.to_thread(call)
                return
            await self._load(wanted, ahead.individual)
            if shares:
                self._take_row(ahead.key, ahead.individual)
            else:  # the second reuses the memory of the first
                await self._load(wanted, ahead.individual)
            ahead.progress("all programs are compiled")
        except (CycleQDError, MemoryError, OSError, RuntimeError) as err:
            logger.warning("Compiling failed.", exc_info=err)
            text = " ".join(str(err).split())[:300]
            ahead.progress(f"compiling ahead has failed, requests may fail too: {text}")
        self._ahead = None

    def _refuse(self, ticket: Ticket, err: Exception) -> None:
        """Fails a ticket whose individual cannot be loaded."""
        if ticket.seat.done():  # cancelled
            return
        logger.warning("%s cannot be loaded.", ticket.key, exc_info=err)
        self._waiting.remove(ticket)
        text = " ".join(str(err).split())[:500].rstrip(".")
        text = f"The model {ticket.key} cannot be loaded: {text}."
        ticket.seat.set_exception(ApiError(503, text, kind=FAILED, param="model"))

    def _shares(self, individual: Individual) -> bool:
        return self._loader.mode == "factored" and isinstance(individual, Genome)

    async def _load(self, wanted: str, individual: Individual) -> None:
        """Loads an individual alone, or what all in factored form share."""
        await self.engine.quiet()
        self._loaded = None
        for row in self._rows:
            row.key = None
        if wanted == _SHARED:
            await asyncio.to_thread(self._loader.share)
        else:
            await asyncio.to_thread(self._loader.load_alone, individual)
        self._loaded = wanted

    def _take_row(self, key: str, individual: Individual) -> int:
        """The row of an individual, which takes the place of the least recent one.

        There is one, since there are as many rows as seats.
        """
        rows = range(len(self._rows))
        found = next((i for i in rows if self._rows[i].key == key), None)
        if found is None:
            idle = (i for i in rows if not self._rows[i].users)
            found = min(idle, key=lambda i: self._rows[i].last_used)
            self._loader.set_row(found, individual)
            self._rows[found].key = key
        self._rows[found].last_used = next(self._counter)
        return found

    def _leave(self, row: int) -> None:
        self._rows[row].users -= 1
        self.running -= 1
        self._wake.set()
