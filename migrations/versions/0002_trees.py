"""
Trees: layers unpacked, each once however many images stack on it, charged to the same limit.

A tree is a directory that one layer made on top of those below it, named by the chain id of all of them. What ``blobs``
and ``ingests`` are for bytes, ``trees`` and ``tree_ingests`` are for directories, with two differences. Nobody knows
beforehand what a layer takes, so its reservation grows in steps, ahead of what is written, and becomes what the tree
really occupies in the end. And half a tree is worth nothing: what a dead owner left waits to be removed, charged until
it is, and nobody goes on with it.

A tree takes inodes as well as bytes. Empty files occupy no block and would pass every limit of bytes, so the limit is
one of inodes too: as many as it has blocks of 4 KiB.

The habits are those of revision 0001. Its triggers and views that count or list content are made anew here.

Revision ID: 0002
Revises: 0001
"""

from alembic import context, op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# An earlier release finds all that it reads; one that recounts does not count trees.
min_reader = 1
min_writer = 2

losses = (
    "SELECT 'trees, to be unpacked again when they are needed', count(*), coalesce(sum(space_bytes), 0) FROM trees",
    "SELECT 'trees that are being unpacked', count(*), coalesce(sum(reserved_bytes), 0) FROM tree_ingests",
)
directories = ("trees",)

_WHOLE = "length({0}) = length(CAST({0} AS BLOB))"
_DIGEST = (
    f"{_WHOLE} AND substr({{0}}, 8) NOT GLOB '*[^0-9a-f]*'"
    " AND (length({0}) = 71 AND substr({0}, 1, 7) = 'sha256:' OR length({0}) = 135 AND substr({0}, 1, 7) = 'sha512:')"
)
_TIME = (
    f"{_WHOLE} AND substr({{0}}, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND {{0}} > '0001'"
    " AND substr({0}, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr({0}, 1, 19), '+0 days')"
)
_MOST = 1 << 50

COLUMNS = (
    ("tree_count", "trees that are ready"),
    ("tree_bytes", "the blocks that they occupy"),
    ("tree_inodes", "and the inodes"),
    ("reserved_inodes", "held by tree_ingests"),
)

TABLES = (
    f"""
CREATE TABLE trees (
  -- Unpacked layers: a row says that trees/<algorithm>/<encoded> is there, whole, as its layer says.
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  chain_id TEXT NOT NULL, -- of its layer with all those below it (OCI image specification, "Layer ChainID")
  diff_id TEXT NOT NULL, -- of its layer alone
  space_bytes INTEGER NOT NULL, -- the blocks that it occupies, as du counts them
  inodes INTEGER NOT NULL,
  rootless INTEGER NOT NULL DEFAULT 0, -- 1: made without privilege, its overlay marks are user.overlay: mount with userxattr
  forgiven INTEGER NOT NULL DEFAULT 0, -- how much of its layer was left out for want of privilege: owners, devices, attributes
  state TEXT NOT NULL DEFAULT 'ready', -- 'ready'; 'doomed': its directory is about to go; 'swept': said in passing, ends the row
  referenced INTEGER NOT NULL DEFAULT 0, -- 1: some manifest stacks on it
  created_at TEXT NOT NULL,
  CONSTRAINT ck_trees_id CHECK (id > 0),
  CONSTRAINT uq_trees_chain_id UNIQUE (chain_id),
  CONSTRAINT ck_trees_chain_id CHECK ({_DIGEST.format("chain_id")}),
  CONSTRAINT ck_trees_diff_id CHECK ({_DIGEST.format("diff_id")}),
  CONSTRAINT ck_trees_space_bytes CHECK (space_bytes BETWEEN 0 AND {_MOST}),
  CONSTRAINT ck_trees_inodes CHECK (inodes BETWEEN 0 AND {_MOST}),
  CONSTRAINT ck_trees_rootless CHECK (rootless IN (0, 1)),
  CONSTRAINT ck_trees_forgiven CHECK (forgiven >= 0),
  CONSTRAINT ck_trees_state CHECK (state IN ('ready', 'doomed', 'swept')),
  CONSTRAINT ck_trees_referenced CHECK (referenced IN (0, 1)),
  CONSTRAINT ck_trees_created_at CHECK ({_TIME.format("created_at")})
) STRICT
""",
    """
CREATE TABLE manifest_trees (
  -- Which trees a manifest stacks on, once it is unpacked: the lowest is at position 0.
  manifest_id INTEGER NOT NULL,
  position INTEGER NOT NULL,
  tree_id INTEGER NOT NULL,
  CONSTRAINT pk_manifest_trees PRIMARY KEY (manifest_id, position),
  CONSTRAINT fk_manifest_trees_manifest_id_manifests FOREIGN KEY (manifest_id) REFERENCES manifests (id),
  CONSTRAINT fk_manifest_trees_tree_id_trees FOREIGN KEY (tree_id) REFERENCES trees (id),
  CONSTRAINT ck_manifest_trees_position CHECK (position >= 0)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE lease_trees (
  -- Trees that a lease keeps from the collector.
  lease_id INTEGER NOT NULL,
  tree_id INTEGER NOT NULL,
  CONSTRAINT pk_lease_trees PRIMARY KEY (lease_id, tree_id),
  CONSTRAINT fk_lease_trees_lease_id_leases FOREIGN KEY (lease_id) REFERENCES leases (id),
  CONSTRAINT fk_lease_trees_tree_id_trees FOREIGN KEY (tree_id) REFERENCES trees (id)
) STRICT, WITHOUT ROWID
""",
    f"""
CREATE TABLE tree_ingests (
  -- Layers that are being unpacked: the reservation, the announcement of the directory trees/ingest/<encoded>, and what
  -- keeps two from making one tree. Without a lease it is what a dead owner left, to be removed.
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  chain_id TEXT NOT NULL,
  lease_id INTEGER, -- who makes it; null: nobody
  reserved_bytes INTEGER NOT NULL DEFAULT 0, -- grows, ahead of what is written
  reserved_inodes INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL DEFAULT 'partial', -- 'filled': all is written, and what was reserved beyond it given back; 'arrived': said of the directory that is in place, makes it a tree next; 'discarded': said in passing, ends the row
  created_at TEXT NOT NULL,
  CONSTRAINT ck_tree_ingests_id CHECK (id > 0),
  CONSTRAINT uq_tree_ingests_chain_id UNIQUE (chain_id),
  CONSTRAINT fk_tree_ingests_lease_id_leases FOREIGN KEY (lease_id) REFERENCES leases (id),
  CONSTRAINT ck_tree_ingests_chain_id CHECK ({_DIGEST.format("chain_id")}),
  CONSTRAINT ck_tree_ingests_reserved_bytes CHECK (reserved_bytes BETWEEN 0 AND {_MOST}),
  CONSTRAINT ck_tree_ingests_reserved_inodes CHECK (reserved_inodes BETWEEN 0 AND {_MOST}),
  CONSTRAINT ck_tree_ingests_state CHECK (state IN ('partial', 'filled', 'arrived', 'discarded')),
  CONSTRAINT ck_tree_ingests_created_at CHECK ({_TIME.format("created_at")})
) STRICT
""",
)

