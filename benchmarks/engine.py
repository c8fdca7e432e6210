"""
What the engine costs beside SQLite alone, which runs the same statements: `make bench`.

Stores of 10, 1,000, 10,000 and 100,000 images, the last of a million blobs. Processor time is what is measured: what a
flush waits for is the disk's business.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import secrets
import shutil
import sqlite3
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filled import BLOBS_EACH, filled, name_of
from micro import Micro, Operation, human_seconds
from ratios import scratch
from sqlalchemy import event

from ullage import Digest, ImageService, Reference
from ullage.repository import Edge, Naming, NewImage, Owner
from ullage.repository.lookup import BY_TAG
from ullage.repository.rows import image_status

if TYPE_CHECKING:
    from collections.abc import Callable

#: No files are here, and none are looked for.
_SIZE = 3_000_000


class Statements:
    """
    What a call ran, to be run again by SQLite alone.

    Those of writes come with their parameters, by SQLAlchemy's word; those of reads as SQLite saw them.
    """

    def __init__(self, store: ImageService, call: Callable[[], object]) -> None:
        self.statements: list[tuple[str, Any]] = []
        database = store._database
        with ExitStack() as stack:
            # The same connection serves each read of one thread.
            driver = database._glances.take()
            database._glances.give(driver)
            driver.set_trace_callback(self._seen)
            stack.callback(driver.set_trace_callback, None)
            event.listen(database._writer, "before_cursor_execute", self._heard)
            stack.callback(event.remove, database._writer, "before_cursor_execute", self._heard)
            call()

    def _seen(self, statement: str) -> None:
        if not statement.startswith("--") and statement != "COMMIT":
            self.statements.append((statement, ()))

    def _heard(
        self, _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> None:
        self.statements.append((statement, parameters))

    def by(self, connection: sqlite3.Connection, *, end: str = "COMMIT") -> Callable[[], None]:
        execute, statements = connection.execute, self.statements

        def run() -> None:
            for statement, parameters in statements:
                if statement.startswith("BEGIN") and connection.in_transaction:
                    execute(end)
                with contextlib.suppress(sqlite3.IntegrityError):  # a refusal, after which room is made
                    execute(statement, parameters).fetchall()
            execute(end)

        return run


class Bench:
    """
    One store, open twice: by us, and by SQLite alone with the same settings.
    """

    def __init__(self, root: Path, images: int, micro: Micro, stack: ExitStack) -> None:
        self.images = images
        self.micro = micro
        self.root = root
        self.store = stack.enter_context(ImageService.open(root))
        self.raw = stack.enter_context(
            contextlib.closing(
                sqlite3.connect(root / "ullage.db", isolation_level=None, cached_statements=256)
            )
        )
        for pragma in ("foreign_keys = ON", "synchronous = FULL", "wal_autocheckpoint = 0"):
            self.raw.execute(f"PRAGMA {pragma}")
        self.name = name_of(images // 2)

    def pair(
        self,
        what: str,
        call: Callable[[], object],
        undo: Callable[[], object] | None = None,
        *,
        calls: int = 200,
        target: float | None = None,
        end: str = "COMMIT",
    ) -> None:
        """
        *call* beside its own statements.
        """
        call()  # a store that was just opened has everything to prepare
        if undo is not None:
            undo()
        recorded = Statements(self.store, call)
        if undo is not None:
            undo()
        self.micro.pair(
            f"{what}, {self.images:,} images",
            Operation("ours", call, undo),
            Operation("sqlite3", recorded.by(self.raw, end=end), undo),
            calls=calls,
            target_seconds=target,
        )

    # ------------------------------------------------------------------ looking

    def looking(self) -> None:
        store, name = self.store, self.name
        image_id = store.image_status(name).image_id
        store.pull_image(name)  # notes the use, which it does once a minute
        self.pair("known pull", lambda: store.pull_image(name), target=200e-6)
        self.pair("status by reference", lambda: store.image_status(name), target=100e-6)
        self.pair("status by row", lambda: store.image_status(self.images // 2), target=100e-6)
        self.pair("status by id", lambda: store.image_status(image_id), target=100e-6)
        self.pair("usage", store.usage, target=100e-6)
        if self.images <= 10_000:
            self.pair(
                "list",
                store.list_images,
                calls=max(2, 2_000 // self.images),
                target=100e-3 if self.images == 10_000 else None,
            )

    # ------------------------------------------------------------------ a pull's two transactions

    def pulling(self) -> None:
        repository, files = self.store._repository, self.store._files
        token = secrets.token_hex(16)
        owner = Owner(token, "benchmark", os.getpid())
        digests = [Digest(f"sha256:{secrets.token_hex(32)}") for _ in range(BLOBS_EACH)]
        wanted = dict.fromkeys(digests, _SIZE)
        repo = "registry.example/new"
        naming = Naming(repo, "1", "", repo, f"{repo}:1", digests[0], None)
        roles = ["manifest", "config", *["layer"] * (BLOBS_EACH - 2)]
        edges = tuple(
            Edge(digest, _SIZE, role, f"application/{role}")
            for digest, role in zip(digests, roles, strict=True)
        )
        image = NewImage(digests[1], digests[0], "application/manifest", edges, "linux/amd64", config="{}")

        def admit(**options: Any) -> None:
            repository.admit(owner, f"{repo}:1", wanted, files, **options)

        def complete() -> None:
            repository.complete(token, digests, image, naming)

        def remove() -> None:
            repository.remove(f"{repo}:1")

        def sweep() -> None:
            repository.sweep(_nothing, 10_000)
            self._same_ids_again()

        def give_back() -> None:
            repository.end(token, dict.fromkeys(digests, 0))
            self._same_ids_again()

        million = self.images == 100_000
        self._remember_ids()
        self.pair("admission of 12 blobs", admit, give_back, target=1e-3 if million else None, calls=80)
        admit()
        self.pair("completion of 12 blobs", complete, _one_after_the_other(remove, sweep, admit), calls=80)
        complete()
        self.pair("removal of 12 blobs", remove, _one_after_the_other(sweep, admit, complete), calls=80)
        remove()
        self.pair(
            "sweep of 12 blobs",
            lambda: repository.sweep(_nothing, 10_000),
            _one_after_the_other(self._same_ids_again, admit, complete, remove),
            calls=80,
        )
        sweep()
        # What is undone by the same transaction, rolled back.
        limit = self.store.usage().used_bytes
        self.store.set_max_storage(limit)
        self.pair(
            "admission that evicts two images",
            lambda: repository.rehearse(owner, f"{repo}:1", wanted, files, evict=True),
            calls=50,
            end="ROLLBACK",
        )
        self.store.set_max_storage(1 << 60)
        self.pair(
            "collection of nothing", lambda: repository.collect(None, _nothing, dry_run=True), end="ROLLBACK"
        )

    def _remember_ids(self) -> None:
        self._ids = self.raw.execute("SELECT name, seq FROM sqlite_sequence").fetchall()

    def _same_ids_again(self) -> None:
        """
        So that the statements that were recorded mean the same in each turn.
        """
        self.raw.execute("DELETE FROM sqlite_sequence")
        self.raw.executemany("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", self._ids)

    # ------------------------------------------------------------------ what each layer of code adds

    def layers(self) -> None:
        """
        Status by reference, once more by each layer: what it costs above the one below it.
        """
        store, database = self.store, self.store._database
        reference = Reference.parse(self.name)
        parameters = {"reference": str(reference)}
        recorded = Statements(store, lambda: store.image_status(self.name))
        select = [each for each in recorded.statements if each[0].startswith("SELECT")]

        def statement() -> None:
            for sql, values in select:
                self.raw.execute(sql, values).fetchall()

        floor = Operation("the statement", statement)

        def core() -> None:
            with database.read() as connection:
                connection.exec_driver_sql(BY_TAG, parameters).first()

        def glance() -> None:
            with database.glance() as snapshot:
                snapshot.exec_driver_sql(BY_TAG, parameters).first()

        def value() -> None:
            with database.glance() as snapshot:
                image_status(snapshot.exec_driver_sql(BY_TAG, parameters).first())

        for what, call in (
            ("… in BEGIN and COMMIT", recorded.by(self.raw)),
            ("… through SQLAlchemy, its pool and its events", core),
            ("… past SQLAlchemy, from its pool", glance),
            ("… as a dataclass", value),
            ("… of the repository", lambda: store._repository.find(self.name)),
            ("… of the service: status by reference", lambda: store.image_status(self.name)),
        ):
            self.micro.pair(f"{what}, {self.images:,} images", Operation("ours", call), floor)

    def opening(self) -> None:
        def ours() -> None:
            ImageService.open(self.root).close()

        def floor() -> None:
            connection = sqlite3.connect(self.root / "ullage.db", isolation_level=None)
            connection.execute("SELECT version_num FROM alembic_version").fetchall()
            connection.close()

        self.micro.pair(
            f"open and close, {self.images:,} images",
            Operation("ours", ours),
            Operation("sqlite3", floor),
            calls=20,
        )


def _nothing(_digests: object) -> None:
    pass


def _one_after_the_other(*calls: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for call in calls:
            call()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, action="append", help="sizes of stores, in images")
    parser.add_argument("--directory", type=Path, help="where the stores go (default: TMPDIR, else memory)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    sizes = asked.images or [10, 1_000, 10_000, 100_000]
    directory = asked.directory or scratch()
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory, prefix="ullage-bench-")))
        micro = stack.enter_context(
            Micro("the engine, beside sqlite3 with the same statements", pairs=asked.pairs, directory=base)
        )
        for images in sizes:
            root = filled(base / f"of-{images}", images)
            with ExitStack() as inner:
                bench = Bench(root, images, micro, inner)
                bench.looking()
                bench.pulling()
                bench.layers()
            bench.opening()
            shutil.rmtree(root)
        growth(micro)
        if asked.json:
            micro.write(asked.json)


def growth(micro: Micro) -> None:
    """
    How the time of one call grows with the images: 0 is not at all, 1 in proportion.
    """
    sizes: dict[str, list[tuple[int, float]]] = {}
    for row in micro.rows:
        what, _, images = row.what.rpartition(", ")
        sizes.setdefault(what, []).append((int(images.split()[0].replace(",", "")), row.ours_seconds))
    print("\n| growth with the number of images | exponent | of |\n|---|---:|---|")
    for what, points in sizes.items():
        if len(points) > 1 and not what.startswith("…"):
            (few, first), (many, last) = points[0], points[-1]
            exponent = math.log(last / first) / math.log(many / few)
            curve = ", ".join(f"{images:,}: {human_seconds(seconds)}" for images, seconds in points)
            print(f"| {what} | {exponent:.2f} | {curve} |")


if __name__ == "__main__":
    main()
