import os

import pytest

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.report import read_report

WHOLE = b"exited 3 1200\nf 4 3\nname\0\n\xffd 2 0\nd/end 0 0\n"


def read(data: bytes):
    fd = os.memfd_create("report")
    try:
        os.write(fd, data)
        return read_report(fd, 2**20)
    finally:
        os.close(fd)


def test_whole_report():
    report = read(WHOLE)
    assert (report.reason, report.code) == ("exited", 3)
    assert report.files == {"name": b"\0\n\xff", "d/": b""}


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
