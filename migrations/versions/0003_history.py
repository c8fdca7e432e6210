"""
History: what was pulled, moved, removed, when, by whom; and which host each blob came from.

What happens to images and their names is recorded by triggers, in the transaction in which it happens, so that it is
on record whoever did it: this package, another release of it, or a person at the sqlite3 shell. Who does it is said
in ``acting``, for the length of one transaction; where nobody says so, it was somebody at the shell. What a trigger
cannot see (what came over the network, what was mended) is recorded by whoever did that.

The record is kept short as it is written: each new row takes at most two old ones with it, by count and by age.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# An earlier release finds all that it reads, and what it does is on record as done by nobody in particular.
min_reader = 1
min_writer = 2

losses = (
    "SELECT 'events of the history', count(*), 0 FROM history",
    "SELECT 'blobs of which it is known where they came from', count(*), 0 FROM blob_sources",
)
directories = ()

_WHOLE = "length({0}) = length(CAST({0} AS BLOB))"
_TIME = (
    f"{_WHOLE} AND substr({{0}}, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND {{0}} > '0001'"
    " AND substr({0}, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr({0}, 1, 19), '+0 days')"
)
_EVENTS = "'pulled', 'imported', 'registered', 'tagged', 'moved', 'untagged', 'removed', 'evicted', 'unpacked', 'repaired', 'salvaged'"
_MOST_ROWS = 10_000
_OLDEST = "-365 days"

TABLES = (
    f"""
CREATE TABLE history (
  -- What happened to images and their names, oldest first; the last {_MOST_ROWS} facts of a year. View: history_listing.
  id INTEGER NOT NULL,
  at TEXT NOT NULL,
  event TEXT NOT NULL, -- pulled, imported, registered, tagged, moved, untagged, removed, evicted, unpacked, repaired, salvaged
  reference TEXT, -- the name that it is about; of an image that went all its names, with blanks between
  image_id TEXT, -- of the image, as images.image_id has it: the image may be gone
  previous_image_id TEXT, -- of what the reference denoted before it moved
  received_bytes INTEGER, -- that came over the network for it; null where nothing could
  freed_bytes INTEGER, -- what the image alone had
  hosts TEXT, -- which hosts those bytes came from, with blanks between
  owner TEXT, -- host and program; null: somebody at the sqlite3 shell
  pid INTEGER,
  detail TEXT, -- why: the reason of an eviction, what was repaired
  CONSTRAINT pk_history PRIMARY KEY (id),
  CONSTRAINT ck_history_id CHECK (id > 0),
  CONSTRAINT ck_history_at CHECK ({_TIME.format("at")}),
  CONSTRAINT ck_history_event CHECK (event IN ({_EVENTS}))
) STRICT
""",
    f"""
CREATE TABLE acting (
  -- Who writes: said at the start of what goes on record, taken back before its commit. Empty: somebody at the shell.
  one INTEGER NOT NULL DEFAULT 1,
  at TEXT NOT NULL,
  event TEXT, -- what it is called: 'evicted' of a removal; 'pulled' where names are made by the way
  reference TEXT, -- the name that it is about, where the rows do not say so
  detail TEXT, -- why
  owner TEXT NOT NULL, -- host and program, for people
  pid INTEGER NOT NULL,
  CONSTRAINT pk_acting PRIMARY KEY (one),
  CONSTRAINT ck_acting_one CHECK (one = 1),
  CONSTRAINT ck_acting_at CHECK ({_TIME.format("at")}),
  CONSTRAINT ck_acting_event CHECK (event IN ({_EVENTS}))
) STRICT
""",
    """
