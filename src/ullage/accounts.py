"""
Users and groups as an image names them, looked up in its own ``/etc/passwd`` and ``/etc/group``.

Text in, numbers out: who reads the files, and how safely, is not this module's business. What is no line of such a file
is passed over, as the C library does: these files come from the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ullage.errors import InvalidProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Account", "resolve_account", "subordinate_ids"]

#: The kernel's ids are of 32 bits, and the last of them means "no change".
MAX_ID: Final = 2**32 - 2
_ID_DIGITS: Final = 10
#: As many groups as the kernel lets a process have.
_MAX_GROUPS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Account:
    """
    Who a process runs as. ``home`` is empty where nobody says.
    """

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()
    home: str = ""


def resolve_account(user: str, *, passwd: bytes = b"", group: bytes = b"") -> Account:
    """
    Who *user* is: ``user``, ``uid``, ``user:group``, ``uid:gid`` or a mixture; empty is root.

    Numbers stand for themselves, whoever is in the files. Without a group it is the one of the user, with all that
    list the user; with one, that alone. (Image specification 1.1, config.md, "User")

    >>> passwd = b"root:x:0:0::/root:/bin/sh\\nwww:x:33:34::/var/www:/bin/false\\n"
    >>> resolve_account("www", passwd=passwd, group=b"www:x:34:\\nlog:x:4:sys,www\\n")
    Account(uid=33, gid=34, additional_gids=(4,), home='/var/www')
    >>> resolve_account("1000:log", group=b"log:x:4:")
    Account(uid=1000, gid=4, additional_gids=(), home='')

    Raises:
        InvalidProcess: a name that is not in its file, or a number that is no id.
    """
    who, colon, which = user.partition(":")
    if ":" in which:
        raise InvalidProcess(
            f"not a user: {user!a}", field="process.user", hint="USER, UID, or either with :GROUP"
        )
    uid, entry = _user(who or "0", passwd)
    name, gid, home = entry or ("", 0, "")
    if colon and which:
        return Account(uid, _group(which, group), home=home)
    gids = tuple(dict.fromkeys(each for _, each, members in _groups(group) if name and name in members))
    if len(gids) > _MAX_GROUPS:
        raise InvalidProcess(f"user {who!a} is in {len(gids)} groups", field="process.user.additionalGids")
    return Account(uid, gid, gids, home)


def subordinate_ids(text: bytes, *, name: str, number: int) -> list[tuple[int, int]]:
    """
    The ranges that ``/etc/subuid`` or ``/etc/subgid`` gives a user: first id, and how many.
    """
    owners = (name, str(number))
    ranges = []
    for fields in _lines(text):
        if len(fields) != 3 or fields[0] not in owners:
            continue
        first, count = _id(fields[1]), _id(fields[2])
        if first is not None and count and first + count - 1 <= MAX_ID:
            ranges.append((first, count))
    return ranges


def _user(who: str, passwd: bytes) -> tuple[int, tuple[str, int, str] | None]:
    number = _number(who, "user")
    for fields in _lines(passwd):
        if len(fields) < 4:
            continue
        uid, gid = _id(fields[2]), _id(fields[3])
        if uid is None or gid is None:
            continue
        if fields[0] == who if number is None else uid == number:
            home = fields[5] if len(fields) > 5 else ""
            return uid, (fields[0], gid, home)
    if number is None:
        raise InvalidProcess(
            f"no user {who!a} in the image's /etc/passwd",
            field="process.user.uid",
            hint="name another one, or a number, with --user",
        )
    return number, None


def _group(which: str, group: bytes) -> int:
    number = _number(which, "group")
    if number is not None:
        return number
    for name, gid, _ in _groups(group):
        if name == which:
            return gid
    raise InvalidProcess(
        f"no group {which!a} in the image's /etc/group",
        field="process.user.gid",
        hint="name another one, or a number, with --user USER:GROUP",
    )


def _groups(text: bytes) -> Iterator[tuple[str, int, list[str]]]:
    for fields in _lines(text):
        gid = _id(fields[2]) if len(fields) > 2 else None
        if gid is not None:
            yield fields[0], gid, fields[3].split(",") if len(fields) > 3 else []


def _lines(text: bytes) -> Iterator[list[str]]:
    for line in text.split(b"\n"):
        if line.strip():
            yield [field.strip() for field in line.decode("utf-8", "surrogateescape").split(":")]


def _number(text: str, what: str) -> int | None:
    """
    The id that *text* is, None for a name.
    """
    if not (text.isascii() and text.lstrip("+-").isdigit()):
        return None
    number = _id(text)
    if number is None:
        raise InvalidProcess(f"no {what} id: {text[:80]}", field="process.user", hint=f"ids end at {MAX_ID}")
    return number


def _id(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()) or len(text) > _ID_DIGITS:
        return None
    number = int(text)
    return number if number <= MAX_ID else None
