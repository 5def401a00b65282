"""Finds changes of an episode to the programs that judge it, in a container.

They cannot be restored there, so changes are detected: programs, libraries and their
configuration whose content differs from the image, commands that come before those of
the image on PATH, and login scripts.
"""

import re

from cycleqd_jax.sandbox.container_engine import Engine

_PROGRAMS = re.compile(r"/(usr/)?(bin|sbin|lib|lib32|lib64|libx32|libexec)(/|$)")
_LOADED = re.compile(r"/(usr/)?(local/)?lib(32|64|x32|exec)?(/|$)")
_COMMANDS = re.compile(r"/(usr/(local/)?)?s?bin/([^/]+)$")
_CONFIGURATION = re.compile(
    r"/etc/(ld\.so.*|alternatives|nsswitch\.conf|environment|profile|profile\.d|"
    r"bash\.bashrc|pam\.d|pam\.conf|security|login\.defs|python[^/]*|locale\.alias|"
    r"sudo\.conf)(/|$)"
)
_LOGIN_SCRIPTS = re.compile(r"/home/[^/]+/\.(bash_login|bash_profile|profile|bashrc)$")


class Changes:
    """The changes in one container.

    Args:
      engine: that runs the container.
      name: of the container.
      commands: names of the image's own commands.
    """

    def __init__(self, engine: Engine, name: str, commands: frozenset[str]):
        self._engine = engine
        self._name = name
        self._commands = commands
        self._before: dict[str, str] = {}  # path -> kind of difference from the image
        self._contents: dict[str, bytes | None] = {}
        self._judged: dict[str, str] = {}

    async def remember(self) -> None:
        """Records the differences that the problem's set-up made."""
        self._before = await self._engine.differences(self._name)
        for path, kind in self._before.items():
            if kind != "D" and _trusted(path):
                self._contents[path] = await self._engine.content(self._name, path)

    async def of_episode(self) -> str | None:
        """A change of the episode that could decide a verdict, in words, or None."""
        self._judged = await self._engine.differences(self._name)
        for path, kind in self._judged.items():
            if self._suspicious(path, kind) and not await self._unchanged(path, kind):
                return f"{path} was {'removed' if kind == 'D' else 'changed'}"
        return None

    async def while_judging(self) -> bool:
        """Whether there is a further such change since `of_episode`."""
        return any(
            path not in self._judged and self._suspicious(path, kind)
            for path, kind in (await self._engine.differences(self._name)).items()
        )

    async def _unchanged(self, path: str, kind: str) -> bool:
        """Whether a file has the content from before the episode."""
        if kind == "D":
            return self._before.get(path) == "D"
        now = await self._engine.content(self._name, path)
        if now is None or (kind == "A" and path not in self._contents):
            return False
        if path in self._contents:
            return self._contents[path] == now
        return now == await self._engine.image_content(path, f"{self._name}-image")

    def _suspicious(self, path: str, kind: str) -> bool:
        """Whether a difference at this path could decide a verdict."""
        command = _COMMANDS.match(path)
        if command and kind == "A":
            return command[3] in self._commands
        return _trusted(path)


def _trusted(path: str) -> bool:
    kinds = (_PROGRAMS, _LOADED, _CONFIGURATION, _LOGIN_SCRIPTS)
    return any(kind.match(path) for kind in kinds)
