"""
An error instead of a death, from the 1st, 2nd, … n-th call of each flow: it is told as what it is, and leaves no mess.

Whatever fails, the caller gets an `ImageError` or what was asked for; the store is whole in the same process and for
the next one, and what was asked for can be asked for again. By default each kind of call, as told apart by what it is
made of, fails in some of the scenes; ``ULLAGE_TORTURE=1`` takes every call, and every error.
"""

from __future__ import annotations

import os
import shutil
import zlib

import pytest

from support import audit
from support.flows import CODES, open_store
from support.killpoints import READS
from support.rehearsal import undisturbed
from support.scenes import SCENES

EVERY_POINT = bool(os.environ.get("ULLAGE_TORTURE"))
LOOKS = READS | {"lock"}
ALLOCATES = ("create", "mkdir", "write", "fallocate", "rename", "fsync", "fdatasync", "statement", "commit")


def points_of(scene, calls):
    """
    Number and error of the calls that are to fail: of each shape the first. What is the same in many scenes has its
    turn in some of them: what changes something in half, a statement in a fifth, what only looks in a seventh.
    """
    if EVERY_POINT:
        return [(at, name) for at in range(1, len(calls) + 1) for name in CODES]
    first = {}
    for at, call in enumerate(calls, 1):
        first.setdefault(call.shape, at)
    names, turn = list(CODES), list(SCENES).index(scene.name)
    chosen = []
    for shape, at in first.items():
        kind = calls[at - 1].kind
        lot = zlib.crc32(shape.encode()) + turn
        of_so_many = scene.thin * (7 if kind in LOOKS else 5 if kind == "statement" else 2)
        if kind != "commit" and lot % of_so_many == 0:
            chosen.append((at, names[lot // 5 % len(names)]))
    return chosen


def judge(workshop, scene, expected, **how):
    """
    Play the scene with an error in it; assert what may come of that.
    """
    root = workshop.copy(workshop.prepared(scene))
    child = workshop.spawn(scene, root, **how)
    child.wait()

    assert child.completed
    if not child.heard("fired"):
        return  # this time it came to its end in fewer calls: bodies come in pieces of any size
    try:
        assert child.heard("untyped") == []
        assert child.heard("overfilled") == []
        if scene.flow != "repair":
            assert child.heard("problems") == [[[]]]
        assert child.heard("done again") == [[]]
        with open_store(root, **scene.options(workshop)) as store:
            assert store.check(digests=True) == []
            store.collect()
        assert audit.at_rest(root, limit_was_lowered=scene.limit_was_lowered) == []
        assert audit.summary(root) == expected
    except BaseException as error:
        said = [each for each in child.said if each[0] != "trace"]
        error.add_note("\n".join(str(each) for each in said))
        raise
    shutil.rmtree(root)


@pytest.mark.parametrize("name", SCENES)
def test_an_error_from_any_call_is_told_and_leaves_no_mess(name, workshop):
    scene = SCENES[name]
    calls, expected = undisturbed(workshop, scene)
    failures = []
    for at, code in points_of(scene, calls):
        try:
            judge(workshop, scene, expected, action="fail", at=at, code=CODES[code])
        except AssertionError as error:
            failures.append(
                f"{code} from call {at}, {calls[at - 1].shape}: {error}\n" + "\n".join(error.__notes__)
            )
    if failures:
        pytest.fail(
            f"{len(failures)} of {len(points_of(scene, calls))}:\n\n" + "\n\n".join(failures[:9]),
            pytrace=False,
        )


@pytest.mark.parametrize("name", SCENES)
def test_a_commit_that_fails_leaves_no_mess(name, workshop):
    """
    Undone by SQLite, which is out of room; or done, whatever the caller was told.
    """
    scene = SCENES[name]
    calls, expected = undisturbed(workshop, scene)
    for at in range(1, sum(call.kind == "commit" for call in calls) + 1, 1 if EVERY_POINT else scene.thin):
        judge(workshop, scene, expected, action="fail", at=at, kinds={"commit"}, code=CODES["ENOSPC"])
        judge(workshop, scene, expected, action="fail after", at=at, kinds={"commit"})


@pytest.mark.parametrize("name", SCENES)
def test_a_disk_that_is_full_from_some_call_on_leaves_no_mess(name, workshop):
    """
    Until room is made for it: what went before, and what is tried again, is whole.
    """
    scene = SCENES[name]
    calls, expected = undisturbed(workshop, scene)
    count = sum(call.kind in ALLOCATES for call in calls)
    step = 1 if EVERY_POINT else max(1, scene.thin * count // 4)
    for at in range(1, count + 1, step):
        judge(workshop, scene, expected, action="fail on", at=at, kinds=ALLOCATES, code=CODES["ENOSPC"])
