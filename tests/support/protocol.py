"""
The order of design §4, held against the calls that were made: what comes before what, by the numbers I3 and I4.

A death cannot show that a sync is missing, for the kernel keeps what a process wrote. The order of the calls can.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from support.killpoints import Call

__all__ = ["Counts", "counts", "out_of_order"]

_IN = re.compile(r"ingest/\w+ -> blobs/\w+/\w+")
_OUT = re.compile(r"blobs/(\w+)/(\w+) -> trash/\w+\.\w+")
_PARTIAL_OUT = re.compile(r"ingest/(\w+) -> trash/\w+\.\w+")
_REPLACED = re.compile(r"leases/\w+ -> blobs/\w+/\w+")
_TREE_IN = re.compile(r"trees/ingest/\w+ -> trees/\w+/\w+")
_TREE_OUT = re.compile(r"trees/\w+/\w+ -> trees/trash/\w+\.\w+")
_LEASE = re.compile(r"leases/\.(\w+) -> leases/(\w+)")

#: What changes a tree, or something in it.
_FILLS = frozenset({"mkdir", "create", "write", "truncate", "chmod", "unlink"})
_TREE_ENDS = re.compile(r"UPDATE (trees|tree_ingests) SET state=\? WHERE (?!trees\.state)")


@dataclass(frozen=True)
class Counts:
    """
    What a flow costs. SQLite's own syncs are not among them: one for each write transaction.
    """

    reads: int
    writes: int
    statements: int
    fsyncs: int
    fdatasyncs: int


def counts(calls: Sequence[Call]) -> Counts:
    """
    Read and write transactions, statements inside of them, and syncs of files and directories.
    """
    kinds = [call.kind for call in calls]
    immediate = sum(call.what == "BEGIN IMMEDIATE" for call in calls)
    return Counts(
        reads=kinds.count("begin") - immediate,
        writes=immediate,
        statements=kinds.count("select") + kinds.count("statement"),
        fsyncs=kinds.count("fsync"),
        fdatasyncs=kinds.count("fdatasync"),
    )


@dataclass
class _State:
    """
    What has happened so far.
    """

    synced: set[str] = field(default_factory=set)  # files whose last write is on disk
    published: dict[str, str] = field(
        default_factory=dict
    )  # directories with renames that are not, and of what
    left: set[str] = field(
        default_factory=set
    )  # directories that something was moved out of or into, the same
    partials: set[str] = field(default_factory=set)  # moved aside in this transaction, as an ingest
    trees_synced: bool = False  # all that was written to trees is on disk
    trees_moved: set[str] = field(default_factory=set)  # directories with renames of trees that are not
    trees_doomed_here: bool = False
    trees_ended_here: bool = (
        False  # rows of trees, in this transaction; another thread's may be about something else
    )
    in_write: bool = False
    doomed_here: bool = False  # in this transaction, and so not durable
    swept_here: bool = False
    discarded_here: bool = False
    moved: bool = False  # to trash, in this transaction
    trash_is_final: bool = True
    hidden: set[str] = field(default_factory=set)
    locked: set[str] = field(default_factory=set)
    visible: set[str] = field(default_factory=set)


def out_of_order(calls: Sequence[Call]) -> list[str]:
    """
    Every place where the protocol was not kept, in words.
    """
    state = _State()
    return [f"call {number}: {words}" for number, call in enumerate(calls, 1) for words in _step(state, call)]


def _step(state: _State, call: Call) -> Iterator[str]:
    kind, what = call
    if kind in ("write", "truncate", "create") and what.startswith(("ingest/", "leases/")):
        state.synced.discard(what)
    elif kind in ("fdatasync", "fsync"):
        state.synced.add(what)
        state.published.pop(what, None)
        state.left.discard(what)
    elif kind == "rename":
        yield from _rename(state, what)
    elif kind == "unlink" and what.startswith("blobs/"):
        yield f"I3: a blob is unlinked in its place: {what}"
    elif kind == "unlink" and what.startswith("trash/") and (state.in_write or not state.trash_is_final):
        yield f"I3: {what} is unlinked before the end of its row is durable"
    yield from _tree(state, kind, what)
    if kind == "lock" and what.startswith("leases/."):
        state.locked.add(what.removeprefix("leases/."))
    elif kind == "create" and re.fullmatch(r"leases/\w+", what):
        yield f"a lease is visible before it is locked: {what}"
    yield from _sql(state, kind, what)


def _tree(state: _State, kind: str, what: str) -> Iterator[str]:
    if kind == "syncfs":
        state.trees_synced = True
    elif kind in _FILLS and what.startswith("trees/ingest/"):
        state.trees_synced = False
    elif kind == "fsync":
        state.trees_moved.discard(what)
    elif kind == "rename" and (_TREE_IN.fullmatch(what) or _TREE_OUT.fullmatch(what)):
        if _TREE_IN.fullmatch(what) and not state.trees_synced:
            yield f"I4: {what} before it is synced"
        if _TREE_OUT.fullmatch(what) and state.trees_doomed_here:
            yield f"I3: {what} before its doom is durable"
        state.trees_moved |= {each.rpartition("/")[0] for each in what.split(" -> ")}
    else:
        yield from _tree_rows(state, kind, what)


def _tree_rows(state: _State, kind: str, what: str) -> Iterator[str]:
    if what == "BEGIN IMMEDIATE":
        state.trees_doomed_here = state.trees_ended_here = False
    elif kind == "statement" and what.startswith("INSERT INTO trees") and state.trees_moved:
        yield f"I4: rows of trees come before their directory is synced: {sorted(state.trees_moved)}"
    elif kind == "statement" and what.startswith("UPDATE trees SET state=? WHERE trees.state"):
        state.trees_doomed_here = True
    elif kind == "statement" and _TREE_ENDS.match(what):
        state.trees_ended_here = True
    elif kind == "commit" and state.trees_moved and state.trees_ended_here:
        yield f"I3: a row ends before the move of its directory is synced: {sorted(state.trees_moved)}"


def _rename(state: _State, what: str) -> Iterator[str]:
    if found := _LEASE.fullmatch(what):
        if found[1] not in state.locked:
            yield f"a lease is visible before it is locked: {found[1]}"
        state.visible.add(found[2])
    elif found := _PARTIAL_OUT.fullmatch(what):
        state.partials.add(found[1])
        state.left |= {"ingest", "trash"}
    elif found := _OUT.fullmatch(what):
        yield from _out(state, *found.groups())
    elif (found := _IN.fullmatch(what)) or (found := _REPLACED.fullmatch(what)):
        source, _, target = what.partition(" -> ")
        if source not in state.synced:
            yield f"I4: {source} is renamed to {target} before it is synced"
        state.published[target.rpartition("/")[0]] = target


def _out(state: _State, algorithm: str, encoded: str) -> Iterator[str]:
    if encoded in state.partials:
        return  # that of an ingest, if it had come so far
    if not state.in_write:
        yield f"I3: {encoded} is moved aside without the gate"
    if state.doomed_here:
        yield f"I3: {encoded} is moved aside before its doom is durable"
    state.moved = True
    state.trash_is_final = False
    state.left |= {f"blobs/{algorithm}", "trash"}


def _sql(state: _State, kind: str, what: str) -> Iterator[str]:
    if what == "BEGIN IMMEDIATE":
        state.in_write = True
        state.doomed_here = state.swept_here = state.discarded_here = state.moved = False
        state.partials.clear()
    elif kind == "statement" and what.startswith("INSERT INTO blobs") and state.published:
        yield f"I4: rows come before their directory is synced: {sorted(state.published)}"
    elif kind == "statement" and (what.startswith("DELETE FROM images") or "referenced = ?" in what):
        state.doomed_here = True
    elif kind == "statement" and what.startswith("UPDATE blobs SET state=? WHERE blobs.digest IN"):
        state.swept_here = True
    elif kind == "statement" and what.startswith("UPDATE ingests SET state"):
        state.discarded_here = True
    if kind == "statement" and what.startswith("INSERT INTO leases") and not state.visible:
        yield "a lease has a row before its lock has a name"
    if kind == "commit" and state.in_write:
        yield from _commit(state)


def _commit(state: _State) -> Iterator[str]:
    if state.left and (state.swept_here or state.discarded_here):
        yield f"I3: a row ends before the move of its file is synced: {sorted(state.left)}"
    if state.swept_here and not state.moved:
        yield "I3: rows of doomed blobs end, and their files were not moved aside"
    if state.moved and (state.swept_here or not state.doomed_here):
        state.trash_is_final = True
    state.in_write = False
    state.left.clear()