INDEXES = (
    "CREATE INDEX ix_trees_unreferenced ON trees (created_at) WHERE referenced = 0",  # the collector's list: O(garbage)
    "CREATE INDEX ix_trees_doomed ON trees (id) WHERE state = 'doomed'",
    "CREATE INDEX ix_manifest_trees_tree_id ON manifest_trees (tree_id, manifest_id)",
    "CREATE INDEX ix_lease_trees_tree_id ON lease_trees (tree_id)",
    "CREATE INDEX ix_tree_ingests_lease_id ON tree_ingests (lease_id)",
)

_COUNTERS = (
    "image_count",
    "blob_count",
    "blob_bytes",
    "tree_count",
    "tree_bytes",
    "tree_inodes",
    "registered_bytes",
    "reserved_bytes",
    "reserved_inodes",
    "doomed_bytes",
    "logical_bytes",
)
_TOTAL = "({0}.blob_bytes + {0}.tree_bytes + {0}.registered_bytes + {0}.reserved_bytes)"
_INODES = "({0}.tree_inodes + {0}.reserved_inodes)"

_IMAGE_SIZE = """(SELECT coalesce(i.registered_bytes, 0) + coalesce((
    SELECT sum(b.size) FROM blobs AS b WHERE b.id IN (
      SELECT e.blob_id FROM manifests AS m CROSS JOIN manifest_blobs AS e ON e.manifest_id = m.id
      WHERE m.image_id = i.id AND m.complete = 1)), 0)
    FROM images AS i WHERE i.id = {0})"""

# What is made of a tree is made by a lease that keeps it and says that it completes: nothing is hung on it by hand.
_KEPT = """EXISTS (
  SELECT 1 FROM trees AS t CROSS JOIN lease_trees AS k ON k.tree_id = t.id CROSS JOIN leases AS l ON l.id = k.lease_id
  WHERE t.id = {0} AND t.state = 'ready' AND l.status = 'complete')"""


def _refuse(name: str, when: str, condition: str, why: str) -> str:
    return f"CREATE TRIGGER {name} {when}\nWHEN {condition}\nBEGIN SELECT RAISE(ABORT, 'ullage: {why}'); END"


def _changed(*columns: str) -> str:
    return " OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in columns)


def _numbered(table: str) -> str:
    return _refuse(
        f"{table}_numbered",
        f"BEFORE INSERT ON {table}",
        f"NEW.id > 0 AND NEW.id <> coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{table}'), 0) + 1",
        "ids are given by the database, each once",
    )


def _ledger(changes: str) -> str:
    return f"UPDATE store SET {changes}, ledger = ledger + 1;"


