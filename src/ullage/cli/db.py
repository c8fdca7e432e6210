"""
``db``: the database itself, for those who carry a store from one release to another.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ullage.cli.commands import Commands
from ullage.cli.opening import StoreCommand, current_root, root_option, there_is_a_store
from ullage.cli.output import emit, emit_json, say, table
from ullage.cli.progress import changing_schema
from ullage.errors import StoreError
from ullage.sizes import human

if TYPE_CHECKING:
    from ullage.model import Loss, StoreRevision

__all__ = ["backup", "check", "current", "db", "downgrade", "history", "salvage", "snapshot", "upgrade"]

#: Something is wrong, and still is: the exit code of `StoreCorrupt`.
_WRONG: Final = 32

_HOMES: Final = {
    "current": "db",
    "history": "db",
    "upgrade": "db",
    "downgrade": "db",
    "check": "db",
    "backup": "db",
    "snapshot": "db",
    "salvage": "db",
}


@click.group(
    cls=Commands,
    homes=_HOMES,
    epilog="""\b
    Examples:
      ullage db current
      ullage db backup /backups/ullage.db
      ullage db snapshot images.db
      ullage db downgrade 0001""",
)
@root_option
def db() -> None:
    """
    Look after the database of the store.

    A store of an earlier release is upgraded by whatever opens it, with a backup beside it; these commands do the
    same by themselves, and undo it.
    """


_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage db current
      ullage db current --json""",
)
@_json_option
def current(*, as_json: bool) -> None:
    """
    Say at which revision the store is.

    And which revisions this release would bring it to, which releases may read it and write to it, and where its
    backups are. Changes nothing.
    """
    from ullage.releases import current as look  # noqa: PLC0415 -- brings SQLAlchemy, as everywhere in this package

    said = look(_root())
    if as_json:
        emit_json(said)
        return
    emit(f"revision  {said.revision}")
    emit(f"release   {_standing(said)}")
    emit(f"readers   from {said.min_reader:04} on")
    emit(f"writers   from {said.min_writer:04} on")
    for path in said.backups:
        emit(f"backup    {path}")


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage db history
      ullage db history --json""",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each revision, one a line.")
def history(*, as_json: bool) -> None:
    """
    List the revisions of the schema, oldest first.

    With those that the store has and those that are pending. Without a store none is applied.
    """
    from ullage.releases import history as listed  # noqa: PLC0415

    root = current_root()
    notes = listed(root if there_is_a_store(root) else None)
    if as_json:
        for note in notes:
            emit_json(note)
        return
    table(
        ("REVISION", "STATE", "WHAT"),
        [
            (
                note.revision,
                "current" if note.current else "applied" if note.applied else "pending",
                note.what,
            )
            for note in notes
        ],
    )


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage db upgrade
      ullage db upgrade 0002""",
)
@click.argument("revision", metavar="[REV]", required=False)
@_json_option
def upgrade(*, revision: str | None, as_json: bool) -> None:
    """
    Bring the store forward, to the newest revision or to REV.

    In one transaction, with a backup beside the store that is kept until the next upgrade. Earlier releases may not
    write to the store after that, or not read it either: `ullage db current` says which. Harmless when there is
    nothing to do.
    """
    from ullage.releases import forward  # noqa: PLC0415
    from ullage.schema import HEAD_REVISION  # noqa: PLC0415

    target = revision or HEAD_REVISION
    before = forward(_root(), target, on_upgrade=changing_schema())
    if as_json:
        emit_json({"from_revision": before, "to_revision": target})
    else:
        emit(f"at {target}" if before == target else f"{before} -> {target}")


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage db downgrade 0001
      ullage db downgrade 0001 --yes""",
)
@click.argument("revision", metavar="REV")
@click.option("--yes", is_flag=True, help="Give up what the earlier schema has no place for.")
@_json_option
def downgrade(*, revision: str, yes: bool, as_json: bool) -> None:
    """
    Bring the store back to REV, for an earlier release.

    Everything that the earlier schema has a place for is kept. What it has none for is named, and then nothing is done
    without --yes. There is a backup beside the store after that, too. Stop what else uses the store before: whoever
    has it open at the later revision is refused from then on.
    """
    from ullage.releases import back  # noqa: PLC0415

    before, lost = back(_root(), revision, accept_losses=yes, on_upgrade=changing_schema())
    if as_json:
        emit_json({"from_revision": before, "to_revision": revision, "losses": list(lost)})
        return
    emit(f"at {revision}" if before == revision else f"{before} -> {revision}")
    for loss in lost:
        emit(f"lost {_told(loss)}")


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage db check
      ullage check --digests     the files, too""",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each problem, one a line.")
