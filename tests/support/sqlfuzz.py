"""
Hostile hands: `Typist` makes random statements out of a seed and of the store's own values, `fuzz` types them at a
database while an `Oracle` looks on.

What a typist never writes is a forgery on purpose: ``ledger + 1``, ``ended_token = token``, a status ``complete``, and
the states ``filled``, ``arrived``, ``swept`` and ``discarded``, which say what became of a file or of a lock. Its other half, the
owner, says those things when they are true.
"""

# ruff: noqa: E501, ISC004 -- SQL reads by its lines, and is put together from pieces

from __future__ import annotations

import random
import re
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.oracle import TABLES, Oracle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_OR = ("", "", "", " OR REPLACE", " OR REPLACE", " OR IGNORE", " OR FAIL", " OR ABORT", " OR ROLLBACK")
_HOSTILE = (
    "NULL",
    "-1",
    "0",
    "1",
    "2",
    "9223372036854775807",
    "-9223372036854775808",
    "1152921504606846977",
    "1.5",
    "''",
    "'x'",
    "x'00'",
    "char(0)",
    "'ready'",
    "'doomed'",
    "'partial'",
    "'0001-01-01T00:00:00.000000Z'",
    "'2026-02-30T00:00:00.000000Z'",
    "'docker.io/library/typed:1'",
)
_KEYS = {
    "store": ("one",),
    "images": ("id", "image_id"),
    "manifests": ("id", "digest"),
    "blobs": ("id", "digest"),
    "manifest_blobs": ("manifest_id, position",),
    "repo_tags": ("id", "reference"),
    "repo_digests": ("id", "reference"),
    "leases": ("id", "token"),
    "lease_blobs": ("lease_id, blob_id",),
    "lease_images": ("lease_id, image_id",),
    "ingests": ("id", "digest"),
    "trees": ("id", "chain_id"),
    "manifest_trees": ("manifest_id, position",),
    "lease_trees": ("lease_id, tree_id",),
    "tree_ingests": ("id", "chain_id"),
    "history": ("id",),
    "acting": ("one",),
    "blob_sources": ("blob_id",),
    "access": ("image_id, repo, credential",),
}
# Said on purpose, and so never said by chance.
_FORGED = {
    ("store", "ledger"): ("NULL", "0", "ledger", "ledger + 2", "ledger - 1"),
    ("leases", "ended_token"): ("NULL", "''", "'x'", "owner"),
}
_WORDS = {
    "state": ("'ready'", "'doomed'", "'partial'", "NULL"),
    "role": ("'manifest'", "'config'", "'layer'", "'index'"),
    "status": ("'pending'", "'extracting'", "'failed'"),
    "purpose": ("'pull'", "'hold'"),
    "event": ("'pulled'", "'evicted'", "'moved'", "NULL"),
    "referenced": ("0", "1", "NULL", "1 - referenced"),
    "complete": ("0", "1", "NULL", "1 - complete"),
    "id": ("9223372036854775807", "-1", "id + 1", "id - 1", "1", "NULL", "1.0"),
}
# How often a table has its turn; one that is not here, once.
_OFTEN = {
    "store": 2,
    "images": 3,
    "manifests": 3,
    "blobs": 4,
    "manifest_blobs": 3,
    "repo_tags": 3,
    "repo_digests": 2,
    "leases": 2,
    "lease_blobs": 2,
    "lease_images": 2,
    "ingests": 4,
    "trees": 4,
    "manifest_trees": 2,
    "lease_trees": 2,
    "tree_ingests": 3,
}
_NEVER_COPIED = ("token", "ledger")
_SAID = frozenset({"filled", "arrived", "swept", "discarded", "complete"})


