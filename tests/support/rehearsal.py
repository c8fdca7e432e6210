"""
Playing a scene: undisturbed, with a death at each call, and beside somebody who does something at each call.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Any

from support import audit
from support.flows import FLOWS, broken_promises, open_store
from support.killpoints import Call
from support.registry import stall
from support.scenes import SCENES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from support.images import Image
    from support.nursery import Child
    from support.scenes import Scene, Workshop

__all__ = [
    "OUTSIDE",
    "beside",
    "die_everywhere",
    "recovered",
    "step_by_step",
    "undisturbed",
    "wait_for_each_other",
]

#: Calls between which somebody else can be met, as far as that makes a difference.
OUTSIDE = frozenset({"create", "rename", "unlink", "write", "fsync", "begin", "lock", "list"})
_EMPTY = SCENES["the first pull"]


def undisturbed(
    workshop: Workshop, scene: Scene, *, mutants: Collection[str] = ()
) -> tuple[list[Call], dict[str, Any]]:
    """
    The calls of a scene that nobody disturbs, and the store that it ends with.
    """
    root = workshop.copy(workshop.prepared(scene))
    child = workshop.spawn(scene, root, mutants=mutants)
    child.wait()
    assert child.completed
    _none(child.heard("untyped"))
    _none(child.heard("raised"))
    (calls,) = child.heard("trace")[0]
    with open_store(root, **scene.options(workshop)) as store:
        store.collect()
    _none(audit.at_rest(root, limit_was_lowered=scene.limit_was_lowered))
    return [Call(*each) for each in calls], audit.summary(root)


def die_everywhere(
    workshop: Workshop,
    scene: Scene,
    *,
    kinds: Iterable[str] | None,
    mutants: Collection[str] = (),
    every: int = 1,
) -> int:
    """
    Die at the 1st, 2nd, … n-th call of *kinds*, until there is none left; how many calls that were.

    Args:
        every: at every so manieth of them alone; which one is first depends on the scene.
    """
    _, expected = undisturbed(workshop, scene)
    at = 1 + zlib.crc32(scene.name.encode()) % every - every
    while True:
        at += every
        if at < 1:
            continue
        root = workshop.copy(workshop.prepared(scene))
        child = workshop.spawn(scene, root, action="die", at=at, kinds=kinds, mutants=mutants)
        child.wait()
        _none(child.heard("untyped"))
        _none(child.heard("overfilled"))
        if child.completed:
            return at - 1
        try:
            recovered(workshop, scene, root, child, expected)
        except BaseException as error:
            call = _call(workshop, scene, kinds, at)
            error.add_note(f"{scene.name}: died at call {at}: {call}; it said {child.said}")
            raise
        shutil.rmtree(root)


def recovered(
    workshop: Workshop,
    scene: Scene,
    root: Path,
    child: Child,
    expected: dict[str, Any],
    *,
    by_death: bool = True,
) -> None:
    """
    Open what *child* left, look at it, and do again what it was about.
    """
    lowered = scene.limit_was_lowered
    is_damaged = scene.flow == "repair"
    if not is_damaged:
        _none(audit.of_wreck(root, limit_was_lowered=lowered, by_death=by_death))
    with open_store(root, **scene.options(workshop)) as store:
        if is_damaged:
            assert not [*(root / "trash").iterdir(), *(root / "leases").iterdir()]
        else:
            _none(store.check(digests=True))
            _none(audit.at_rest(root, limit_was_lowered=lowered))
        _none(broken_promises(store, child.said))
        FLOWS[scene.flow](store, lambda *_: None, **workshop.arguments(scene))
        _none(store.check(digests=True))
        store.collect()
    _none(audit.at_rest(root, limit_was_lowered=lowered))
    found = audit.summary(root)
    _none([f"{key}: {found[key]}, not {expected[key]}" for key in expected if found[key] != expected[key]])


def _none(violations: Iterable[object]) -> None:
    """
    Pytest does not look into the assertions of this module; so they say what they found.
    """
    said = [str(each) for each in violations]
    assert not said, "; ".join(said)


def _call(workshop: Workshop, scene: Scene, kinds: Iterable[str] | None, at: int) -> Any:
    child = workshop.spawn(scene, workshop.copy(workshop.prepared(scene)), kinds=kinds)
    child.wait()
    calls = child.heard("trace")[0][0]
    return calls[at - 1] if at <= len(calls) else "the end"


def beside(
    workshop: Workshop,
    scene: Scene,
    other: Callable[[Path], Callable[[], None] | None],
    *,
    kinds: Iterable[str] = OUTSIDE,
    mutants: Collection[str] = (),
    may_raise: Collection[str] = (),
) -> int:
    """
    Stop at the 1st, 2nd, … n-th call that is made without the gate, let *other* happen meanwhile, and go on; how
    many stops that were. What *other* returns is called when the scene is over.
    """
    at = 0
    while True:
        at += 1
        root = workshop.copy(workshop.prepared(scene))
        child = workshop.spawn(
            scene, root, action="stop", at=at, kinds=kinds, outside_gate=True, mutants=mutants, arm="opened"
        )
        try:
            if child.wait() != "stopped":
                return at - 1
            after = other(root)
            child.go_on()
            child.wait()
            if after is not None:
                after()
            _judge(workshop, scene, root, child, may_raise)
        except BaseException as error:
            child.kill()
            error.add_note(f"{scene.name}: stopped at call {at}; it said {child.said}")
            raise
        shutil.rmtree(root)


def step_by_step(
    workshop: Workshop,
    scene: Scene,
    other: Callable[[Path], None],
    *,
    # Not between the making of a lease's file and its lock: a recovery there makes the owner begin again, each time.
    kinds: Iterable[str] = OUTSIDE - {"lock"},
    mutants: Collection[str] = (),
) -> int:
    """
    The scene once, with *other* before each call that is made without the gate; how many that were.
    """
    root = workshop.copy(workshop.prepared(scene))
    child = workshop.spawn(
        scene, root, action="step", at=1, kinds=kinds, outside_gate=True, mutants=mutants, arm="opened"
    )
    steps = 0
    try:
        while child.wait() == "stopped":
            steps += 1
            other(root)
            child.go_on()
        _judge(workshop, scene, root, child, ())
    except BaseException as error:
        child.kill()
        error.add_note(f"{scene.name}: step {steps}; it said {child.said}")
        raise
    shutil.rmtree(root)
    return steps


def wait_for_each_other(
    workshop: Workshop, *, mutants: Collection[str] = (), patience_seconds: float = 20.0
) -> None:
    """
    One pull fetches a blob and stalls; another has a blob and waits for that; a third needs what the other has.
    """
    root = workshop.copy(workshop.prepared(_EMPTY))
    stalled = workshop.registry.inject(f"*/blobs/{workshop.far.layers[0].digest}", stall(), times=1)
    pulls = []
    try:
        for image, theirs in ((workshop.far, ()), (workshop.both, mutants), (workshop.near, ())):
            arguments = {"reference": image.reference}
            pulls.append(workshop.nursery.spawn("pull", root, arguments, mutants=theirs))
            _wait_until(lambda image=image: _is_admitted(root, image))
        stalled.wait_reached()
        assert not pulls[2].is_late(patience_seconds), "it waits for one that waits"
        assert pulls[1].is_late(0.0)
    finally:
        workshop.registry.heal()
        for each in pulls:
            each.wait()
    assert [each.heard("pulled") for each in pulls] == [
        [[image.reference]] for image in (workshop.far, workshop.both, workshop.near)
    ]
    _none(audit.at_rest(root))
    shutil.rmtree(root)


def _is_admitted(root: Path, image: Image) -> bool:
    with closing(sqlite3.connect(root / "ullage.db", timeout=10.0)) as shell:
        found = shell.execute(
            "SELECT EXISTS (SELECT 1 FROM ingests WHERE digest = ?1) OR EXISTS (SELECT 1 FROM blobs WHERE digest = ?1)",
            [image.manifest.digest],
        ).fetchone()
    return bool(found[0])


def _wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.005)


def _judge(workshop: Workshop, scene: Scene, root: Path, child: Child, may_raise: Collection[str]) -> None:
    assert child.completed
    _none(child.heard("untyped"))
    _none(child.heard("overfilled"))
    raised = [each for each in child.heard("raised") if each[0] not in may_raise]
    assert raised == [], "it did not get what it was promised"
    with open_store(root, **scene.options(workshop)) as store:
        _none(store.check(digests=True))
    _none(audit.at_rest(root, limit_was_lowered=scene.limit_was_lowered))
