"""Accounts and permissions of an episode, read as the plain data that they are."""

import dataclasses
import re
from collections.abc import Iterator

MOST_ID = 65535
_BLANKS = " \t\v\f\r"
_NUMBER = re.compile(rf"[{_BLANKS}]*\+?([0-9]+)")
_SETTING = re.compile(r"Defaults|[@#]\s*include")
_INCLUDED = re.compile(r"[@#]includedir\s+/etc/sudoers\.d")  # read with it
_QUOTED = re.compile(r'"[^"]*"')
_HARMLESS = frozenset(
    "authenticate env_keep env_reset fqdn insults mail_badpass passwd_tries requiretty "
    "secure_path timestamp_timeout use_pty visiblepw".split()
)
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


def only_permits(sudoers: str | None, known: str | None) -> bool:
    """True if a text of /etc/sudoers sets nothing by which sudo could run a program.

    What it permits and forbids does not matter. Its other `Defaults`, and files that it
    includes, must be those of another text.
    """
    return sudoers is not None and _settings(sudoers) <= _settings(known or "")


def _settings(sudoers: str) -> set[str]:
    lines = (line.strip() for line in sudoers.replace("\\\n", "").split("\n"))
    return {line for line in lines if _SETTING.match(line) and not _is_harmless(line)}


def _is_harmless(setting: str) -> bool:
    if not setting.startswith("Defaults"):
        return _INCLUDED.fullmatch(setting) is not None
    if "\\" in setting:  # a quote behind it may begin a text, or not
        return False
    _, *options = _QUOTED.sub("", setting).split(None, 1)
    for option in ",".join(options).split(","):
        name, _, value = option.partition("=")
        if name.strip(" \t!+-") not in _HARMLESS or len(value.split()) > 1:
            return False
    return True


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
