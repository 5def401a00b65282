"""Accounts of an episode, read as the plain data that they are."""

import dataclasses

MOST_ID = 65535


@dataclasses.dataclass(frozen=True)
class Account:
    """A user: the ids that a login would give its processes."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def find_account(passwd: str, group: str, name: str) -> Account | None:
    """A user in the texts of /etc/passwd and group; None without a name and ids."""
    rows = [line.split(":") for line in passwd.split("\n")]
    row = next((row for row in rows if len(row) == 7 and row[0] == name), None)
    if row is None:
        return None
    uid, gid = _id(row[2]), _id(row[3])
    if uid is None or gid is None:
        return None
    groups = {gid}
    for line in group.split("\n"):
        fields = line.split(":")
        if len(fields) == 4 and name in fields[3].split(","):
            number = _id(fields[2])
            if number is not None:
                groups.add(number)
    return Account(uid, gid, tuple(sorted(groups)))


def _id(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        return None
    return int(text) if int(text) <= MOST_ID else None
