"""Accounts are text: odd lines are no users, and nothing but ids comes of them."""

import pytest

from cycleqd_jax.sandbox.accounts import Account, find_account

GROUP = "tom:x:1002:\nt:x:1004:ann,tom\nodd:x:x:tom\nfew:tom\nbig:x:70000:tom"


@pytest.mark.parametrize(
    ("passwd", "expected"),
    [
        ("tom:x:1002:1002::/home/tom:/bin/sh", Account(1002, 1002, (1002, 1004))),
        ("a:x:1:1::/:/s\ntom:x:7:0:::", Account(7, 0, (0, 1004))),
        ("tom:x:5:5::/:/s\ntom:x:6:6::/:/s", Account(5, 5, (5, 1004))),
        ("tom:x:5:5::/", None),
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
