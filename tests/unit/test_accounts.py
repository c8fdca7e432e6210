"""
Who a user of an image is, by the image's own files.
"""

from __future__ import annotations

import pytest

from ullage.accounts import Account, resolve_account, subordinate_ids
from ullage.errors import InvalidProcess

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
www:x:33:34::/var/www:/usr/sbin/nologin
1000:x:7:7::/seven:
twin:x:33:99::/twin:
"""
GROUP = b"""root:x:0:
www:x:34:
log:x:4:sys,www
adm:x:5:www,root
again:x:4:www
"""


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Account(0, 0, (5,), "/root")),
        ("root", Account(0, 0, (5,), "/root")),
        ("www", Account(33, 34, (4, 5), "/var/www")),
        ("33", Account(33, 34, (4, 5), "/var/www")),  # the first of two with that number
        ("www:log", Account(33, 4, (), "/var/www")),
        ("www:0", Account(33, 0, (), "/var/www")),
        ("www:", Account(33, 34, (4, 5), "/var/www")),
        (":log", Account(0, 4, (), "/root")),
        ("4242", Account(4242, 0)),
        ("4242:4343", Account(4242, 4343)),
        ("1000", Account(1000, 0)),  # a number is a number, whatever is called so
        ("4294967294:4294967294", Account(2**32 - 2, 2**32 - 2)),
    ],
)
def test_a_user_is_looked_up_as_engines_do(user, expected):
    assert resolve_account(user, passwd=PASSWD, group=GROUP) == expected


@pytest.mark.parametrize(
    ("user", "field"),
    [
        ("nobody", "process.user.uid"),
        ("root:nobody", "process.user.gid"),
        ("-1", "process.user"),
        ("4294967295", "process.user"),
        ("0:4294967295", "process.user"),
        ("9" * 5000, "process.user"),
        ("a:b:c", "process.user"),
        ("ro\0ot", "process.user.uid"),
        ("rôot", "process.user.uid"),
        ("٣٣", "process.user.uid"),  # digits, but not the kernel's
    ],
)
def test_who_is_nobody_is_refused(user, field):
    with pytest.raises(InvalidProcess) as refused:
        resolve_account(user, passwd=PASSWD, group=GROUP)

    assert refused.value.field == field
    assert refused.value.message.isprintable()


def test_what_is_no_line_is_passed_over():
    passwd = b"\n::\nroot\nroot:x:zero:0::/:\nroot:x:-1:0::/:\n\xff\xfe:x:8:8\nroot:x:1\n" + b"root:x:5:6"

    assert resolve_account("root", passwd=passwd, group=b"root:x\n\0\nroot:x:x:root\n") == Account(5, 6)
    assert resolve_account(b"\xff\xfe".decode("utf-8", "surrogateescape"), passwd=passwd) == Account(8, 8)


def test_a_user_without_files_is_a_number_or_root():
    assert resolve_account("") == Account(0, 0)
    assert resolve_account("12:13") == Account(12, 13)


def test_a_user_in_more_groups_than_the_kernel_takes_is_refused():
    group = b"".join(b"g%d:x:%d:root\n" % (number, number) for number in range(65_537))

    with pytest.raises(InvalidProcess, match="65537 groups"):
        resolve_account("root", passwd=PASSWD, group=group)


def test_subordinate_ids_are_those_of_the_user_by_name_or_number():
    text = b"me:100000:65536\nyou:165536:65536\n1000:300000:10\nme:x:1\nme:4294967290:100\nme:5\nme:7:0\n"

    assert subordinate_ids(text, name="me", number=1000) == [(100000, 65536), (300000, 10)]
