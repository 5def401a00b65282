"""The machine that a problem runs on, and the problems that cannot run here.

The sets of numbers below name published problems that need more than the backend `host`
has: programs that can be changed, several users, or a source of packages.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox.base import Root, Sandbox, Shell
from cycleqd_jax.sandbox.container import Containers
from cycleqd_jax.sandbox.holder import has_subordinate_ids, is_root
from cycleqd_jax.sandbox.shells import check_shells
from cycleqd_jax.tasks.os_interaction.kinds import why_refused
from cycleqd_jax.tasks.os_interaction.options import Options
from cycleqd_jax.tasks.os_interaction.problems import OsProblem

# It changes the permissions of /usr/bin/find.
NEEDS_OVERLAY = frozenset({50})
# useradd, then su, runuser or files of several owners.
NEEDS_USERS = frozenset({21, 47, 48, 49, 148, 163, 164, 165})
# apt install from a network, or sudo, whose verdict a container must give.
NEEDS_PACKAGES = frozenset({52, 53, 55})


class Machines:
    """Makes a fresh machine for each episode of a task.

    Args:
      options: the task's settings.

    Raises:
      BadInputError: this computer lacks what the backend needs.
    """

    def __init__(self, options: Options):
        self._options = options
        self._containers = None
        self._places: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
        if options.backend == "container":
            self._containers = Containers(
                options.image, options.sessions, options.engine
            )
            self._may_overlay = True
            return
        image = options.image
        check_shells(Root(options.backend == "overlay", image))
        self._may_overlay = options.backend == "overlay"
        if options.backend == "auto":
            try:
                check_shells(Root(overlay=True))
                self._may_overlay = True
            except BadInputError:
                pass  # why_not says what is missing where it matters

    @property
    def fingerprint(self) -> dict[str, object]:
        """A hash of everything here that decides verdicts."""
        return {
            "backend": self._options.backend,
            "image": self._options.image,
            "overlay": self._may_overlay,
            "users": self._many_users(),
        }

    def _many_users(self) -> bool:
        return self._containers is not None or is_root() or has_subordinate_ids()

    def solvable(self, index: int) -> bool:
        """True if a problem can run here and has a right answer."""
        packages = index in NEEDS_PACKAGES and self._containers is None
        return not packages and self.why_not(index) is None

    def why_not(self, index: int) -> str | None:
        """Says why a problem cannot run here; None if it can."""
        if index in NEEDS_OVERLAY and not self._may_overlay:
            return (
                "it changes programs of the system, which the backend host does not "
                "allow and this machine allows no other; see docs/sandbox.md"
            )
        if index in NEEDS_USERS and not self._many_users():
            return (
                "it needs several users, which a start as root can give it, or the "
                "package uidmap and ids for this user in /etc/subuid and /etc/subgid"
            )
        return None

    def why_unjudged(self, problem: OsProblem) -> str | None:
        """Says why every answer to a problem is wrong here; None if it is judged.

        In a container `sudo` is the image's, so a check may run it.
        """
        if self._containers is not None and problem.index in NEEDS_PACKAGES:
            return None
        return why_refused(problem)

    def check_runs(self, indices: Iterable[int]) -> None:
        """Checks that all these problems can run here.

        Raises:
          BadInputError: names those that cannot.
        """
        cannot = [i for i in indices if self.why_not(i)]
        if cannot:
            raise BadInputError(
                "task_settings.os_interaction.split is reference, but the problems "
                f"{', '.join(map(str, cannot))} cannot run here: "
                f"{self.why_not(cannot[0])}; start as root, or take the split seeded."
            )

    @contextlib.asynccontextmanager
    async def open(self, index: int, sandbox: Sandbox) -> AsyncIterator[Shell]:
        """A fresh machine for this problem."""
        loop = asyncio.get_running_loop()
        places = self._places.setdefault(
            loop, asyncio.Semaphore(self._options.sessions)
        )
        async with places:
            if self._containers is not None:
                async with self._containers.open() as shell:
                    yield shell
                return
            needed = self._options.backend == "auto" and index in NEEDS_OVERLAY
            overlay = needed or self._options.backend == "overlay"
            async with sandbox.shell(Root(overlay, self._options.image)) as shell:
                yield shell
