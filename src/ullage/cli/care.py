"""
``check`` and ``doctor``: is the store what it says, and is the machine what the store needs?
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from ullage.cli.opening import StoreCommand, changing, looking
from ullage.cli.output import emit, emit_json, say
from ullage.cli.registries import registry_options

if TYPE_CHECKING:
    from ullage.cli.registries import Reach
    from ullage.model import Problem

__all__ = ["check", "doctor"]

#: Something is wrong, and still is: the exit code of `StoreCorrupt`.
_WRONG: Final = 32
#: What could be looked at is right, and not all could: the exit code of `StoreReadOnly`.
_UNSEEN: Final = 36


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage check
      ullage check --digests --repair --plain-http
      sqlite3 ROOT/ullage.db 'select * from problems'   what the rows alone can tell""",
)
@click.option("--digests", is_flag=True, help="Hash every blob, not only look at its size.")
@click.option(
    "--repair",
    is_flag=True,
    help="Mend what can be mended: fetch bad blobs again from where they came, remove files that no row "
    "explains, recount the counters.",
)
@registry_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each problem, one a line.")
def check(*, digests: bool, repair: bool, reach: Reach, as_json: bool) -> int:
    """
    Find what is wrong with the store.

    Each broken invariant is named by its number, which docs/invariants.md explains. A check may run beside
    everything else. Exits with 32 when something is wrong and was not mended, and with 36 when nothing is and some of
    it may not be looked at by who asks.
    """
    with looking() as reader:
        if reader is None:
            say("there is no store, and so nothing wrong with it")
            return 0
        found = [] if repair else reader.check(digests=digests)
    if repair:
        with changing(registry=reach.client()) as service:
            found = service.check(digests=digests, repair=True)
    for problem in found:
        if as_json:
            emit_json(problem)
        else:
            emit(_line(problem))
    unseen = sum(problem.unseen for problem in found)
    left = sum(not (problem.repaired or problem.unseen) for problem in found)
    if not as_json:
        say(_verdict(len(found) - unseen, left, unseen, digests=digests))
    return _WRONG if left else _UNSEEN if unseen else 0


def _line(problem: Problem) -> str:
    detail = f" ({problem.detail})" if problem.detail else ""
    return f"{problem.invariant}: {problem.problem}: {problem.object}{detail}{': mended' if problem.repaired else ''}"


def _verdict(found: int, left: int, unseen: int, *, digests: bool) -> str:
    if unseen:
        hidden = "; not all of it could be looked at: its owner, or root, may"
        return _verdict(found, left, 0, digests=True) + hidden
    if not found:
        return "no problems" + ("" if digests else "; --digests also hashes every blob")
    mended = f", {found - left} mended" if found > left else ""
    return f"{found} problem{'' if found == 1 else 's'}{mended}" + (
        "" if not left or mended else "; --repair mends what can be mended"
    )


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage doctor
      ullage doctor --json""",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each finding, one a line.")
def doctor(*, as_json: bool) -> int:
    """
    Say what this machine and this store are like.

    SQLite's version and its known bugs, the filesystem, the journal, the schema with its triggers, the limit
    against the disk, leftovers, libraries. Changes nothing. Exits with 30 when something must be mended.
    """
    with looking(upgrades=False) as service:
        if service is None:
            say("there is no store to look at")
            return 0
        findings = service.doctor()
    for finding in findings:
        if as_json:
            emit_json(finding)
            continue
        emit(f"{finding.level:<4}  {finding.subject}: {finding.text}")
        if finding.hint:
            emit(f"      hint: {finding.hint}")
    return 30 if any(finding.level == "fail" for finding in findings) else 0