class Typist:
    """
    Random statements, and the owner's honest ones between them. The same seed types the same. *focus* is a table that
    gets more than its share.
    """

    def __init__(self, seed: int, connection: sqlite3.Connection, *, focus: str | None = None) -> None:
        self._focus = focus
        self._random = random.Random(seed)
        self._connection = connection
        self._columns = {
            table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")] for table in TABLES
        }
        self._number = 0

    def statement(self) -> str:
        """
        The next thing to type.
        """
        self._number += 1
        make: Callable[[], str] = self._random.choices(
            (
                self._update,
                self._insert_changed,
                self._insert_values,
                self._delete,
                self._honest,
                self._transaction,
            ),
            weights=(34, 24, 8, 10, 18, 6),
        )[0]
        return make()

    # ------------------------------------------------------------------ parts

    def _table(self) -> str:
        if self._focus is not None and self._random.random() < 0.7:
            return self._focus
        return self._random.choices(TABLES, weights=[_OFTEN.get(table, 1) for table in TABLES])[0]

    def _value(self, table: str, column: str) -> str:
        if (table, column) in _FORGED:
            return self._random.choice(_FORGED[table, column])
        if column in _WORDS and self._random.random() < 0.7:
            return self._random.choice(_WORDS[column])
        make = self._random.choices(
            (self._own, self._hostile, self._other_column, self._shifted, self._from_elsewhere, self._odd),
            weights=(35, 25, 10, 10, 10, 10),
        )[0]
        return make(table, column)

    def _hostile(self, _table: str, _column: str) -> str:
        return self._random.choice(_HOSTILE)

    def _other_column(self, table: str, _column: str) -> str:
        other = self._random.choice(self._columns[table])
        return "NULL" if other in _NEVER_COPIED else other

    def _shifted(self, _table: str, column: str) -> str:
        return f"{column} {self._random.choice('+-')} {self._random.choice((1, 1, 100, 1 << 50))}"

    def _from_elsewhere(self, _table: str, _column: str) -> str:
        table = self._table()
        column = self._random.choice(self._columns[table])
        if column in _NEVER_COPIED:
            return "NULL"
        return f"(SELECT {self._random.choice(('min', 'max'))}({column}) FROM {table})"

    def _odd(self, _table: str, column: str) -> str:
        return f"{column} || char(0)" if self._random.random() < 0.5 else self._fresh(column)

    def _own(self, table: str, column: str) -> str:
        rows = self._connection.execute(
            f"SELECT DISTINCT quote({column}) FROM {table} ORDER BY 1 LIMIT 12"
        ).fetchall()
        values = [value for (value,) in rows if value.strip("'") not in _SAID]
        return self._random.choice(values) if values else "NULL"

    def _fresh(self, column: str) -> str:
        digits = f"{self._random.getrandbits(128):032x}"
        if column in ("digest", "image_id", "chain_id"):
            return f"'sha256:{digits * 2}'"
        return f"'{digits}'" if column == "token" else str(self._random.randrange(100_000))

    def _where(self, table: str) -> str:
        kind = self._random.random()
        if kind < 0.25:
            return ""
        key = self._columns[table][0]
        if kind < 0.55:
            return f" WHERE {key} IS {self._own(table, key)}"
        column = self._random.choice(self._columns[table])
        if kind < 0.8:
            return f" WHERE {column} IS {self._own(table, column)}"
        return f" WHERE {key} {self._random.choice(('<=', '>=', '<>'))} {self._own(table, key)}"

    def _alias(self, table: str, column: str) -> str:
        return (
            self._random.choice(("rowid", "oid", "_rowid_"))
            if column == "id" and self._random.random() < 0.5
            else column
        )

    # ------------------------------------------------------------------ statements

    def _update(self) -> str:
        table = self._table()
        columns = self._random.sample(
            self._columns[table], k=min(len(self._columns[table]), self._random.choice((1, 1, 1, 2, 2, 3)))
        )
        if table == "ingests" and "received_bytes" in columns and self._random.random() < 0.7:
            columns = list({*columns, "reserved_bytes"})
        changes = ", ".join(
            f"{self._alias(table, column)} = {self._value(table, column)}" for column in columns
        )
        head = self._random.choice(("", "", "", "WITH w AS (SELECT 1) "))
        source = self._random.choice(("", "", "", "", " FROM (SELECT 1 UNION SELECT 2)"))
        return f"{head}UPDATE{self._random.choice(_OR)} {table} SET {changes}{source}{self._where(table)}"

    def _insert_changed(self) -> str:
        """
        A row that is here already, but for a column or two.
        """
        table = self._table()
        columns = list(self._columns[table])
        left_out = {"id"} if self._random.random() < 0.6 else set()
        if self._random.random() < 0.3:
            left_out.add(self._random.choice(columns))
        columns = [column for column in columns if column not in left_out]
        changed = self._random.sample(columns, k=min(len(columns), self._random.choice((0, 0, 1, 1, 2, 3))))
        values = ", ".join(self._value(table, c) if c in changed else _copied(table, c) for c in columns)
        verb = self._random.choice(("REPLACE", *(f"INSERT{clause}" for clause in _OR)))
        names = ", ".join(self._alias(table, column) for column in columns)
        text = f"{verb} INTO {table} ({names}) SELECT {values} FROM {table}{self._where(table)}"
        return text + self._upsert(table) if verb == "INSERT" else text

    def _upsert(self, table: str) -> str:
        kind = self._random.random()
        if kind < 0.5:
            return ""
        target = self._random.choice(_KEYS[table])
        if kind < 0.65:
            return f" ON CONFLICT ({target}) DO NOTHING"
        column = self._random.choice(self._columns[table])
        value = (
            self._value(table, column)
            if self._random.random() < 0.5 or (table, column) in _FORGED
            else f"excluded.{column}"
        )
        if column == "ended_token" or value == "excluded.token":
            value = "NULL"
        return f" ON CONFLICT ({target}) DO UPDATE SET {column} = {value}"

    def _insert_values(self) -> str:
        table = self._table()
        columns = self._columns[table]
        rows = ", ".join(
            f"({', '.join('NULL' if c == 'id' else self._literal(table, c) for c in columns)})"
            for _ in range(self._random.choice((1, 1, 2)))
        )
        return f"INSERT{self._random.choice(_OR)} INTO {table} ({', '.join(columns)}) VALUES {rows}"

    def _literal(self, table: str, column: str) -> str:
        if (table, column) == ("store", "ledger"):
            return "0"
        if (table, column) == ("leases", "ended_token"):
            return "NULL"
        pick = self._random.random()
        if pick < 0.6:
            return self._own(table, column)
        return self._fresh(column) if pick < 0.85 else self._random.choice(_HOSTILE)

    def _delete(self) -> str:
        table = self._table()
        return f"DELETE FROM {table}{self._where(table)}"

    def _transaction(self) -> str:
        return self._random.choice(
            (
                "BEGIN",
                "BEGIN IMMEDIATE",
                "COMMIT",
                "COMMIT",
                "ROLLBACK",
                "SAVEPOINT s",
                "RELEASE s",
                "ROLLBACK TO s",
            )
        )

    def _honest(self) -> str:
        """
        What a person may do: it moves the store on, so that what follows meets another one.
        """
        digest, token = self._fresh("digest"), self._fresh("token")
        now = "(SELECT created_at FROM store)"
        size = self._random.choice((0, 1, 1_000, 15_000))
        tag = f"'docker.io/library/t{self._random.randrange(6)}:1'"
        number, value = self._random.choice((("", ""), ("id, ", f"{1 << 62}, "), ("id, ", "-1, ")))
        return self._random.choice(
            (
                f"INSERT INTO leases ({number}token, purpose, owner, pid, created_at) VALUES ({value}{token}, 'pull', 'typed', 1, {now})",
                f"INSERT INTO ingests ({number}digest, size, lease_id, reserved_bytes, created_at)"
                f" SELECT {value}{digest}, {size}, max(id), {size}, {now} FROM leases",
                "UPDATE ingests SET lease_id = (SELECT max(id) FROM leases), reserved_bytes = size WHERE lease_id IS NULL",
                f"UPDATE ingests SET received_bytes = min(size, received_bytes + {size}) WHERE lease_id IS NOT NULL",
                "INSERT OR IGNORE INTO lease_blobs SELECT max(l.id), max(b.id) FROM leases AS l, blobs AS b WHERE b.state = 'ready'",
                f"INSERT INTO tree_ingests ({number}chain_id, lease_id, reserved_bytes, reserved_inodes, created_at)"
                f" SELECT {value}{digest}, max(id), {size}, {size % 7}, {now} FROM leases",
                f"UPDATE tree_ingests SET reserved_bytes = reserved_bytes + {size}, reserved_inodes = reserved_inodes + 1"
                " WHERE lease_id IS NOT NULL",
                "INSERT OR IGNORE INTO lease_trees SELECT max(l.id), max(t.id) FROM leases AS l, trees AS t WHERE t.state = 'ready'",
                "UPDATE trees SET state = 'doomed' WHERE referenced = 0 AND id NOT IN (SELECT tree_id FROM lease_trees)",
                "UPDATE trees SET state = 'ready' WHERE state = 'doomed'",
                "DELETE FROM manifest_trees WHERE manifest_id = (SELECT max(m.id) FROM manifests AS m"
                " WHERE m.image_id NOT IN (SELECT image_id FROM lease_images))",
                "INSERT OR IGNORE INTO lease_images SELECT max(l.id), min(i.id) FROM leases AS l, images AS i",
                "UPDATE blobs SET state = 'doomed' WHERE referenced = 0 AND id NOT IN (SELECT blob_id FROM lease_blobs)",
                "UPDATE blobs SET state = 'ready' WHERE state = 'doomed'",
                "UPDATE blobs SET state = 'ready' WHERE id = (SELECT max(id) FROM blobs WHERE state = 'doomed')",
                f"INSERT INTO repo_tags ({number}reference, image_id, manifest_id, digest, updated_at)"
                f" SELECT {value}{tag}, image_id, id, digest, created_at FROM manifests ORDER BY id % {self._random.randrange(2, 6)} LIMIT 1",
                f"INSERT INTO images ({number}image_id, size, registered_bytes, spec_image_name, pulled_at, last_used_at)"
                f" VALUES ({value}{digest}, {size}, {size}, 'typed', {now}, {now})",
                "DELETE FROM images WHERE id = (SELECT max(id) FROM images WHERE id NOT IN (SELECT image_id FROM lease_images))",
                "DELETE FROM repo_tags WHERE id = (SELECT max(id) FROM repo_tags)",
                f"UPDATE store SET max_bytes = max_bytes + {self._random.choice((-20_000, -1, 1, 20_000))}",
                "UPDATE store SET max_bytes = blob_bytes + tree_bytes + registered_bytes + reserved_bytes + 5000",
                "UPDATE images SET pinned = 1 - pinned",
            )
        )

    # ------------------------------------------------------------------ the owner

    def owner(self) -> Sequence[str]:
        """
        What the owner of a lock or of a file says when it is true: one transaction, after which the facts are others.
        """
        digest = self._fresh("digest")
        return self._random.choice(
            (
                ("UPDATE blobs SET state = 'swept' WHERE state = 'doomed'",),
                ("UPDATE ingests SET state = 'discarded' WHERE lease_id IS NULL",),
                ("UPDATE trees SET state = 'swept' WHERE state = 'doomed'",),
                ("UPDATE tree_ingests SET state = 'discarded' WHERE lease_id IS NULL",),
                self._unpack(digest),
                (
                    "UPDATE leases SET ended_token = token WHERE id = (SELECT max(id) FROM leases WHERE owner <> 'alive')",
                ),
                self._publish(digest),
                (*self._publish(digest), *self._complete(digest)),
            )
        )

    @staticmethod
    def _publish(digest: str) -> Sequence[str]:
        live = "(SELECT id FROM leases WHERE owner = 'alive')"
        now = "(SELECT created_at FROM store)"
        return (
            "INSERT INTO ingests (digest, size, lease_id, reserved_bytes, created_at)"
            f" VALUES ({digest}, 70, {live}, 70, {now})",
            f"UPDATE ingests SET received_bytes = size, state = 'arrived' WHERE digest = {digest}",
            f"INSERT INTO blobs (digest, size, created_at) SELECT digest, size, {now} FROM ingests WHERE digest = {digest}",
        )

    @staticmethod
    def _unpack(chain_id: str) -> Sequence[str]:
        """
        A tree, and an image that stacks on it.
        """
        live = "(SELECT id FROM leases WHERE owner = 'alive')"
        now = "(SELECT created_at FROM store)"
        return (
            "INSERT INTO tree_ingests (chain_id, lease_id, reserved_bytes, reserved_inodes, created_at)"
            f" VALUES ({chain_id}, {live}, 8192, 2, {now})",
            f"UPDATE tree_ingests SET state = 'arrived' WHERE chain_id = {chain_id}",
            "INSERT INTO trees (chain_id, diff_id, space_bytes, inodes, created_at)"
            f" SELECT chain_id, chain_id, 4096, 1, {now} FROM tree_ingests WHERE chain_id = {chain_id}",
            "UPDATE leases SET status = 'complete' WHERE owner = 'alive'",
            "INSERT INTO manifest_trees SELECT m.id, t.id, t.id FROM trees AS t, (SELECT min(id) AS id FROM manifests) AS m"
            f" WHERE t.chain_id = {chain_id} AND m.id IS NOT NULL",
            "UPDATE leases SET status = 'extracting' WHERE owner = 'alive'",
        )

    @staticmethod
    def _complete(digest: str) -> Sequence[str]:
        """
        An image of one blob that is its own manifest and its own config, as an artifact may be.
        """
        now = "(SELECT created_at FROM store)"
        edge = "INSERT INTO manifest_blobs SELECT m.id, {0}, b.id, '{1}', 'x' FROM manifests AS m JOIN blobs AS b USING (digest)"
        return (
            "UPDATE leases SET status = 'complete' WHERE owner = 'alive'",
            "INSERT INTO images (image_id, spec_image_name, pulled_at, last_used_at)"
            f" VALUES ({digest}, 'made', {now}, {now})",
            "INSERT INTO manifests (digest, image_id, media_type, created_at)"
            f" SELECT image_id, id, 'x', {now} FROM images WHERE image_id = {digest}",
            *(
                f"{edge.format(at, role)} WHERE digest = {digest}"
                for at, role in enumerate(("manifest", "config"))
            ),
            f"UPDATE manifests SET complete = 1 WHERE digest = {digest}",
            f"INSERT INTO manifest_blobs SELECT m.id, 2, 1, 'index', 'x' FROM manifests AS m WHERE digest = {digest}"
            " AND 1 IN (SELECT blob_id FROM lease_blobs)",
            "UPDATE leases SET status = 'downloading' WHERE owner = 'alive'",
        )


