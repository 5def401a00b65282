"""Accounts of an episode, read as the plain data that they are."""

import dataclasses
import re
from collections.abc import Iterator

MOST_ID = 65535
_BLANKS = " \t\v\f\r"
_NUMBER = re.compile(rf"[{_BLANKS}]*\+?([0-9]+)")
_MOST_NUMBER = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Account:
    """A user: the ids that a login would give its processes."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def find_account(passwd: str, group: str, name: str) -> Account | None:
    """A user in the texts of /etc/passwd and group; None if nobody could log in as it.

    Lines are read as the C library does: blanks before a line or a member do not count,
    ids may have zeros before them, and a line without proper ids is passed over.
    """
    for fields in _rows(passwd, 6):
        if fields[0] == name and len(fields) > 3:
            uid, gid = _id(fields[2]), _id(fields[3])
            if uid is not None and gid is not None:
                break
    else:
        return None
    groups = {gid}
    for fields in _rows(group, 3):
        number = _id(fields[2]) if len(fields) > 3 else None
        if number is not None:
            members = (member.lstrip(_BLANKS) for member in fields[3].split(","))
            groups.update([number] if name in members else [])
    if max(uid, *groups) > MOST_ID:
        return None  # no process there can have it
    return Account(uid, gid, tuple(sorted(groups)))


def _rows(text: str, most: int) -> Iterator[list[str]]:
    for line in text.split("\n"):
        line = line.lstrip(_BLANKS)
        if line and not line.startswith("#"):
            yield line.split(":", most)


def _id(text: str) -> int | None:
    found = _NUMBER.fullmatch(text)
    if found is None or len(found[1].lstrip("0")) > len(str(_MOST_NUMBER)):
        return None
    number = int(found[1].lstrip("0") or "0")
    return number if number <= _MOST_NUMBER else None