# Of revision 0001, with trees in them.
CHANGED_TRIGGERS = (
    _refuse(
        "store_starts_empty",
        "BEFORE INSERT ON store",
        " OR ".join(f"NEW.{c} IS NOT 0" for c in _COUNTERS),
        "a store starts with nothing in it",
    ),
    _refuse(
        "store_ledger",
        "BEFORE UPDATE ON store",
        f"({_changed(*_COUNTERS, 'ledger')}) AND NEW.ledger IS NOT OLD.ledger + 1",
        "counters are kept by triggers; accounting_drift shows where they are wrong, ullage check --repair recounts",
    ),
    _refuse(
        "store_counters",
        "BEFORE UPDATE ON store",
        f"min({', '.join(f'NEW.{c}' for c in _COUNTERS)}) < 0",
        "counters do not go below zero; accounting_drift shows where they are wrong, ullage check --repair recounts",
    ),
    _refuse(
        "store_limit",
        "BEFORE UPDATE ON store",
        f"{_TOTAL.format('NEW')} > {_TOTAL.format('OLD')} AND {_TOTAL.format('NEW')} > NEW.max_bytes",
        "storage limit exceeded",
    ),
    """CREATE TRIGGER manifests_gone AFTER DELETE ON manifests BEGIN
  DELETE FROM manifest_blobs WHERE manifest_id = OLD.id;
  DELETE FROM manifest_trees WHERE manifest_id = OLD.id;
END""",
    """CREATE TRIGGER leases_gone AFTER DELETE ON leases BEGIN
  DELETE FROM lease_blobs WHERE lease_id = OLD.id;
  DELETE FROM lease_images WHERE lease_id = OLD.id;
  DELETE FROM lease_trees WHERE lease_id = OLD.id;
  UPDATE ingests SET lease_id = NULL, reserved_bytes = received_bytes, state = 'partial' WHERE lease_id = OLD.id;
  UPDATE tree_ingests SET lease_id = NULL, state = 'partial' WHERE lease_id = OLD.id;
END""",
)

STORE_TRIGGERS = (
    _refuse(
        "store_inodes",
        "BEFORE UPDATE ON store",
        f"{_INODES.format('NEW')} > {_INODES.format('OLD')} AND {_INODES.format('NEW')} > NEW.max_bytes / 4096",
        "storage limit exceeded by inodes",
    ),
)