def _copied(table: str, column: str) -> str:
    # A copy of the store's row would carry the ledger on, and nothing else of it may be new.
    return "0" if (table, column) == ("store", "ledger") else column


@dataclass
class Outcome:
    """
    Of a run: how much was typed, what became of it, and what was wrong in the end.
    """

    statements: int = 0
    accepted: int = 0
    owner: int = 0
    sentences: set[str] = field(default_factory=set)
    strange: set[str] = field(default_factory=set)
    typed: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        recent = ";\n".join(self.typed[-12:])
        return f"after {self.statements} statements:\n{recent};\n-- {self.complaints[:5]}"


# What SQLite says by itself when it refuses: of a constraint, a type, a key, or of a statement that makes no sense.
_PLAIN = re.compile(
    r"CHECK constraint failed|UNIQUE constraint failed|NOT NULL constraint failed|cannot store|datatype mismatch"
    r"|FOREIGN KEY constraint failed|cannot (start|commit|rollback)|no such savepoint|integer overflow"
)
_SENSELESS = re.compile(
    r"has no column named|no such column|ON CONFLICT clause does not match|near \"|ambiguous column"
)


def fuzz(connection: sqlite3.Connection, seed: int, statements: int, *, focus: str | None = None) -> Outcome:
    """
    Type at *connection* until something is wrong, or so many *statements* were typed.
    """
    typist, oracle, outcome = Typist(seed, connection, focus=focus), Oracle(), Outcome()
    choice = random.Random(-seed - 1)
    oracle.capture(connection)
    while outcome.statements < statements and not outcome.complaints:
        if not connection.in_transaction and choice.random() < 0.03:
            _say(connection, typist.owner(), outcome)
            outcome.complaints = _but_the_owners(oracle, connection)
            oracle.capture(connection)
            continue
        sql = typist.statement()
        outcome.statements += 1
        outcome.typed.append(sql)
        was_in_transaction = connection.in_transaction
        try:
            connection.execute(sql)
            outcome.accepted += 1
        except sqlite3.Error as error:
            text = str(error)
            if text.startswith("ullage: "):
                outcome.sentences.add(text)
            elif not _PLAIN.search(text) and not _SENSELESS.search(text):
                outcome.strange.add(f"{text}: {sql}")
        rolled_back = (
            was_in_transaction and not connection.in_transaction and sql not in ("COMMIT", "RELEASE s")
        )
        restored = rolled_back or sql.startswith("ROLLBACK")
        outcome.complaints = oracle.complaints(connection, restored=restored)
    return outcome


def _but_the_owners(oracle: Oracle, connection: sqlite3.Connection) -> list[str]:
    # What the owner changed is what `capture` takes for granted; the counts and the references are right all the same.
    fresh = Oracle()
    fresh.capture(connection)
    return fresh.complaints(connection)


def _say(connection: sqlite3.Connection, statements: Sequence[str], outcome: Outcome) -> None:
    connection.execute("BEGIN")
    try:
        for sql in statements:
            outcome.typed.append(sql)
            connection.execute(sql)
        connection.execute("COMMIT")
        outcome.owner += 1
    except sqlite3.Error:
        # Over the limit, most of the time. The transaction goes as a whole, as the owner's does.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
