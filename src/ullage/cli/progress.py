"""
How far a pull is: bars on a terminal, a few lines in a pipe.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ullage.cli.output import say, short
from ullage.sizes import human

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, TaskID

    from ullage.delivery import PushProgress
    from ullage.model import ImageStatus, PullProgress, UpgradeCallback, UpgradeProgress

__all__ = ["changing_schema", "progress"]

#: In a pipe: how often a blob that takes long says how far it is.
_EVERY_SECONDS: Final = 5.0
#: `PullStatus.EXTRACTING`, which is not loaded for it.
_EXTRACTING: Final = "extracting"


class Shown:
    """
    What is shown of one pull. Called with each step; by itself it shows nothing.
    """

    def __init__(self, image: str) -> None:
        self.image = image
        self._last: PullProgress | PushProgress | None = None

    def __call__(self, step: PullProgress | PushProgress) -> None:
        self._last = step

    def summary(self, status: ImageStatus) -> str:
        """
        One line when it is done.
        """
        if self._last is None:
            return f"{self.image}: {short(status.image_id)} is here, nothing was asked of the registry"
        fetched, present = self._last.total_bytes, self._last.present_bytes
        if not fetched:
            return f"{self.image}: {short(status.image_id)} is here and up to date"
        here = f", {human(present)} of it was here" if present else ""
        return f"{self.image}: {human(status.size)}{here}, {human(fetched)} fetched"


class _Lines(Shown):
    """
    One line for each blob when it is here, and one every few seconds while nothing else happens.
    """

    def __init__(self, image: str, doing: str) -> None:
        super().__init__(image)
        self._doing = doing
        self._here: set[str] = set()
        self._unpacks = False
        self._said_at = time.monotonic()

    def __call__(self, step: PullProgress | PushProgress) -> None:
        if self._last is None:
            say(f"{self.image}: {self._doing}")
        self._last = step
        now = time.monotonic()
        if _unpacks(step) and not self._unpacks:
            self._unpacks = True
            say("  unpacking")
        if step.blob is None or self._unpacks:
            return
        if step.blob_done_bytes == step.blob_total_bytes:
            if step.blob not in self._here:
                self._here.add(step.blob)
                self._said_at = now
                say(f"  {short(step.blob)}: {human(step.blob_total_bytes)}")
        elif now - self._said_at >= _EVERY_SECONDS:
            self._said_at = now
            say(f"  {human(step.done_bytes)} of {human(step.total_bytes)}")


class _Bars(Shown):
    """
    A bar for each blob while it comes in, and one for all of them.
    """

    def __init__(self, image: str, bars: Progress) -> None:
        super().__init__(image)
        self._bars = bars
        self._all: TaskID | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: PullProgress | PushProgress) -> None:
        self._last = step
        if self._all is None:
            self._all = self._bars.add_task(self.image, total=None)
        if step.total_bytes:
            self._bars.update(self._all, total=step.total_bytes, completed=step.done_bytes)
        if step.blob is None:
            return
        what = f"  {'unpacking ' if _unpacks(step) else ''}{short(step.blob)}"
        task = self._tasks.get(what)
        if task is None:
            task = self._bars.add_task(what, total=step.blob_total_bytes)
            self._tasks[what] = task
        # What is here makes room: an image may have more layers than the terminal has lines.
        self._bars.update(
            task, completed=step.blob_done_bytes, visible=step.blob_done_bytes < step.blob_total_bytes
        )


@contextmanager
def progress(image: str, *, quiet: bool, doing: str = "pulling") -> Iterator[Shown]:
    """
    Show on stderr how far the pull of *image* is, or what else is done with it, for as long as the block runs.
    """
    if quiet:
        yield Shown(image)
    elif not _is_terminal():
        yield _Lines(image, doing)
    else:
        with _bars() as bars:
            yield _Bars(image, bars)


def changing_schema() -> UpgradeCallback:
    """
    Says on stderr how far an upgrade is: a line for each stage, and while one takes long, now and then one more.
    """
    return _Schema()


class _Schema:
    def __init__(self) -> None:
        self._stage = ""
        self._said_at = time.monotonic()

    def __call__(self, step: UpgradeProgress) -> None:
        now = time.monotonic()
        if step.stage == "done":
            say(f"the store is at revision {step.to_revision} after {step.elapsed_seconds:.1f} s")
        elif step.stage != self._stage:
            self._stage = step.stage
            self._said_at = now
            say(
                f"the store is at revision {step.from_revision}: making a backup before it goes to {step.to_revision}"
                if step.stage == "backup"
                else "changing the schema"
            )
        elif now - self._said_at >= _EVERY_SECONDS:
            self._said_at = now
            of = f" of {human(step.total_bytes)}" if step.total_bytes else ""
            say(f"  {human(step.written_bytes)}{of} written, {step.elapsed_seconds:.0f} s")


def _unpacks(step: PullProgress | PushProgress) -> bool:
    status = getattr(step, "status", None)  # a push has none
    return status is not None and status.value == _EXTRACTING


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


def _bars() -> Any:  # noqa: ANN401 -- rich is imported by whoever has a terminal
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