TREE_TRIGGERS = (
    _refuse(
        "trees_are_new",
        "BEFORE INSERT ON trees",
        "EXISTS (SELECT 1 FROM trees WHERE chain_id = NEW.chain_id OR id = NEW.id)",
        "that tree is here",
    ),
    _numbered("trees"),
    _refuse(
        "trees_come_from_ingests",
        "BEFORE INSERT ON trees",
        "NOT EXISTS (SELECT 1 FROM tree_ingests WHERE chain_id = NEW.chain_id AND reserved_bytes >= NEW.space_bytes AND reserved_inodes >= NEW.inodes AND state = 'arrived' AND lease_id IS NOT NULL)",
        "a tree row comes from an ingest whose owner says that it arrived, and takes no more than was reserved",
    ),
    _refuse(
        "trees_start_ready",
        "BEFORE INSERT ON trees",
        "NEW.state IS NOT 'ready' OR NEW.referenced IS NOT 0",
        "a new tree is ready, and named by nothing yet",
    ),
    # The reservation becomes the tree in one step that never adds, so a limit lowered meanwhile is no obstacle.
    f"""CREATE TRIGGER trees_published AFTER INSERT ON trees BEGIN
  {_ledger("tree_count = tree_count + 1, tree_bytes = tree_bytes + NEW.space_bytes, tree_inodes = tree_inodes + NEW.inodes, reserved_bytes = reserved_bytes - (SELECT reserved_bytes FROM tree_ingests WHERE chain_id = NEW.chain_id), reserved_inodes = reserved_inodes - (SELECT reserved_inodes FROM tree_ingests WHERE chain_id = NEW.chain_id)")}
  INSERT INTO lease_trees (lease_id, tree_id) SELECT lease_id, NEW.id FROM tree_ingests WHERE chain_id = NEW.chain_id;
  DELETE FROM tree_ingests WHERE chain_id = NEW.chain_id;
END""",
    _refuse(
        "trees_immutable",
        "BEFORE UPDATE ON trees",
        _changed("id", "chain_id", "diff_id", "space_bytes", "inodes", "rootless", "forgiven"),
        "a tree is immutable",
    ),
    _refuse(
        "trees_referenced",
        "BEFORE UPDATE ON trees",
        "NEW.referenced IS NOT OLD.referenced AND NEW.referenced IS NOT EXISTS (SELECT 1 FROM manifest_trees WHERE tree_id = OLD.id)",
        "whether a tree is referenced is for its manifests to say",
    ),
    _refuse(
        "trees_in_use",
        "BEFORE UPDATE ON trees",
        "NEW.state IS NOT 'ready' AND (EXISTS (SELECT 1 FROM manifest_trees WHERE tree_id = OLD.id) OR EXISTS (SELECT 1 FROM lease_trees WHERE tree_id = OLD.id))",
        "the tree is in use",
    ),
    _refuse(
        "trees_step_by_step",
        "BEFORE UPDATE ON trees",
        "NEW.state IS 'swept' AND OLD.state <> 'doomed'",
        "only a doomed tree is swept, by whoever removes its directory",
    ),
    f"""CREATE TRIGGER trees_doomed AFTER UPDATE ON trees WHEN OLD.state = 'ready' AND NEW.state = 'doomed' BEGIN
  {_ledger("tree_count = tree_count - 1, tree_bytes = tree_bytes - OLD.space_bytes, tree_inodes = tree_inodes - OLD.inodes, doomed_bytes = doomed_bytes + OLD.space_bytes")}
END""",
    f"""CREATE TRIGGER trees_taken_back AFTER UPDATE ON trees WHEN OLD.state = 'doomed' AND NEW.state = 'ready' BEGIN
  {_ledger("tree_count = tree_count + 1, tree_bytes = tree_bytes + OLD.space_bytes, tree_inodes = tree_inodes + OLD.inodes, doomed_bytes = doomed_bytes - OLD.space_bytes")}
END""",
    """CREATE TRIGGER trees_swept AFTER UPDATE ON trees WHEN NEW.state = 'swept' BEGIN
  DELETE FROM trees WHERE id = NEW.id;
END""",
    _refuse(
        "trees_stay",
        "BEFORE DELETE ON trees",
        "OLD.state <> 'swept'",
        "a tree row goes with its directory: set state to doomed, and ullage gc removes both",
    ),
    f"""CREATE TRIGGER trees_gone AFTER DELETE ON trees BEGIN
  {_ledger("doomed_bytes = doomed_bytes - OLD.space_bytes")}
END""",
    _refuse(
        "manifest_trees_sound",
        "BEFORE INSERT ON manifest_trees",
        f"""NOT {_KEPT.format("NEW.tree_id")}
  OR NOT EXISTS (SELECT 1 FROM manifests WHERE id = NEW.manifest_id AND complete = 1)
  OR EXISTS (SELECT 1 FROM manifest_trees WHERE manifest_id = NEW.manifest_id AND position = NEW.position)""",
        "a manifest stacks on a tree when whoever unpacks it keeps that and completes; it needs to be complete, and the position free",
    ),
    """CREATE TRIGGER manifest_trees_added AFTER INSERT ON manifest_trees BEGIN
  UPDATE trees SET referenced = 1 WHERE id = NEW.tree_id AND referenced = 0;
END""",
    _refuse(
        "manifest_trees_immutable",
        "BEFORE UPDATE ON manifest_trees",
        "1",
        "what a manifest stacks on does not change",
    ),
    # Blobs make trees again, so an image may lose them; but not while somebody has it, and so perhaps mounted.
    _refuse(
        "manifest_trees_stay",
        "BEFORE DELETE ON manifest_trees",
        "EXISTS (SELECT 1 FROM manifests AS m JOIN lease_images AS h ON h.image_id = m.image_id WHERE m.id = OLD.manifest_id)",
        "an image that is held keeps its trees; the view held says by whom",
    ),
    """CREATE TRIGGER manifest_trees_gone AFTER DELETE ON manifest_trees BEGIN
  UPDATE trees SET referenced = 0 WHERE id = OLD.tree_id AND referenced = 1
     AND NOT EXISTS (SELECT 1 FROM manifest_trees WHERE tree_id = OLD.tree_id);
END""",
    _refuse(
        "lease_trees_sound",
        "BEFORE INSERT ON lease_trees",
        "NOT EXISTS (SELECT 1 FROM leases WHERE id = NEW.lease_id) OR NOT EXISTS (SELECT 1 FROM trees WHERE id = NEW.tree_id AND state = 'ready')",
        "a lease keeps trees that are ready",
    ),
    _refuse(
        "lease_trees_immutable", "BEFORE UPDATE ON lease_trees", "1", "what a lease keeps goes with the lease"
    ),
    _refuse(
        "lease_trees_stay",
        "BEFORE DELETE ON lease_trees",
        "EXISTS (SELECT 1 FROM leases WHERE id = OLD.lease_id)",
        "what a lease keeps goes with the lease",
    ),
    _refuse(
        "tree_ingests_are_new",
        "BEFORE INSERT ON tree_ingests",
        "EXISTS (SELECT 1 FROM tree_ingests WHERE chain_id = NEW.chain_id OR id = NEW.id) OR EXISTS (SELECT 1 FROM trees WHERE chain_id = NEW.chain_id)",
        "that tree is here or on its way",
    ),
    _numbered("tree_ingests"),
    _refuse(
        "tree_ingests_need_a_lease",
        "BEFORE INSERT ON tree_ingests",
        "NEW.state IS NOT 'partial' OR NEW.lease_id IS NULL OR NOT EXISTS (SELECT 1 FROM leases WHERE id = NEW.lease_id)",
        "a tree is made for a lease",
    ),
    f"""CREATE TRIGGER tree_ingests_reserved AFTER INSERT ON tree_ingests BEGIN
  {_ledger("reserved_bytes = reserved_bytes + NEW.reserved_bytes, reserved_inodes = reserved_inodes + NEW.reserved_inodes")}
END""",
    _refuse(
        "tree_ingests_immutable",
        "BEFORE UPDATE ON tree_ingests",
        _changed("id", "chain_id"),
        "an ingest keeps its identity",
    ),
    _refuse(
        "tree_ingests_owner",
        "BEFORE UPDATE ON tree_ingests",
        "NEW.lease_id IS NOT OLD.lease_id AND (NEW.lease_id IS NOT NULL OR EXISTS (SELECT 1 FROM leases WHERE id = OLD.lease_id))",
        "a tree is made by one lease, for as long as that lives",
    ),
    # Only its owner can tell how much of it is written. (A NULL is less as well: OR REPLACE would make a 0 of it.)
    _refuse(
        "tree_ingests_grow",
        "BEFORE UPDATE ON tree_ingests",
        f"""NOT coalesce(NEW.reserved_bytes >= OLD.reserved_bytes AND NEW.reserved_inodes >= OLD.reserved_inodes, 0)
    AND NOT coalesce(NEW.state = 'filled' AND OLD.state = 'partial' AND NEW.reserved_bytes >= 0 AND NEW.reserved_inodes >= 0, 0)
  OR OLD.lease_id IS NULL AND ({_changed("reserved_bytes", "reserved_inodes")})""",
        "what is reserved for a tree grows until that is filled, and is given back with its directory",
    ),
    _refuse(
        "tree_ingests_in_use",
        "BEFORE UPDATE ON tree_ingests",
        "NEW.state IS 'discarded' AND NEW.lease_id IS NOT NULL",
        "only what nobody makes is discarded, by whoever removes its directory",
    ),
    _refuse(
        "tree_ingests_arrive",
        "BEFORE UPDATE ON tree_ingests",
        "NEW.state IN ('filled', 'arrived') AND NEW.lease_id IS NULL",
        "a tree is filled, and has arrived, when its owner says so",
    ),
    f"""CREATE TRIGGER tree_ingests_resized AFTER UPDATE ON tree_ingests
WHEN NEW.reserved_bytes <> OLD.reserved_bytes OR NEW.reserved_inodes <> OLD.reserved_inodes BEGIN
  {_ledger("reserved_bytes = reserved_bytes + NEW.reserved_bytes - OLD.reserved_bytes, reserved_inodes = reserved_inodes + NEW.reserved_inodes - OLD.reserved_inodes")}
END""",
    """CREATE TRIGGER tree_ingests_discarded AFTER UPDATE ON tree_ingests WHEN NEW.state = 'discarded' BEGIN
  DELETE FROM tree_ingests WHERE id = NEW.id;
END""",
    _refuse(
        "tree_ingests_stay",
        "BEFORE DELETE ON tree_ingests",
        "OLD.state <> 'discarded' AND NOT EXISTS (SELECT 1 FROM trees WHERE chain_id = OLD.chain_id)",
        "half a tree goes with its directory; ullage gc removes both when its owner is dead",
    ),
    f"""CREATE TRIGGER tree_ingests_gone AFTER DELETE ON tree_ingests WHEN NOT EXISTS (SELECT 1 FROM trees WHERE chain_id = OLD.chain_id) BEGIN
  {_ledger("reserved_bytes = reserved_bytes - OLD.reserved_bytes, reserved_inodes = reserved_inodes - OLD.reserved_inodes")}
END""",
)

