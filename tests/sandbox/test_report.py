import os

import pytest

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.bubblewrap import read_report

WHOLE = b"exited 3\n4 3\nname\0\n\xff2 0\nd/end\n"


def read(data: bytes):
    fd = os.memfd_create("report")
    try:
        os.write(fd, data)
        return read_report(fd, 2**20)
    finally:
        os.close(fd)


def test_whole_report():
    assert read(WHOLE) == ("exited", 3, {"name": b"\0\n\xff", "d/": b""})


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_cut_report_is_the_sandboxs_failure(length):
    with pytest.raises(SandboxError, match="without a complete report"):
        read(WHOLE[:length])


def test_an_oversized_report_is_not_read():
    fd = os.memfd_create("report")
    os.truncate(fd, 2**30)
    with pytest.raises(SandboxError, match="more than allowed"):
        read_report(fd, 2**20)
    os.close(fd)
