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

from alembic import context, op

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


_TAGS = (
    "coalesce((SELECT group_concat(reference, ' ') FROM (SELECT reference FROM repo_tags WHERE image_id = i.id"
    " ORDER BY reference)), '<none>')"
)
_DIGESTS = (
    "(SELECT group_concat(reference, ' ') FROM (SELECT reference FROM repo_digests WHERE image_id = i.id"
    " ORDER BY reference))"
)


def _short(column: str) -> str:
    return f"substr({column}, instr({column}, ':') + 1, 12)"


def _time(column: str) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%S', {column})"


VIEWS = (
    f"""
CREATE VIEW image_listing AS
-- The images, for people; times are UTC. space_by_image says what each of them takes alone.
SELECT i.id, {_TAGS} AS repo_tags, {_short("i.image_id")} AS image,
       {_human("i.size")} AS human_size, i.platform, i.pinned,
       {_time("i.pulled_at")} AS pulled, {_time("i.last_used_at")} AS last_used,
       i.size, i.pulled_at, i.last_used_at, i.image_id, {_DIGESTS} AS repo_digests, i.uid, i.username
FROM images AS i
""",
    f"""
CREATE VIEW space_by_image AS
-- What each image takes, for people, the largest first: shared with others, and what removing it would free.
SELECT s.id, {_TAGS} AS repo_tags, {_human("s.size + s.tree_bytes")} AS takes,
       {_human("s.shared_bytes")} AS shared, {_human("s.exclusive_bytes")} AS frees,
       {_time("i.last_used_at")} AS last_used, i.pinned, s.size, s.tree_bytes, s.shared_bytes, s.exclusive_bytes, s.image_id
FROM image_storage AS s JOIN images AS i ON i.id = s.id ORDER BY s.exclusive_bytes DESC, s.id
""",
    f"""
CREATE VIEW storage_summary AS
-- Where the bytes are, for people. The figures are those of storage_usage.
SELECT name, {_human("bytes")} AS human_size, bytes, what FROM (
  SELECT 1 AS line, 'limit' AS name, max_bytes AS bytes, 'used and reserved never grow past it' AS what FROM storage_usage
  UNION ALL SELECT 2, 'used', used_bytes, image_count || ' images, ' || blob_count || ' blobs, ' || tree_count || ' trees' FROM storage_usage
  UNION ALL SELECT 3, 'reserved', reserved_bytes, 'by pulls, running or interrupted' FROM storage_usage
  UNION ALL SELECT 4, 'available', available_bytes, 'for what is to come' FROM storage_usage
  UNION ALL SELECT 5, 'blobs', blob_bytes, 'of the used: content, each once' FROM storage_usage
  UNION ALL SELECT 6, 'trees', tree_bytes, 'of the used: unpacked layers' FROM storage_usage
  UNION ALL SELECT 7, 'registered', registered_bytes, 'of the used: kept elsewhere by a host' FROM storage_usage
  UNION ALL SELECT 8, 'doomed', doomed_bytes, 'beside all that, about to be unlinked' FROM storage_usage
  UNION ALL SELECT 9, 'unshared', logical_bytes, 'what the images would take without sharing' FROM storage_usage)
ORDER BY line
""",
    f"""
CREATE VIEW reclaimable AS
-- What collection would free: blobs and trees that nothing names, and what is on its way for nobody.
SELECT kind, digest, {_human("bytes")} AS human_size, bytes, since FROM (
  SELECT 'blob' AS kind, b.digest AS digest, b.size AS bytes, b.created_at AS since FROM blobs AS b
   WHERE b.referenced = 0 AND NOT EXISTS (SELECT 1 FROM lease_blobs AS l WHERE l.blob_id = b.id)
  UNION ALL
  SELECT 'partial', digest, reserved_bytes, created_at FROM ingests WHERE lease_id IS NULL
  UNION ALL
  SELECT CASE t.state WHEN 'ready' THEN 'tree' ELSE 'doomed tree' END, t.chain_id, t.space_bytes, t.created_at FROM trees AS t
   WHERE t.referenced = 0 AND NOT EXISTS (SELECT 1 FROM lease_trees AS l WHERE l.tree_id = t.id)
  UNION ALL
  SELECT 'partial tree', chain_id, reserved_bytes, created_at FROM tree_ingests WHERE lease_id IS NULL)
""",
    f"""
CREATE VIEW in_flight AS
-- What is being pulled right now, blob by blob, and unpacked, tree by tree; and what a later pull can go on with.
SELECT reference, status, kind, percent, {_human("received_bytes")} AS received, {_human("coalesce(size, reserved_bytes)")} AS human_size,
       {_time("since")} AS started, digest, received_bytes, size, reserved_bytes, owner, pid, since FROM (
  SELECT coalesce(l.reference, '(nobody: resumable)') AS reference, l.status AS status, 'blob' AS kind, g.digest AS digest,
         g.received_bytes AS received_bytes, g.size AS size,
         CASE WHEN g.size > 0 THEN 100 * g.received_bytes / g.size ELSE 100 END AS percent,
         g.reserved_bytes AS reserved_bytes, l.owner AS owner, l.pid AS pid, g.created_at AS since
    FROM ingests AS g LEFT JOIN leases AS l ON l.id = g.lease_id
  UNION ALL
  SELECT coalesce(l.reference, '(nobody: to be removed)'), l.status, 'tree', g.chain_id, NULL, NULL, NULL,
         g.reserved_bytes, l.owner, l.pid, g.created_at
    FROM tree_ingests AS g LEFT JOIN leases AS l ON l.id = g.lease_id)
""",
    f"""
CREATE VIEW held AS
-- Who holds which image, since when.
SELECT i.id, (SELECT group_concat(reference, ' ') FROM (SELECT reference FROM repo_tags WHERE image_id = i.id ORDER BY reference)) AS repo_tags,
       l.owner || ' (pid ' || l.pid || ')' AS holder, {_time("l.created_at")} AS started,
       i.image_id, l.owner, l.pid, l.created_at AS since
FROM lease_images AS h JOIN leases AS l ON l.id = h.lease_id JOIN images AS i ON i.id = h.image_id
""",
    f"""
CREATE VIEW history_listing AS
-- What happened, newest first, for people; times are UTC. The table history has the same as it was written.
SELECT h.id, {_time("h.at")} AS time, h.event, h.reference, {_short("h.image_id")} AS image, {_short("h.previous_image_id")} AS before,
       {_human("h.received_bytes")} AS received, h.hosts, {_human("h.freed_bytes")} AS freed,
       coalesce(h.owner || ' (pid ' || h.pid || ')', 'sqlite3 shell') AS who, h.detail
FROM history AS h ORDER BY h.id DESC
""",
    f"""
CREATE VIEW image_sources AS
-- Which hosts each image came from, and how much of it. What was here before it came from wherever that had come from.
SELECT i.id, {_TAGS} AS repo_tags, s.host, s.blob_count, {_human("s.bytes")} AS human_size, s.bytes, i.image_id
FROM images AS i JOIN (
  SELECT m.image_id AS image_id, o.host AS host, count(DISTINCT b.id) AS blob_count, sum(b.size) AS bytes
    FROM (SELECT DISTINCT n.image_id AS image_id, e.blob_id AS blob_id FROM manifests AS n JOIN manifest_blobs AS e ON e.manifest_id = n.id) AS m
    JOIN blobs AS b ON b.id = m.blob_id JOIN blob_sources AS o ON o.blob_id = b.id
   GROUP BY m.image_id, o.host) AS s ON s.image_id = i.id
""",
)

#: Of earlier revisions, with columns for people added, and the revision whose text stands before this one.
_CHANGED_VIEWS = {"held": "0001", "in_flight": "0002", "reclaimable": "0002", "image_listing": "0001"}
_NEW_VIEWS = ("image_sources", "history_listing", "storage_summary", "space_by_image")


def upgrade() -> None:
    for name in _CHANGED_VIEWS:
        op.execute(f"DROP VIEW {name}")
    for statement in (*TABLES, *TRIGGERS, *VIEWS):
        op.execute(statement.strip())


def downgrade() -> None:
    """
    The history goes, and where blobs came from.
    """
    for view in (*_NEW_VIEWS, *_CHANGED_VIEWS):
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
    for name, revision in _CHANGED_VIEWS.items():
        texts = context.script.get_revision(revision).module.VIEWS
        op.execute(next(text.strip() for text in texts if text.strip().startswith(f"CREATE VIEW {name} ")))