_HUMAN = """CASE WHEN {0} < 1000 THEN {0} || ' B' WHEN {0} < 1000000 THEN round({0} / 1e3, 1) || ' kB'
       WHEN {0} < 1000000000 THEN round({0} / 1e6, 1) || ' MB' ELSE round({0} / 1e9, 2) || ' GB' END"""

# Those of revision 0001, with trees in them; image_listing and held stay as they are.
VIEWS = (
    """
CREATE VIEW storage_usage AS
-- Where the bytes are: one row, at no cost. used + reserved + available = max, unless the limit was lowered below use.
SELECT max_bytes,
       blob_bytes + tree_bytes + registered_bytes AS used_bytes,
       reserved_bytes,
       max(0, max_bytes - blob_bytes - tree_bytes - registered_bytes - reserved_bytes) AS available_bytes,
       image_count, blob_count, blob_bytes, tree_count, tree_bytes, tree_inodes,
       registered_bytes, doomed_bytes, logical_bytes
FROM store
""",
    """
CREATE VIEW image_storage AS
-- What each image takes: size of its blobs, tree_bytes unpacked; of both, exclusive_bytes is what removing it frees.
SELECT id, image_id, size, tree_bytes, size + tree_bytes - exclusive_bytes AS shared_bytes, exclusive_bytes FROM (
  SELECT i.id, i.image_id, i.size,
         coalesce((
           SELECT sum(t.space_bytes) FROM trees AS t WHERE t.id IN (
             SELECT e.tree_id FROM manifests AS m CROSS JOIN manifest_trees AS e ON e.manifest_id = m.id WHERE m.image_id = i.id)), 0) AS tree_bytes,
         coalesce(i.registered_bytes, 0) + coalesce((
           SELECT sum(b.size) FROM blobs AS b WHERE b.id IN (
             SELECT e.blob_id FROM manifests AS m CROSS JOIN manifest_blobs AS e ON e.manifest_id = m.id WHERE m.image_id = i.id)
           AND NOT EXISTS (
             SELECT 1 FROM manifest_blobs AS o CROSS JOIN manifests AS n ON n.id = o.manifest_id
             WHERE o.blob_id = b.id AND n.image_id <> i.id)
           AND NOT EXISTS (SELECT 1 FROM lease_blobs AS l WHERE l.blob_id = b.id)), 0) + coalesce((
           SELECT sum(t.space_bytes) FROM trees AS t WHERE t.id IN (
             SELECT e.tree_id FROM manifests AS m CROSS JOIN manifest_trees AS e ON e.manifest_id = m.id WHERE m.image_id = i.id)
           AND NOT EXISTS (
             SELECT 1 FROM manifest_trees AS o CROSS JOIN manifests AS n ON n.id = o.manifest_id
             WHERE o.tree_id = t.id AND n.image_id <> i.id)
           AND NOT EXISTS (SELECT 1 FROM lease_trees AS l WHERE l.tree_id = t.id)), 0) AS exclusive_bytes
  FROM images AS i)
""",
    """
CREATE VIEW reclaimable AS
-- What collection would free: blobs and trees that nothing names, and what is on its way for nobody.
SELECT 'blob' AS kind, b.digest, b.size AS bytes, b.created_at AS since FROM blobs AS b
 WHERE b.referenced = 0 AND NOT EXISTS (SELECT 1 FROM lease_blobs AS l WHERE l.blob_id = b.id)
UNION ALL
SELECT 'partial', digest, reserved_bytes, created_at FROM ingests WHERE lease_id IS NULL
UNION ALL
SELECT CASE t.state WHEN 'ready' THEN 'tree' ELSE 'doomed tree' END, t.chain_id, t.space_bytes, t.created_at FROM trees AS t
 WHERE t.referenced = 0 AND NOT EXISTS (SELECT 1 FROM lease_trees AS l WHERE l.tree_id = t.id)
UNION ALL
SELECT 'partial tree', chain_id, reserved_bytes, created_at FROM tree_ingests WHERE lease_id IS NULL
""",
    f"""
CREATE VIEW in_flight AS
-- What is being pulled right now, blob by blob, and unpacked, tree by tree; and what a later pull can go on with.
SELECT coalesce(l.reference, '(nobody: resumable)') AS reference, l.status, 'blob' AS kind, g.digest, g.received_bytes, g.size,
       CASE WHEN g.size > 0 THEN 100 * g.received_bytes / g.size ELSE 100 END AS percent,
       {_HUMAN.format("g.size")} AS human_size, g.reserved_bytes, l.owner, l.pid, g.created_at AS since
FROM ingests AS g LEFT JOIN leases AS l ON l.id = g.lease_id
UNION ALL
SELECT coalesce(l.reference, '(nobody: to be removed)'), l.status, 'tree', g.chain_id, NULL, NULL, NULL,
       {_HUMAN.format("g.reserved_bytes")}, g.reserved_bytes, l.owner, l.pid, g.created_at
FROM tree_ingests AS g LEFT JOIN leases AS l ON l.id = g.lease_id
""",
    f"""
CREATE VIEW accounting_drift AS
-- Empty when the counters are right: each is compared with what it counts.
SELECT name, counter, actual FROM (
  SELECT 'image_count' AS name, (SELECT image_count FROM store) AS counter, (SELECT count(*) FROM images) AS actual
  UNION ALL SELECT 'blob_count', (SELECT blob_count FROM store), (SELECT count(*) FROM blobs WHERE state = 'ready')
  UNION ALL SELECT 'blob_bytes', (SELECT blob_bytes FROM store), (SELECT coalesce(sum(size), 0) FROM blobs WHERE state = 'ready')
  UNION ALL SELECT 'tree_count', (SELECT tree_count FROM store), (SELECT count(*) FROM trees WHERE state = 'ready')
  UNION ALL SELECT 'tree_bytes', (SELECT tree_bytes FROM store), (SELECT coalesce(sum(space_bytes), 0) FROM trees WHERE state = 'ready')
  UNION ALL SELECT 'tree_inodes', (SELECT tree_inodes FROM store), (SELECT coalesce(sum(inodes), 0) FROM trees WHERE state = 'ready')
  UNION ALL SELECT 'doomed_bytes', (SELECT doomed_bytes FROM store),
    (SELECT coalesce(sum(size), 0) FROM blobs WHERE state = 'doomed') + (SELECT coalesce(sum(space_bytes), 0) FROM trees WHERE state = 'doomed')
  UNION ALL SELECT 'registered_bytes', (SELECT registered_bytes FROM store), (SELECT coalesce(sum(registered_bytes), 0) FROM images)
  UNION ALL SELECT 'reserved_bytes', (SELECT reserved_bytes FROM store),
    (SELECT coalesce(sum(reserved_bytes), 0) FROM ingests) + (SELECT coalesce(sum(reserved_bytes), 0) FROM tree_ingests)
  UNION ALL SELECT 'reserved_inodes', (SELECT reserved_inodes FROM store), (SELECT coalesce(sum(reserved_inodes), 0) FROM tree_ingests)
  UNION ALL SELECT 'logical_bytes', (SELECT logical_bytes FROM store), (SELECT coalesce(sum(size), 0) FROM images)
  UNION ALL SELECT 'size of image ' || id, size, {_IMAGE_SIZE.format("images.id")} FROM images
  UNION ALL SELECT 'referenced of ' || digest, referenced, EXISTS (SELECT 1 FROM manifest_blobs WHERE blob_id = blobs.id) FROM blobs
  UNION ALL SELECT 'referenced of tree ' || chain_id, referenced, EXISTS (SELECT 1 FROM manifest_trees WHERE tree_id = trees.id) FROM trees)
WHERE counter <> actual
""",
    """
CREATE VIEW problems AS
-- Empty when all is well: broken invariants by their number in docs/invariants.md, as far as rows can tell.
SELECT 'I5' AS invariant, 'image without content' AS problem, image_id AS object, NULL AS detail FROM images
 WHERE registered_bytes IS NULL AND NOT EXISTS (SELECT 1 FROM manifests AS m WHERE m.image_id = images.id AND m.complete = 1)
UNION ALL SELECT 'I5', 'manifest incomplete', digest, NULL FROM manifests WHERE complete = 0
UNION ALL SELECT 'I5', 'manifest without image', digest, image_id FROM manifests AS m WHERE NOT EXISTS (SELECT 1 FROM images AS i WHERE i.id = m.image_id)
UNION ALL SELECT 'I5', 'edge without blob', manifest_id || '/' || position, blob_id FROM manifest_blobs AS e WHERE NOT EXISTS (SELECT 1 FROM blobs AS b WHERE b.id = e.blob_id)
UNION ALL SELECT 'I5', 'edge without manifest', manifest_id || '/' || position, blob_id FROM manifest_blobs AS e WHERE NOT EXISTS (SELECT 1 FROM manifests AS m WHERE m.id = e.manifest_id)
UNION ALL SELECT 'I5', 'edge without tree', manifest_id || '/' || position, tree_id FROM manifest_trees AS e WHERE NOT EXISTS (SELECT 1 FROM trees AS t WHERE t.id = e.tree_id)
UNION ALL SELECT 'I5', 'edge to a tree without manifest', manifest_id || '/' || position, tree_id FROM manifest_trees AS e WHERE NOT EXISTS (SELECT 1 FROM manifests AS m WHERE m.id = e.manifest_id)
UNION ALL SELECT 'I6', 'reference without image', reference, image_id FROM repo_tags AS r WHERE NOT EXISTS (SELECT 1 FROM images AS i WHERE i.id = r.image_id)
UNION ALL SELECT 'I6', 'reference without image', reference, image_id FROM repo_digests AS r WHERE NOT EXISTS (SELECT 1 FROM images AS i WHERE i.id = r.image_id)
UNION ALL SELECT 'I6', 'reference to a manifest of another image', reference, manifest_id FROM repo_tags AS r WHERE manifest_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM manifests AS m WHERE m.id = r.manifest_id AND m.image_id = r.image_id)
UNION ALL SELECT 'I6', 'reference to a manifest of another image', reference, manifest_id FROM repo_digests AS r WHERE manifest_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM manifests AS m WHERE m.id = r.manifest_id AND m.image_id = r.image_id)
UNION ALL SELECT 'I6', 'reference by a digest of something else', reference, digest FROM (
  SELECT reference, manifest_id, digest FROM repo_tags UNION ALL SELECT reference, manifest_id, digest FROM repo_digests) AS r
 WHERE manifest_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM manifests AS m WHERE m.id = r.manifest_id AND m.digest = r.digest)
   AND NOT EXISTS (SELECT 1 FROM manifest_blobs AS e JOIN blobs AS b ON b.id = e.blob_id WHERE e.manifest_id = r.manifest_id AND e.role = 'index' AND b.digest = r.digest)
UNION ALL SELECT 'I8', 'doomed but used', digest, state FROM blobs AS b WHERE state <> 'ready'
   AND (EXISTS (SELECT 1 FROM manifest_blobs AS e WHERE e.blob_id = b.id) OR EXISTS (SELECT 1 FROM lease_blobs AS l WHERE l.blob_id = b.id))
UNION ALL SELECT 'I8', 'doomed tree but used', chain_id, state FROM trees AS t WHERE state <> 'ready'
   AND (EXISTS (SELECT 1 FROM manifest_trees AS e WHERE e.tree_id = t.id) OR EXISTS (SELECT 1 FROM lease_trees AS l WHERE l.tree_id = t.id))
UNION ALL SELECT 'I8', 'kept by no lease', lease_id, blob_id FROM lease_blobs AS k WHERE NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.id = k.lease_id)
UNION ALL SELECT 'I8', 'held by no lease', lease_id, image_id FROM lease_images AS h WHERE NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.id = h.lease_id)
UNION ALL SELECT 'I8', 'tree kept by no lease', lease_id, tree_id FROM lease_trees AS k WHERE NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.id = k.lease_id)
UNION ALL SELECT 'I3', 'ingest without its lease', digest, lease_id FROM ingests AS g WHERE lease_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.id = g.lease_id)
UNION ALL SELECT 'I3', 'both here and on its way', digest, NULL FROM ingests AS g WHERE EXISTS (SELECT 1 FROM blobs AS b WHERE b.digest = g.digest)
UNION ALL SELECT 'I3', 'ingest of a tree without its lease', chain_id, lease_id FROM tree_ingests AS g WHERE lease_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.id = g.lease_id)
UNION ALL SELECT 'I3', 'tree both here and on its way', chain_id, NULL FROM tree_ingests AS g WHERE EXISTS (SELECT 1 FROM trees AS t WHERE t.chain_id = g.chain_id)
UNION ALL SELECT 'I7', 'counter ' || name, counter, actual FROM accounting_drift
""",
)

