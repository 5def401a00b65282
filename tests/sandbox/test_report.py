"""A report of a sandbox is whole, or the sandbox has failed."""

import asyncio
import os
import socket
import subprocess

import pytest

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox import world
from cycleqd_jax.sandbox.world import World

WHOLE = b"done 3 1 2\n\0\0\0\4name\0\0\0\3\0\n\xff"


def answer(data: bytes, most: int = 100):
    """An answer, as a world's process 1 gives it."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(["true"])

    async def main():
        machine = World(process, ours, os.memfd_create("info"), os.memfd_create("said"))
        theirs.sendall(b"done 0 1 0\n" + data)
        theirs.shutdown(socket.SHUT_WR)
        try:
            await machine.ready()
            return await machine.ask(1.0, most=most)
        finally:
            await machine.close()

    with theirs:
        return asyncio.run(main())


def test_whole_answer():
    assert answer(WHOLE) == ("done", 3, True, [b"name", b"\0\n\xff"])


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_cut_answer_is_the_sandboxs_failure(length):
    with pytest.raises(SandboxError, match="the sandbox has ended"):
        answer(WHOLE[:length])


@pytest.mark.parametrize("header", ["x", "done 3 1", "done x 1 2", "é" * 2000])
def test_a_damaged_answer_is_the_sandboxs_failure(header, monkeypatch):
    monkeypatch.setattr(world, "_BUFFER", 1000)
    with pytest.raises(SandboxError, match="the sandbox has ended"):
        answer(WHOLE.replace(b"done 3 1 2", header.encode()))


def test_no_more_than_asked_for_is_read_of_an_answer():
    with pytest.raises(SandboxError, match="more than was asked for"):
        answer(WHOLE, most=6)
