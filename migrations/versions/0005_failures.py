"""
Failures: pulls, imports and unpackings that came to nothing are in the history, with what they came to.

The event is a new one, which the table's CHECK has to allow: a table is as it was made, so it is made anew, and what it
held is put back. That is ten thousand rows at most.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# An earlier release finds all that it reads, an event more among it; what fails there is on no record.
min_reader = 1
min_writer = 2

losses = (
    "SELECT 'events of the history: pulls, imports and unpackings that failed', count(*), 0 FROM history WHERE event = 'failed'",
)
directories = ()

_WHOLE = "length({0}) = length(CAST({0} AS BLOB))"
_TIME = (
    f"{_WHOLE} AND substr({{0}}, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND {{0}} > '0001'"
    " AND substr({0}, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr({0}, 1, 19), '+0 days')"
)
_BEFORE = (
    "pulled", "imported", "registered", "tagged", "moved", "untagged", "removed", "evicted", "unpacked", "repaired",
    "salvaged",
)  # fmt: skip
_MOST_ROWS = 10_000
_OLDEST = "-365 days"


def _table(events: tuple[str, ...], why: str) -> str:
    return f"""
CREATE TABLE history (
  -- What happened to images and their names, oldest first; the last {_MOST_ROWS} facts of a year. View: history_listing.
  id INTEGER NOT NULL,
  at TEXT NOT NULL,
  event TEXT NOT NULL, -- {", ".join(events)}
  reference TEXT, -- the name that it is about; of an image that went all its names, with blanks between
  image_id TEXT, -- of the image, as images.image_id has it: the image may be gone
  previous_image_id TEXT, -- of what the reference denoted before it moved
  received_bytes INTEGER, -- that came over the network for it; null where nothing could
  freed_bytes INTEGER, -- what the image alone had
  hosts TEXT, -- which hosts those bytes came from, with blanks between
  owner TEXT, -- host and program; null: somebody at the sqlite3 shell
  pid INTEGER,
  detail TEXT, -- why: {why}
  CONSTRAINT pk_history PRIMARY KEY (id),
  CONSTRAINT ck_history_id CHECK (id > 0),
  CONSTRAINT ck_history_at CHECK ({_TIME.format("at")}),
  CONSTRAINT ck_history_event CHECK (event IN ({", ".join(f"'{event}'" for event in events)}))
) STRICT
"""


def _refuse(name: str, when: str, condition: str, why: str) -> str:
    return f"CREATE TRIGGER {name} {when}\nWHEN {condition}\nBEGIN SELECT RAISE(ABORT, 'ullage: {why}'); END"


# Those of the table itself, which go with it. They are as 0003 made them.
TRIGGERS = (
    _refuse(
        "history_numbered",
        "BEFORE INSERT ON history",
        "NEW.id > 0 AND NEW.id <> coalesce((SELECT max(id) FROM history), 0) + 1",
        "ids are given by the database",
    ),
    _refuse(
        "history_immutable",
        "BEFORE UPDATE ON history",
        "1",
        "what happened stays as it was; it may be deleted",
    ),
    f"""CREATE TRIGGER history_trimmed AFTER INSERT ON history BEGIN
  DELETE FROM history WHERE id IN (SELECT id FROM history ORDER BY id LIMIT 2)
    AND (id <= NEW.id - {_MOST_ROWS} OR at < strftime('%Y-%m-%dT%H:%M:%f000Z', NEW.at, '{_OLDEST}'));
END""",
)


def _made_anew(table: str) -> None:
    for statement in (
        "CREATE TABLE history_before AS SELECT * FROM history",
        "DROP TABLE history",
        table.strip(),
        "INSERT INTO history SELECT * FROM history_before ORDER BY id",
        "DROP TABLE history_before",
        *TRIGGERS,
    ):
        op.execute(statement)


def upgrade() -> None:
    _made_anew(
        _table((*_BEFORE, "failed"), "the reason of an eviction, what was repaired, how something failed")
    )


def downgrade() -> None:
    op.execute("DELETE FROM history WHERE event = 'failed'")
    _made_anew(_table(_BEFORE, "the reason of an eviction, what was repaired"))
