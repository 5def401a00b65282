"""The machine that a problem runs on, and the problems that cannot run here.

The sets of numbers below name published problems that need more than the backend `host`
has: programs that can be changed, or several users.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from cycleqd_jax.errors import BadInputError
from cycleqd_jax.sandbox.base import Root, Sandbox, Shell
from cycleqd_jax.sandbox.holder import has_subordinate_ids
from cycleqd_jax.sandbox.host import is_root
from cycleqd_jax.sandbox.image import image_folder
from cycleqd_jax.sandbox.shells import check_shells
from cycleqd_jax.tasks.os_interaction.kinds import needs_sudo
from cycleqd_jax.tasks.os_interaction.options import Options
from cycleqd_jax.tasks.os_interaction.problems import OsProblem

# It changes the permissions of /usr/bin/find.
NEEDS_OVERLAY = frozenset({50})
# useradd, then su, runuser or files of several owners.
NEEDS_USERS = frozenset({21, 47, 48, 49, 148, 163, 164, 165})


class Machines:
    """Makes a fresh machine for each episode of a task.

    Args:
      options: the task's settings.

    Raises:
      BadInputError: this computer lacks what the backend needs.
    """

    def __init__(self, options: Options):
        self._options = options
        self._places: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
        self._image = self._image_id = options.image
        if options.backend == "container":
            self._image_id, folder = image_folder(options.image, options.engine)
            self._image = str(folder)
        self._overlay = options.backend in ("overlay", "container")
        check_shells(Root(self._overlay, self._image))
        self._may_overlay = self._overlay
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
            "image": self._image_id,
            "overlay": self._may_overlay,
            "users": _many_users(),
        }

    def why_not(self, problem: OsProblem) -> str | None:
        """Says why a problem cannot run here; None if it can."""
        index = problem.index
        if index in NEEDS_OVERLAY and not self._may_overlay:
            return (
                "it changes programs of the system, which the backend host does not "
                "allow and this machine allows no other; see docs/sandbox.md"
            )
        if index in NEEDS_USERS and not _many_users():
            return (
                "it needs several users, which a start as root can give it, or the "
                "package uidmap and ids for this user in /etc/subuid and /etc/subgid"
            )
        if self._image is None and needs_sudo(problem):
            return (
                "its check runs sudo, which obeys files that the episode could have "
                "written; give an image that has sudo"
            )
        return None

    def check_runs(self, problems: Sequence[OsProblem]) -> list[OsProblem]:
        """The problems of the reference that can be judged here.

        Raises:
          BadInputError: names others that cannot run here.
        """
        judged = [p for p in problems if self._image is not None or not needs_sudo(p)]
        cannot = [p for p in judged if self.why_not(p)]
        if cannot:
            names = ", ".join(str(problem.index) for problem in cannot)
            raise BadInputError(
                "task_settings.os_interaction.split is reference, but the problems "
                f"{names} cannot run here: {self.why_not(cannot[0])}; start as root, "
                "or take the split seeded."
            )
        return judged

    @contextlib.asynccontextmanager
    async def open(self, index: int, sandbox: Sandbox) -> AsyncIterator[Shell]:
        """A fresh machine for this problem."""
        loop = asyncio.get_running_loop()
        places = self._places.setdefault(
            loop, asyncio.Semaphore(self._options.sessions)
        )
        async with places:
            needed = self._options.backend == "auto" and index in NEEDS_OVERLAY
            root = Root(needed or self._overlay, self._image)
            async with sandbox.shell(root) as shell:
                yield shell


def _many_users() -> bool:
    return is_root() or has_subordinate_ids()