_CHANGED_TRIGGERS = (
    "store_starts_empty",
    "store_ledger",
    "store_counters",
    "store_limit",
    "manifests_gone",
    "leases_gone",
)
#: Views that are read by others go last.
_CHANGED_VIEWS = (
    "problems",
    "accounting_drift",
    "in_flight",
    "reclaimable",
    "image_storage",
    "storage_usage",
)


def upgrade() -> None:
    op.execute("PRAGMA user_version = 2")
    _drop(views=_CHANGED_VIEWS, triggers=_CHANGED_TRIGGERS)
    for name, what in COLUMNS:
        op.execute(f"ALTER TABLE store ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0 /* {what} */")
    for statement in (*TABLES, *INDEXES, *CHANGED_TRIGGERS, *STORE_TRIGGERS, *TREE_TRIGGERS, *VIEWS):
        op.execute(statement.strip())


def downgrade() -> None:
    """
    The rows of trees go, and what they reserved. Their directories are files without rows then (I2).
    """
    op.execute("PRAGMA user_version = 1")
    _drop(views=_CHANGED_VIEWS, triggers=(*_CHANGED_TRIGGERS, "store_inodes"))
    op.execute(
        "UPDATE store SET doomed_bytes = (SELECT coalesce(sum(size), 0) FROM blobs WHERE state = 'doomed'),"
        " reserved_bytes = (SELECT coalesce(sum(reserved_bytes), 0) FROM ingests), ledger = ledger + 1"
    )
    # Dropping a table drops its triggers; DROP TABLE fires none.
    for table in ("tree_ingests", "lease_trees", "manifest_trees", "trees"):
        op.execute(f"DROP TABLE {table}")
    for name, _ in reversed(COLUMNS):
        op.execute(f"ALTER TABLE store DROP COLUMN {name}")
    before = context.script.get_revision(down_revision).module
    for name in (*_CHANGED_TRIGGERS, *reversed(_CHANGED_VIEWS)):
        op.execute(_statement_of(before, name))


def _drop(*, views: tuple[str, ...], triggers: tuple[str, ...]) -> None:
    for name in views:
        op.execute(f"DROP VIEW {name}")
    for name in triggers:
        op.execute(f"DROP TRIGGER {name}")


def _statement_of(earlier: object, name: str) -> str:
    """
    The text of a trigger or a view of an earlier revision, which never changes once it is released.
    """
    texts = (
        text.strip()
        for group in ("STORE_TRIGGERS", "IMAGE_TRIGGERS", "LEASE_TRIGGERS", "VIEWS")
        for text in getattr(earlier, group)
    )
    return next(
        text for text in texts if text.startswith((f"CREATE TRIGGER {name} ", f"CREATE VIEW {name} "))
    )
