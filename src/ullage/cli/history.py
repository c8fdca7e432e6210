"""
``history``: what happened to the images and their names, when, and by whom.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from ullage.cli.opening import StoreCommand, looking
from ullage.cli.output import ago, emit_json, short, table
from ullage.cli.storage import Age
from ullage.sizes import human

if TYPE_CHECKING:
    from ullage.events import HistoryEntry

__all__ = ["history"]


class _Since(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on only
    """
    A point in time: how long ago, or a date with or without a time of day.
    """

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: ANN401
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            pass  # then it is a length of time
        try:
            age: timedelta = Age().convert(value, param, ctx)
            return datetime.now(UTC) - age
        except (click.UsageError, OverflowError):
            self.fail(f"not a time: {value}: 90s, 12h, 30d, 2026-12-31 and 2026-12-31T18:00 are", param, ctx)


@click.command(
    cls=StoreCommand,
    epilog="""\b
    Examples:
      ullage history
      ullage history alpine:3.20 --since 30d     where that tag has been
      ullage history 4bcff63911fc                of an image, even if it is gone
      sqlite3 ROOT/ullage.db 'select * from history_listing'   the same""",
)
@click.argument("image", required=False)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="At most so many lines, the newest. Default: 50; with --json all.",
)
@click.option(
    "--since",
    type=_Since(),
    metavar="TIME",
    help="Only what happened after this: how long ago (90s, 12h, 30d) or a date (2026-12-31, "
    "2026-12-31T18:00; local time, unless it says Z or +01:00).",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each line, one a line.")
@click.option("--no-trunc", is_flag=True, help="Show ids in full, and times to the second, in UTC.")
def history(
    *, image: str | None, limit: int | None, since: datetime | None, as_json: bool, no_trunc: bool
) -> None:
    """
    Show what happened, when, and by whom, newest first.

    Pulls, tags that moved, removals, evictions, repairs; and pulls and unpackings that failed.

    With IMAGE, what happened under that name and to the image that it denotes; the first digits of an image id
    find images that are gone, too. Each line says when, what, by whom, how many bytes came over the network and
    from which host, or how many were freed. The store keeps the last 10000 facts of a year.
    """
    if limit is None and not as_json:
        limit = 50
    with looking() as service:
        found = [] if service is None else service.history(image, since=since, limit=limit)
    if as_json:
        for entry in found:
            emit_json(entry)
    else:
        _print(found, full=no_trunc)


def _print(found: list[HistoryEntry], *, full: bool) -> None:
    now = datetime.now(UTC)
    table(
        ("WHEN", "EVENT", "REFERENCE", "IMAGE ID", "BYTES", "DETAIL", "BY"),
        [
            (
                f"{entry.at:%Y-%m-%d %H:%M:%S}" if full else ago(entry.at, now),
                entry.event,
                _familiar(entry.reference, full=full),
                _shown(entry.image_id, full=full),
                _bytes(entry),
                _detail(entry, full=full),
                "sqlite3 shell" if entry.owner is None else f"{entry.owner} (pid {entry.pid})",
            )
            for entry in found
        ],
    )


def _familiar(references: str | None, *, full: bool) -> str:
    from ullage.errors import InvalidReference  # noqa: PLC0415
    from ullage.reference import Reference  # noqa: PLC0415

    names = []
    for name in (references or "").split():
        try:
            reference = Reference.parse(name)
        except InvalidReference:
            names.append(name)  # cut short, or typed at the shell: as it stands there
            continue
        if reference.digest is None or full:
            names.append(reference.familiar)
        else:
            names.append(f"{reference.familiar_name}@{reference.digest.algorithm}:{short(reference.digest)}")
    return " ".join(names)


def _shown(image_id: str | None, *, full: bool) -> str:
    return "" if image_id is None else image_id if full else short(image_id)


def _bytes(entry: HistoryEntry) -> str:
    if entry.received_bytes is not None:
        came = f" from {' '.join(entry.hosts)}" if entry.hosts else " received"
        return f"{human(entry.received_bytes)}{came}"
    return "" if entry.freed_bytes is None else f"{human(entry.freed_bytes)} freed"


def _detail(entry: HistoryEntry, *, full: bool) -> str:
    if entry.previous_image_id is not None:
        return f"was {_shown(entry.previous_image_id, full=full)}"
    return entry.detail or ""