CREATE TABLE blob_sources (
  -- Which host a blob came from. One that was imported has no row here. View: image_sources.
  blob_id INTEGER NOT NULL,
  host TEXT NOT NULL, -- the registry or the mirror, with its port if it has one
  CONSTRAINT pk_blob_sources PRIMARY KEY (blob_id),
  CONSTRAINT fk_blob_sources_blob_id_blobs FOREIGN KEY (blob_id) REFERENCES blobs (id)
) STRICT
""",
)


def _refuse(name: str, when: str, condition: str, why: str) -> str:
    return f"CREATE TRIGGER {name} {when}\nWHEN {condition}\nBEGIN SELECT RAISE(ABORT, 'ullage: {why}'); END"


def _record(event: str, columns: str, values: str, *, who: str = "a", source: str = "") -> str:
    """
    A row of history with who and when: as `acting` says, else now and nobody.
    """
    return (
        f"INSERT INTO history (at, event, owner, pid, detail, {columns})\n"
        "  SELECT coalesce(a.at, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')),"
        f" {event}, {who}.owner, {who}.pid, a.detail, {values}\n"
        f"  FROM (SELECT 1) LEFT JOIN acting AS a ON a.one = 1{source};"
    )


# All its names, or so many of them as a line of history can hold.
_NAMES = (
    "(SELECT substr(group_concat(reference, ' '), 1, 4096) FROM (SELECT reference FROM {0} WHERE image_id = {1}"
    " ORDER BY reference))"
)
_IMAGE_ID = "(SELECT image_id FROM images WHERE id = {0})"
_UNPACKS = (
    " LEFT JOIN leases AS l ON l.id = (SELECT k.lease_id FROM lease_trees AS k JOIN leases AS o ON o.id = k.lease_id"
    " WHERE k.tree_id = NEW.tree_id AND o.status = 'complete' LIMIT 1)"
)
_BY_THE_WAY = (
    "NOT EXISTS (SELECT 1 FROM acting WHERE event IN ('pulled', 'imported', 'registered', 'salvaged'))"
)

TRIGGERS = (
    # No AUTOINCREMENT: the last id of a table that every deed writes to would be the end of all deeds.
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
    f"""CREATE TRIGGER history_registered AFTER INSERT ON images WHEN NEW.registered_bytes IS NOT NULL BEGIN
  {_record("'registered'", "reference, image_id", "coalesce(a.reference, NEW.spec_image_name || CASE WHEN NEW.spec_tag = '' THEN '' ELSE ':' || NEW.spec_tag END || CASE WHEN NEW.spec_digest = '' THEN '' ELSE '@' || NEW.spec_digest END), NEW.image_id")}
END""",
    f"""CREATE TRIGGER history_removed BEFORE DELETE ON images BEGIN
  {_record("CASE WHEN a.event = 'evicted' THEN a.event ELSE 'removed' END", "reference, image_id, freed_bytes", f"coalesce({_NAMES.format('repo_tags', 'OLD.id')}, {_NAMES.format('repo_digests', 'OLD.id')}), OLD.image_id, (SELECT exclusive_bytes FROM image_storage WHERE id = OLD.id)")}
END""",
    f"""CREATE TRIGGER history_tagged AFTER INSERT ON repo_tags WHEN {_BY_THE_WAY} BEGIN
  {_record("'tagged'", "reference, image_id", f"NEW.reference, {_IMAGE_ID.format('NEW.image_id')}")}
END""",
    f"""CREATE TRIGGER history_moved AFTER UPDATE ON repo_tags WHEN NEW.image_id <> OLD.image_id OR NEW.reference <> OLD.reference BEGIN
  {_record("'moved'", "reference, image_id, previous_image_id", f"NEW.reference, {_IMAGE_ID.format('NEW.image_id')}, {_IMAGE_ID.format('OLD.image_id')}")}
END""",
    # Names that go with their image are in the record of that.
    f"""CREATE TRIGGER history_untagged AFTER DELETE ON repo_tags WHEN EXISTS (SELECT 1 FROM images WHERE id = OLD.image_id) BEGIN
  {_record("'untagged'", "reference, image_id", f"OLD.reference, {_IMAGE_ID.format('OLD.image_id')}")}
END""",
    f"""CREATE TRIGGER history_undigested AFTER DELETE ON repo_digests WHEN EXISTS (SELECT 1 FROM images WHERE id = OLD.image_id) BEGIN
  {_record("'untagged'", "reference, image_id", f"OLD.reference, {_IMAGE_ID.format('OLD.image_id')}")}
