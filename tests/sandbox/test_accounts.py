"""Accounts are text: odd lines are no users, and nothing but ids comes of them."""

import stat
import time

import pytest

from cycleqd_jax.sandbox import _inside
from cycleqd_jax.sandbox.accounts import Account, find_account, only_permits

GROUP = "tom:x:1002:\nt:x:1004:ann, tom\nodd:x:x:tom\nfew:tom\nann:x:7:ann,tom "


@pytest.mark.parametrize(
    ("passwd", "expected"),
    [
        ("tom:x:1002:1002::/home/tom:/bin/sh", Account(1002, 1002, (1002, 1004))),
        ("a:x:1:1::/:/s\ntom:x:7:0:::", Account(7, 0, (0, 1004))),
        ("tom:x:5:5::/:/s\ntom:x:6:6::/:/s", Account(5, 5, (5, 1004))),
        ("tom:x:5:5", Account(5, 5, (5, 1004))),
        ("tom:x:5", None),
        ("#tom:x:5:5::/:/s\n\t tom:x: 0005:+6::/:/s:t", Account(5, 6, (6, 1004))),
        (
            "tom:x:5x:5::/:/s\ntom:x:4294967296:5::/\ntom:x:6:6",
            Account(6, 6, (6, 1004)),
        ),
        ("tom :x:5:5::/:/s", None),
        ("tom:x:5 :5::/:/s", None),
        (f"tom:x:{'0' * 5000}5:5::/:/s", Account(5, 5, (5, 1004))),
        (f"tom:x:{'9' * 5000}:5::/:/s", None),
        ("tom:x:-1:5::/:/s", None),
        ("tom:x:5:five::/:/s", None),
        ("tom:x:65536:5::/:/s", None),
        ("tom:x:4294967296:5::/:/s", None),
        ("tom:x:\u0663:5::/:/s", None),
        ("+tom:x:5:5::/:/s", None),
        ("", None),
    ],
)
def test_find_account(passwd, expected):
    assert find_account(passwd, GROUP, "tom") == expected


def test_nobody_logs_in_with_an_id_that_no_process_can_have():
    assert find_account("tom:x:5:5", "big:x:70000:tom", "tom") is None


KNOWN = "Defaults\tenv_reset\nroot ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n"


@pytest.mark.parametrize(
    ("sudoers", "expected"),
    [
        (KNOWN, True),
        ("", True),
        ("bob ALL=(ALL) NOPASSWD: ALL\n#includedir /etc/sudoers.d", True),
        (
            'Defaults secure_path="/usr/sbin,/x", !requiretty\nDefaults:bob use_pty',
            True,
        ),
        ('Defaults env_keep += "A B"\nDefaults timestamp_timeout=5', True),
        ('Defaults secure_path="/x", mailerpath="/bin/bash"', False),
        ('Defaults secure_path="\\", mailerpath=/x, secure_path="', False),
        ("Defaults use_pty mailerpath=/x", False),
        ("Defaults passwd_tries=3 mailerpath=/x", False),
        ('Defaults passwd_tries=\\", mailerpath=/x, insults=\\"', False),
        (KNOWN + "Defaults mailerpath=/bin/bash", False),
        (KNOWN + "  Defaults:bob !syslog, logfile=/x", False),
        (KNOWN + "Def\\\naults mailerpath=/bin/bash", False),
        (KNOWN + "#include /x", False),
        (KNOWN + "@include /x", False),
        (None, False),
    ],
)
def test_what_sudoers_set_is_known(sudoers, expected):
    assert only_permits(sudoers, KNOWN) is expected


def test_links_of_an_episode_stay_in_its_root(tmp_path):
    root = tmp_path / "{root}"
    (root / "usr/real").mkdir(parents=True)
    (root / "usr/real/find").write_text("")
    (root / "usr/real/find").chmod(0o4755)
    (root / "usr/bin").symlink_to("real")
    (root / "up").symlink_to("../../../../usr/bin/find")
    (root / "top").symlink_to("/usr/real/find")
    (root / "loop").symlink_to("loop")
    (root / "out").symlink_to("/etc/passwd")

    def mode(path):
        status = _inside.resolved_status(lambda inside: f"{root}/{inside}", path)
        return status and stat.S_IMODE(status.st_mode)

    for path in ("/usr/bin/find", "/up", "top", "usr/real/../bin/./find"):
        assert mode(path) == 0o4755
    for path in ("/loop", "/out", "/usr/bin/ls", "/usr/real/find/x"):
        assert mode(path) is None


def test_texts_of_sudoers(tmp_path):
    def read():
        return _inside.read_folder_texts(str(tmp_path), "etc/sudoers")

    assert read() == ""
    (tmp_path / "etc/sudoers.d").mkdir(parents=True)
    (tmp_path / "etc/sudoers").write_text("a")
    (tmp_path / "etc/sudoers.d/x").write_text("b")
    assert read() == "a\nb"
    (tmp_path / "etc/sudoers.d/y").symlink_to("/etc/hostname")
    assert read() is None
    (tmp_path / "etc/sudoers.d").rename(tmp_path / "etc/other")
    (tmp_path / "etc/sudoers.d").symlink_to("other")
    assert read() is None


@pytest.mark.parametrize("text", ["\t", "!", "!\t", '"', ",", "=", "#", "a", "\\\n"])
def test_long_lines_are_read_in_linear_time(text):
    start = time.process_time()
    only_permits(f"Defaults {text * 2**15}x\n#include {text * 2**14}", KNOWN)
    find_account(f"tom:x:{text * 2**15}5:5", f"a:x:{text * 2**15}:tom", "tom")
    assert time.process_time() - start < 1.0
