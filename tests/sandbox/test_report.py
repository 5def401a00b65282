import asyncio
import os
import subprocess

import pytest

from cycleqd_jax.errors import SandboxError
from cycleqd_jax.sandbox.bubblewrap import read_report
from cycleqd_jax.sandbox.process import kill_group, until_end

WHOLE = b"exited 3\n4 3\nname\0\n\xff2 0\nd/end\n"


def test_whole_report():
    assert read_report(WHOLE) == ("exited", 3, {"name": b"\0\n\xff", "d/": b""})


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_cut_report_is_the_sandboxs_failure(length):
    with pytest.raises(SandboxError, match="without a complete report"):
        read_report(WHOLE[:length])


@pytest.mark.parametrize("sizes", ["4 9999999", "-4 8", "9 -5", "x 1", "1", "9" * 500])
def test_a_damaged_report_is_the_sandboxs_failure(sizes):
    with pytest.raises(SandboxError, match="without a complete report"):
        read_report(WHOLE.replace(b"4 3", sizes.encode()))


def test_no_more_than_allowed_is_read():
    """Of any pipe, and the other is read to its end."""
    reads = [os.pipe(), os.pipe()]
    code = f"echo all of it >&{reads[0][1]}; exec yes >&{reads[1][1]}"

    async def main():
        process = subprocess.Popen(
            ["bash", "-c", code],
            pass_fds=[write for _, write in reads],
            start_new_session=True,
        )
        for _, write in reads:
            os.close(write)
        pipes = {reads[0][0]: 100, reads[1][0]: 1000}
        return await until_end(process, pipes, lambda: kill_group(process))

    ended = asyncio.run(main())
    for read, _ in reads:
        os.close(read)
    assert ended.over
    assert not ended.late
    assert ended.printed[0] == b"all of it\n"
    assert len(ended.printed[1]) == 1000