END""",
    # The lowest layer stands for all of them. Who unpacks has a lease that says so.
    f"""CREATE TRIGGER history_unpacked AFTER INSERT ON manifest_trees WHEN NEW.position = 0 BEGIN
  {_record("'unpacked'", "image_id", "(SELECT i.image_id FROM manifests AS m JOIN images AS i ON i.id = m.image_id WHERE m.id = NEW.manifest_id)", who="l", source=_UNPACKS)}
END""",
    _refuse(
        "blob_sources_sound",
        "BEFORE INSERT ON blob_sources",
        "NOT EXISTS (SELECT 1 FROM blobs WHERE id = NEW.blob_id)",
        "where a blob came from is known of blobs that are here",
    ),
    _refuse(
        "blob_sources_immutable",
        "BEFORE UPDATE ON blob_sources",
        "NEW.blob_id IS NOT OLD.blob_id",
        "where a blob came from is said of that blob",
    ),
    """CREATE TRIGGER blob_sources_gone AFTER DELETE ON blobs BEGIN
  DELETE FROM blob_sources WHERE blob_id = OLD.id;
END""",
)


def _human(column: str) -> str:
    return (
        f"CASE WHEN {column} < 1000 THEN {column} || ' B' WHEN {column} < 1000000 THEN round({column} / 1e3, 1) || ' kB'\n"
        f"       WHEN {column} < 1000000000 THEN round({column} / 1e6, 1) || ' MB' ELSE round({column} / 1e9, 2) || ' GB' END"
    )


VIEWS = (
    f"""
CREATE VIEW history_listing AS
-- What happened, newest first, for people; times are UTC. The table history has the same as it was written.
SELECT h.id, strftime('%Y-%m-%d %H:%M:%S', h.at) AS time, h.event, h.reference,
       substr(h.image_id, instr(h.image_id, ':') + 1, 12) AS image,
       substr(h.previous_image_id, instr(h.previous_image_id, ':') + 1, 12) AS before,
       {_human("h.received_bytes")} AS received, h.hosts,
       {_human("h.freed_bytes")} AS freed,
       coalesce(h.owner || ' (pid ' || h.pid || ')', 'sqlite3 shell') AS who, h.detail
FROM history AS h ORDER BY h.id DESC
""",
    f"""
CREATE VIEW image_sources AS
-- Which hosts each image came from, and how much of it. What was here before it came from wherever that had come from.
SELECT i.id, coalesce((SELECT group_concat(reference, ' ') FROM (SELECT reference FROM repo_tags WHERE image_id = i.id ORDER BY reference)), '<none>') AS repo_tags,
       s.host, s.blob_count, {_human("s.bytes")} AS human_size, s.bytes, i.image_id
FROM images AS i JOIN (
  SELECT m.image_id AS image_id, o.host AS host, count(DISTINCT b.id) AS blob_count, sum(b.size) AS bytes
    FROM (SELECT DISTINCT n.image_id AS image_id, e.blob_id AS blob_id FROM manifests AS n JOIN manifest_blobs AS e ON e.manifest_id = n.id) AS m
    JOIN blobs AS b ON b.id = m.blob_id JOIN blob_sources AS o ON o.blob_id = b.id
   GROUP BY m.image_id, o.host) AS s ON s.image_id = i.id
""",
)


def upgrade() -> None:
    for statement in (*TABLES, *TRIGGERS, *VIEWS):
        op.execute(statement.strip())


def downgrade() -> None:
    for view in ("image_sources", "history_listing"):
        op.execute(f"DROP VIEW {view}")
    # Those on tables that stay; the others go with their table.
    for trigger in (
        "blob_sources_gone",
        "history_unpacked",
        "history_undigested",
        "history_untagged",
        "history_moved",
        "history_tagged",
        "history_removed",
        "history_registered",
    ):
        op.execute(f"DROP TRIGGER {trigger}")
    for table in ("blob_sources", "acting", "history"):
        op.execute(f"DROP TABLE {table}")