def check(*, as_json: bool) -> int:
    """
    Find what is wrong with the database alone.

    Damage, a schema that is not that of its revision, rows that point nowhere or contradict each other. At any
    revision, and without a look at the files: `ullage check` does that. Exits with 32 when something is wrong.
    """
    from ullage.releases import check as look  # noqa: PLC0415

    found = look(_root())
    for problem in found:
        if as_json:
            emit_json(problem)
        else:
            detail = f" ({problem.detail})" if problem.detail else ""
            emit(f"{problem.invariant}: {problem.problem}: {problem.object}{detail}")
    if not as_json:
        say(f"{len(found)} problem{'' if len(found) == 1 else 's'}" if found else "no problems")
    return _WRONG if found else 0


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage db backup /backups/ullage.db
      ullage db backup backup.db --json""",
)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@_json_option
def backup(*, file: Path, as_json: bool) -> None:
    """
    Copy the database to FILE, as of one moment.

    Beside everything else that uses the store, and whole or not there at all. FILE must not be there yet. The blobs
    are not in it: put back beside them, `ullage check --repair` makes the two agree.
    """
    from ullage.releases import backup as copy  # noqa: PLC0415

    size = copy(_root(), file.absolute())
    if as_json:
        emit_json({"file": str(file), "size": size})
    else:
        emit(f"{file}: {human(size)}")


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage db snapshot /tmp/images.db
      ullage db snapshot - | ssh elsewhere 'cat > images.db'
      sqlite3 /tmp/images.db 'select * from image_listing'""",
)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@_json_option
def snapshot(*, file: Path, force: bool, as_json: bool) -> None:
    """
    Write the database to one file to look at.

    As of one moment, beside everything else that uses the store, without the right to write to it, and whole or not
    there at all. Any sqlite3 shell from 3.37 on opens the file, from anywhere. FILE may be `-` for stdout. To put
    the database back one day, use `ullage db backup`.
    """
    from ullage.releases import snapshot as write  # noqa: PLC0415

    root = _root()
    if str(file) != "-":
        size = write(root, file.absolute(), replace=force)
        if as_json:
            emit_json({"file": str(file), "size": size})
        else:
            emit(f"{file}: {human(size)}")
        return
    if as_json or force:
        raise click.UsageError("- is written to stdout: --json and --force have no place there")
    if sys.stdout.isatty():
        raise click.UsageError("a database is nothing for a terminal: send it to a file or a pipe")
    import shutil  # noqa: PLC0415 -- of this case alone, and more to load than the rest
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="ullage-snapshot-") as directory:
        copied = Path(directory) / "ullage.db"
        write(root, copied)
        with copied.open("rb") as source:
            shutil.copyfileobj(source, sys.stdout.buffer)
    sys.stdout.flush()


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage db salvage
      ullage db salvage --json | python3 -m json.tool""",
)
@click.option("--force", is_flag=True, help="Also where nothing is wrong with the database that is there.")
@_json_option
def salvage(*, force: bool, as_json: bool) -> int:
    """
    Make a damaged or lost database anew.

    Of the manifests under blobs/, each blob hashed before it is believed, and of index.json, which says what the
    images were called; without it they come back nameless. The damaged file is renamed, and nothing is changed where
    it fails. What a host had registered, and the history, do not come back. Exits with 32 when something was lost.
    """
    from ullage.salvage import salvage as restore  # noqa: PLC0415

    said = restore(current_root(), force=force)
    if as_json:
        emit_json(said)
        return _WRONG if said.lost else 0
    for image in said.images:
        names = " ".join((*image.repo_tags, *image.repo_digests)) or "<none>"
        emit(f"recovered {image.image_id}: {human(image.size)}  {names}")
    for what, reason in said.lost:
        emit(f"lost      {what}: {reason}")
    count = len(said.images)
    lost = f"{len(said.lost)} manifests or names lost" if said.lost else "nothing lost"
    say(f"{count} image{'' if count == 1 else 's'} recovered, {lost}")
    if said.names_from is None:
        say("there was no index.json to tell names: `ullage tag IMAGE-ID NAME` gives them new ones")
    if said.unused_count:
        say(
            f"{said.unused_count} files of {human(said.unused_bytes)} belong to no image:"
            " `ullage check --repair` removes them"
        )
    say(f"the limit is {human(said.max_bytes)}: `ullage quota --max` sets another")
    if said.moved_aside:
        say(f"the damaged database is {said.moved_aside} now")
    return _WRONG if said.lost else 0


def _root() -> Path:
    """
    Raises:
        StoreError: there is no store.
    """
    root = current_root()
    if not there_is_a_store(root):
        raise StoreError(
            f"there is no store in {root}", hint="choose another root with --root or ULLAGE_ROOT"
        )
    return root


def _standing(said: StoreRevision) -> str:
    if said.pending:
        return f"works with {said.head}; pending: {' '.join(said.pending)}"
    if said.revision == said.head:
        return f"works with {said.head}"
    may = (
        "may write to it"
        if said.may_write
        else "may only look at it"
        if said.may_read
        else "may not look at it"
    )
    return f"works with {said.head}, and {may}"


def _told(loss: Loss) -> str:
    return f"{loss.count} {loss.what}" + (f": {human(loss.size)}" if loss.size else "")
