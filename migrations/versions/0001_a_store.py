"""
The first store: images and their names, content counted once, what is in flight, and the ledger.

The rules live here, in constraints and triggers, so that they hold for whoever writes: this package, another
release of it, or a person at the sqlite3 shell, where foreign keys are off. Five habits run through the text:

- Triggers repeat what foreign keys say, and do the cascades.
- A guard is a BEFORE trigger on every UPDATE with a WHEN that compares columns, never UPDATE OF: that form goes
  by the name written in the statement, and ``SET rowid = …`` would pass it by.
- What is compared is compared with IS NOT: under OR REPLACE a NULL becomes the column's default, but only after
  the BEFORE triggers have seen the NULL, and ``NULL <> 0`` refuses nothing.
- A flag that the database can work out (``referenced``, ``size``) may be set to the truth and to nothing else.
- What stands for a file or a lock comes and goes only by saying what became of it (``arrived``, ``swept``,
  ``discarded``, ``ended_token``); a plain DELETE is refused, and so is a blob that nobody said arrived. An image is
  made while its pull says that it is ``complete``.

Needs SQLite 3.37 (STRICT). No function newer than that, no JSON function, nothing of an application's.

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# length() of a text and GLOB stop at a NUL character, and what is behind it would pass: so the bytes are counted too.
_WHOLE = "length({0}) = length(CAST({0} AS BLOB))"
_DIGEST = (
    f"{_WHOLE} AND substr({{0}}, 8) NOT GLOB '*[^0-9a-f]*'"
    " AND (length({0}) = 71 AND substr({0}, 1, 7) = 'sha256:' OR length({0}) = 135 AND substr({0}, 1, 7) = 'sha512:')"
)
# A time that there is, in UTC, with microseconds: for the rest strftime answers NULL or, made to calculate, another one.
_TIME = (
    f"{_WHOLE} AND substr({{0}}, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND {{0}} > '0001'"
    " AND substr({0}, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr({0}, 1, 19), '+0 days')"
)
_MOST = 1 << 50  # 1 PiB: keeps every sum far from 2^63

TABLES = (
    f"""
CREATE TABLE store (
  -- The one row: the limit, and counters that triggers keep. View: storage_usage.
  one INTEGER NOT NULL DEFAULT 1,
  uuid TEXT NOT NULL,
  created_at TEXT NOT NULL,
  min_reader INTEGER NOT NULL DEFAULT 1, -- the lowest schema level that may read this store
  min_writer INTEGER NOT NULL DEFAULT 1, -- and write to it
  max_bytes INTEGER NOT NULL, -- the storage limit: used + reserved never grows past it
  min_free_bytes INTEGER NOT NULL DEFAULT 0, -- what a pull leaves free on the filesystem
  image_count INTEGER NOT NULL DEFAULT 0,
  blob_count INTEGER NOT NULL DEFAULT 0,
  blob_bytes INTEGER NOT NULL DEFAULT 0,
  registered_bytes INTEGER NOT NULL DEFAULT 0, -- of images whose bytes the host keeps elsewhere
  reserved_bytes INTEGER NOT NULL DEFAULT 0, -- held by ingests
  doomed_bytes INTEGER NOT NULL DEFAULT 0, -- on disk, about to be unlinked, counted in nothing else
  logical_bytes INTEGER NOT NULL DEFAULT 0, -- what the images would take without sharing
  ledger INTEGER NOT NULL DEFAULT 0, -- +1 with each change of a counter; a change without it is refused
  CONSTRAINT pk_store PRIMARY KEY (one),
  CONSTRAINT ck_store_one CHECK (one = 1),
  CONSTRAINT ck_store_uuid CHECK (length(uuid) = 36 AND {_WHOLE.format("uuid")}),
  CONSTRAINT ck_store_created_at CHECK ({_TIME.format("created_at")}),
  CONSTRAINT ck_store_max_bytes CHECK (max_bytes BETWEEN 0 AND {1 << 60}),
  CONSTRAINT ck_store_min_free_bytes CHECK (min_free_bytes BETWEEN 0 AND {1 << 60})
) STRICT
""",
    f"""
CREATE TABLE images (
  -- One row an image. View for people: image_listing.
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, -- never reused
  image_id TEXT NOT NULL, -- CRI's Image.id: the digest of the config (of the manifest, for an artifact)
  size INTEGER NOT NULL DEFAULT 0, -- bytes of the distinct blobs it names, and what is registered for it
  registered_bytes INTEGER, -- not null: the host keeps this many bytes of it elsewhere
  platform TEXT, -- os/architecture[/variant] as its config says; null for an artifact
  uid INTEGER, -- of the config's User, when that is a number
  username TEXT NOT NULL DEFAULT '', -- of the config's User, when that is a name
  config TEXT, -- the config as it came: json_extract(config, '$.config.Env')
  spec_image_name TEXT NOT NULL, -- what was asked for at first, as typed
  spec_tag TEXT NOT NULL DEFAULT '',
  spec_digest TEXT NOT NULL DEFAULT '',
  pinned INTEGER NOT NULL DEFAULT 0, -- 1: not for eviction; an explicit removal is obeyed
  pulled_at TEXT NOT NULL,
  last_used_at TEXT NOT NULL,
  CONSTRAINT ck_images_id CHECK (id > 0),
  CONSTRAINT uq_images_image_id UNIQUE (image_id),
  CONSTRAINT ck_images_image_id CHECK ({_DIGEST.format("image_id")}),
  CONSTRAINT ck_images_size CHECK (size >= 0),
  CONSTRAINT ck_images_registered_bytes CHECK (registered_bytes BETWEEN 0 AND {_MOST}),
  CONSTRAINT ck_images_user CHECK (uid IS NULL OR username = ''),
  CONSTRAINT ck_images_spec CHECK ({_WHOLE.format("(spec_image_name || spec_tag || spec_digest)")} AND spec_image_name || spec_tag || spec_digest NOT GLOB '*[^!-~]*'),
  CONSTRAINT ck_images_pinned CHECK (pinned IN (0, 1)),
  CONSTRAINT ck_images_pulled_at CHECK ({_TIME.format("pulled_at")}),
  CONSTRAINT ck_images_last_used_at CHECK ({_TIME.format("last_used_at")})
) STRICT
""",
    f"""
CREATE TABLE manifests (
  -- A manifest of an image. Two manifests may name one config, and so be one image.
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  digest TEXT NOT NULL,
  image_id INTEGER NOT NULL, -- the image's row
  media_type TEXT NOT NULL,
  artifact_type TEXT,
  subject TEXT, -- digest of the manifest that this one refers to
  annotations TEXT, -- JSON object, null when there are none
  complete INTEGER NOT NULL DEFAULT 0, -- 1: all its edges are here; then it takes no more
  created_at TEXT NOT NULL,
  CONSTRAINT ck_manifests_id CHECK (id > 0),
  CONSTRAINT uq_manifests_digest UNIQUE (digest),
  CONSTRAINT fk_manifests_image_id_images FOREIGN KEY (image_id) REFERENCES images (id),
  CONSTRAINT ck_manifests_digest CHECK ({_DIGEST.format("digest")}),
  CONSTRAINT ck_manifests_complete CHECK (complete IN (0, 1)),
  CONSTRAINT ck_manifests_created_at CHECK ({_TIME.format("created_at")})
) STRICT
""",
    f"""
CREATE TABLE blobs (
  -- Content: a row says that blobs/<algorithm>/<encoded> is there, whole and verified.
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  digest TEXT NOT NULL,
  size INTEGER NOT NULL, -- bytes
  state TEXT NOT NULL DEFAULT 'ready', -- 'ready'; 'doomed': its file is about to go; 'swept': said in passing, ends the row
  referenced INTEGER NOT NULL DEFAULT 0, -- 1: some manifest names it
  created_at TEXT NOT NULL,
  verified_at TEXT, -- when its bytes were last hashed, after the pull that did so first
  CONSTRAINT ck_blobs_id CHECK (id > 0),
  CONSTRAINT uq_blobs_digest UNIQUE (digest),
  CONSTRAINT ck_blobs_digest CHECK ({_DIGEST.format("digest")}),
  CONSTRAINT ck_blobs_size CHECK (size BETWEEN 0 AND {_MOST}),
  CONSTRAINT ck_blobs_state CHECK (state IN ('ready', 'doomed', 'swept')),
  CONSTRAINT ck_blobs_referenced CHECK (referenced IN (0, 1)),
  CONSTRAINT ck_blobs_created_at CHECK ({_TIME.format("created_at")}),
  CONSTRAINT ck_blobs_verified_at CHECK (verified_at IS NULL OR {_TIME.format("verified_at")})
) STRICT
""",
    """
CREATE TABLE manifest_blobs (
  -- Which blobs a manifest needs, flattened: itself, its config, its layers in order, the indexes it came by.
  manifest_id INTEGER NOT NULL,
  position INTEGER NOT NULL,
  blob_id INTEGER NOT NULL,
  role TEXT NOT NULL,
  media_type TEXT NOT NULL,
  CONSTRAINT pk_manifest_blobs PRIMARY KEY (manifest_id, position),
  CONSTRAINT fk_manifest_blobs_manifest_id_manifests FOREIGN KEY (manifest_id) REFERENCES manifests (id),
  CONSTRAINT fk_manifest_blobs_blob_id_blobs FOREIGN KEY (blob_id) REFERENCES blobs (id),
  CONSTRAINT ck_manifest_blobs_position CHECK (position >= 0),
  CONSTRAINT ck_manifest_blobs_role CHECK (role IN ('manifest', 'config', 'layer', 'index'))
) STRICT, WITHOUT ROWID
""",
    f"""
CREATE TABLE repo_tags (
  -- docker.io/library/alpine:3.20 and the image that it denotes.
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  reference TEXT NOT NULL,
  image_id INTEGER NOT NULL, -- the image's row
  manifest_id INTEGER, -- what it was resolved to; null for a registered image
  digest TEXT, -- of the index or manifest that the registry answered with; null if a registered image has none
  platform TEXT, -- the platform that was asked for
  updated_at TEXT NOT NULL,
  CONSTRAINT ck_repo_tags_id CHECK (id > 0),
  CONSTRAINT uq_repo_tags_reference UNIQUE (reference),
  CONSTRAINT fk_repo_tags_image_id_images FOREIGN KEY (image_id) REFERENCES images (id),
  CONSTRAINT fk_repo_tags_manifest_id_manifests FOREIGN KEY (manifest_id) REFERENCES manifests (id),
  CONSTRAINT ck_repo_tags_reference CHECK (length(reference) BETWEEN 5 AND 1024 AND {_WHOLE.format("reference")} AND reference NOT GLOB '*[^!-~]*' AND reference GLOB '?*/?*:?*' AND instr(reference, '@') = 0),
  CONSTRAINT ck_repo_tags_digest CHECK (digest IS NULL OR {_DIGEST.format("digest")}),
  CONSTRAINT ck_repo_tags_updated_at CHECK ({_TIME.format("updated_at")})
) STRICT
""",
    f"""
CREATE TABLE repo_digests (
  -- docker.io/library/alpine@sha256:… and the image that it denotes.
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  reference TEXT NOT NULL,
  image_id INTEGER NOT NULL,
  manifest_id INTEGER,
  digest TEXT NOT NULL, -- the part of the reference after the @
  platform TEXT,
  updated_at TEXT NOT NULL,
  CONSTRAINT ck_repo_digests_id CHECK (id > 0),
  CONSTRAINT uq_repo_digests_reference UNIQUE (reference),
  CONSTRAINT fk_repo_digests_image_id_images FOREIGN KEY (image_id) REFERENCES images (id),
  CONSTRAINT fk_repo_digests_manifest_id_manifests FOREIGN KEY (manifest_id) REFERENCES manifests (id),
  CONSTRAINT ck_repo_digests_reference CHECK (length(reference) <= 1024 AND {_WHOLE.format("reference")} AND reference NOT GLOB '*[^!-~]*' AND reference GLOB '?*/?*@?*' AND substr(reference, instr(reference, '@') + 1) = digest),
  CONSTRAINT ck_repo_digests_digest CHECK ({_DIGEST.format("digest")}),
  CONSTRAINT ck_repo_digests_updated_at CHECK ({_TIME.format("updated_at")})
) STRICT
""",
    f"""
CREATE TABLE leases (
  -- Who is at work. A lease lives as long as leases/<token> is locked by its owner, never by a clock.
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  token TEXT NOT NULL, -- the name of the locked file
  purpose TEXT NOT NULL,
  reference TEXT, -- what is being pulled or held
  status TEXT NOT NULL DEFAULT 'pending', -- of a pull: CRI's PullStatus; 'complete': said in passing, while it makes its image
  owner TEXT NOT NULL, -- host and program, for people
  pid INTEGER NOT NULL,
  created_at TEXT NOT NULL,
  ended_token TEXT, -- the token again, written by the owner or by whoever took its lock: ends the lease
  CONSTRAINT ck_leases_id CHECK (id > 0),
  CONSTRAINT uq_leases_token UNIQUE (token),
  CONSTRAINT ck_leases_token CHECK (length(token) = 32 AND {_WHOLE.format("token")} AND token NOT GLOB '*[^0-9a-f]*'),
  CONSTRAINT ck_leases_purpose CHECK (purpose IN ('pull', 'hold')),
  CONSTRAINT ck_leases_status CHECK (status IN ('pending', 'downloading', 'extracting', 'complete', 'failed')),
  CONSTRAINT ck_leases_ended_token CHECK (ended_token IS NULL OR ended_token = token),
  CONSTRAINT ck_leases_created_at CHECK ({_TIME.format("created_at")})
) STRICT
""",
    """
CREATE TABLE lease_blobs (
  -- Blobs that a lease keeps from the collector.
  lease_id INTEGER NOT NULL,
  blob_id INTEGER NOT NULL,
  CONSTRAINT pk_lease_blobs PRIMARY KEY (lease_id, blob_id),
  CONSTRAINT fk_lease_blobs_lease_id_leases FOREIGN KEY (lease_id) REFERENCES leases (id),
  CONSTRAINT fk_lease_blobs_blob_id_blobs FOREIGN KEY (blob_id) REFERENCES blobs (id)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE lease_images (
  -- Images that a lease holds: nobody removes them meanwhile. View: held.
  lease_id INTEGER NOT NULL,
  image_id INTEGER NOT NULL,
  CONSTRAINT pk_lease_images PRIMARY KEY (lease_id, image_id),
  CONSTRAINT fk_lease_images_lease_id_leases FOREIGN KEY (lease_id) REFERENCES leases (id),
  CONSTRAINT fk_lease_images_image_id_images FOREIGN KEY (image_id) REFERENCES images (id)
) STRICT, WITHOUT ROWID
""",
    f"""
CREATE TABLE ingests (
  -- Blobs on their way in. A row is the reservation, the announcement of the file ingest/<encoded>, and what keeps
  -- two pulls from fetching one blob. Without a lease it is a partial blob that a later pull goes on with.
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  digest TEXT NOT NULL,
  size INTEGER NOT NULL, -- as the descriptor says
  lease_id INTEGER, -- who fetches it; null: nobody, it can be resumed
  reserved_bytes INTEGER NOT NULL, -- size while it is fetched, what is on disk after that
  received_bytes INTEGER NOT NULL DEFAULT 0, -- about now, while it is fetched; exactly, after that
  state TEXT NOT NULL DEFAULT 'partial', -- 'arrived': said of the file that is in place, makes it a blob next; 'discarded': said in passing, ends the row
  created_at TEXT NOT NULL,
  CONSTRAINT ck_ingests_id CHECK (id > 0),
  CONSTRAINT uq_ingests_digest UNIQUE (digest),
  CONSTRAINT fk_ingests_lease_id_leases FOREIGN KEY (lease_id) REFERENCES leases (id),
  CONSTRAINT ck_ingests_digest CHECK ({_DIGEST.format("digest")}),
  CONSTRAINT ck_ingests_size CHECK (size BETWEEN 0 AND {_MOST}),
  CONSTRAINT ck_ingests_received_bytes CHECK (received_bytes BETWEEN 0 AND size),
  CONSTRAINT ck_ingests_reserved_bytes CHECK (reserved_bytes = CASE WHEN lease_id IS NULL THEN received_bytes ELSE size END),
  CONSTRAINT ck_ingests_state CHECK (state IN ('partial', 'arrived', 'discarded')),
  CONSTRAINT ck_ingests_created_at CHECK ({_TIME.format("created_at")})
) STRICT
""",
)

INDEXES = (
    "CREATE INDEX ix_images_last_used_at ON images (last_used_at) WHERE pinned = 0",  # who goes first
    "CREATE INDEX ix_manifests_image_id ON manifests (image_id)",
    "CREATE INDEX ix_manifest_blobs_blob_id ON manifest_blobs (blob_id, manifest_id)",
    "CREATE INDEX ix_blobs_unreferenced ON blobs (created_at) WHERE referenced = 0",  # the collector's list: O(garbage)
    "CREATE INDEX ix_blobs_doomed ON blobs (id) WHERE state = 'doomed'",
    "CREATE INDEX ix_repo_tags_image_id ON repo_tags (image_id)",
    "CREATE INDEX ix_repo_digests_image_id ON repo_digests (image_id)",
    # What a foreign key looks for when a manifest goes: without them every removal reads every reference.
    "CREATE INDEX ix_repo_tags_manifest_id ON repo_tags (manifest_id)",
    "CREATE INDEX ix_repo_digests_manifest_id ON repo_digests (manifest_id)",
    "CREATE INDEX ix_lease_blobs_blob_id ON lease_blobs (blob_id)",
    "CREATE INDEX ix_lease_images_image_id ON lease_images (image_id)",
    "CREATE INDEX ix_ingests_lease_id ON ingests (lease_id)",
)

_COUNTERS = (
    "image_count",
    "blob_count",
    "blob_bytes",
    "registered_bytes",
    "reserved_bytes",
    "doomed_bytes",
    "logical_bytes",
)
_TOTAL = "({0}.blob_bytes + {0}.registered_bytes + {0}.reserved_bytes)"

# What an image takes: what is registered for it, and the distinct blobs of its complete manifests.
_IMAGE_SIZE = """(SELECT coalesce(i.registered_bytes, 0) + coalesce((
    SELECT sum(b.size) FROM blobs AS b WHERE b.id IN (
      SELECT e.blob_id FROM manifests AS m CROSS JOIN manifest_blobs AS e ON e.manifest_id = m.id
      WHERE m.image_id = i.id AND m.complete = 1)), 0)
    FROM images AS i WHERE i.id = {0})"""

# A reference denotes an image by a complete manifest of it, and says by which digest it got there: the manifest's own,
# or that of an index it came by. Only a registered image has none.
_REFERENCE_IS_SOUND = """(
  EXISTS (SELECT 1 FROM manifests AS m WHERE m.id = NEW.manifest_id AND m.image_id = NEW.image_id AND m.complete = 1
    AND (m.digest = NEW.digest OR EXISTS (SELECT 1 FROM blobs AS b CROSS JOIN manifest_blobs AS e ON e.blob_id = b.id
      WHERE b.digest = NEW.digest AND e.manifest_id = NEW.manifest_id AND e.role = 'index')))
  OR NEW.manifest_id IS NULL AND EXISTS (SELECT 1 FROM images AS i WHERE i.id = NEW.image_id AND i.registered_bytes IS NOT NULL))"""

# What is made of a blob is made by a pull that keeps it and says that it completes: no half of an image is left by hand.
_KEPT = """EXISTS (
  SELECT 1 FROM blobs AS b CROSS JOIN lease_blobs AS k ON k.blob_id = b.id CROSS JOIN leases AS l ON l.id = k.lease_id
  WHERE {0} AND b.state = 'ready' AND l.status = 'complete')"""


def _refuse(name: str, when: str, condition: str, why: str) -> str:
    return f"CREATE TRIGGER {name} {when}\nWHEN {condition}\nBEGIN SELECT RAISE(ABORT, 'ullage: {why}'); END"


def _changed(*columns: str) -> str:
    return " OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in columns)


def _numbered(table: str) -> str:
    # One that is given by hand could be the last that there is (2^63 - 1), or one that a host still remembers.
    return _refuse(
        f"{table}_numbered",
        f"BEFORE INSERT ON {table}",
        f"NEW.id > 0 AND NEW.id <> coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{table}'), 0) + 1",
        "ids are given by the database, each once",
    )


def _ledger(changes: str) -> str:
    return f"UPDATE store SET {changes}, ledger = ledger + 1;"


STORE_TRIGGERS = (
    _refuse("store_stays", "BEFORE DELETE ON store", "1", "the store row cannot be deleted"),
    _refuse("store_is_one", "BEFORE INSERT ON store", "EXISTS (SELECT 1 FROM store)", "the store row exists"),
    _refuse(
        "store_starts_empty",
        "BEFORE INSERT ON store",
        " OR ".join(f"NEW.{c} IS NOT 0" for c in _COUNTERS),
        "a store starts with nothing in it",
    ),
    _refuse(
        "store_identity",
        "BEFORE UPDATE ON store",
        _changed("one", "uuid", "created_at"),
        "a store keeps its identity",
    ),
    _refuse(
        "store_ledger",
        "BEFORE UPDATE ON store",
        f"({_changed(*_COUNTERS, 'ledger')}) AND NEW.ledger IS NOT OLD.ledger + 1",
        "counters are kept by triggers; accounting_drift shows where they are wrong, ullage check --repair recounts",
    ),
    # No CHECK: under OR IGNORE of the outer statement that would skip this row and let the rest happen.
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
)

BLOB_TRIGGERS = (
    # BEFORE and by id too: INSERT OR REPLACE would take the old row away without its delete triggers.
    _refuse(
        "blobs_are_new",
        "BEFORE INSERT ON blobs",
        "EXISTS (SELECT 1 FROM blobs WHERE digest = NEW.digest OR id = NEW.id)",
        "that blob is here",
    ),
    _numbered("blobs"),
    _refuse(
        "blobs_come_from_ingests",
        "BEFORE INSERT ON blobs",
        "NOT EXISTS (SELECT 1 FROM ingests WHERE digest = NEW.digest AND size = NEW.size AND received_bytes = size AND state = 'arrived' AND lease_id IS NOT NULL)",
        "a blob row comes from an ingest whose owner says that it arrived",
    ),
    _refuse(
        "blobs_start_ready",
        "BEFORE INSERT ON blobs",
        "NEW.state IS NOT 'ready' OR NEW.referenced IS NOT 0",
        "a new blob is ready, and named by nothing yet",
    ),
    # The reservation becomes the blob in one step that nets to nothing, so a limit lowered meanwhile is no obstacle.
    f"""CREATE TRIGGER blobs_published AFTER INSERT ON blobs BEGIN
  {_ledger("blob_count = blob_count + 1, blob_bytes = blob_bytes + NEW.size, reserved_bytes = reserved_bytes - (SELECT reserved_bytes FROM ingests WHERE digest = NEW.digest)")}
  INSERT INTO lease_blobs (lease_id, blob_id) SELECT lease_id, NEW.id FROM ingests WHERE digest = NEW.digest;
  DELETE FROM ingests WHERE digest = NEW.digest;
END""",
    _refuse(
        "blobs_immutable",
        "BEFORE UPDATE ON blobs",
        _changed("id", "digest", "size"),
        "a blob is immutable",
    ),
    _refuse(
        "blobs_referenced",
        "BEFORE UPDATE ON blobs",
        "NEW.referenced IS NOT OLD.referenced AND NEW.referenced IS NOT EXISTS (SELECT 1 FROM manifest_blobs WHERE blob_id = OLD.id)",
        "whether a blob is referenced is for its manifests to say",
    ),
    _refuse(
        "blobs_in_use",
        "BEFORE UPDATE ON blobs",
        "NEW.state IS NOT 'ready' AND (EXISTS (SELECT 1 FROM manifest_blobs WHERE blob_id = OLD.id) OR EXISTS (SELECT 1 FROM lease_blobs WHERE blob_id = OLD.id))",
        "the blob is in use",
    ),
    _refuse(
        "blobs_step_by_step",
        "BEFORE UPDATE ON blobs",
        "NEW.state IS 'swept' AND OLD.state <> 'doomed'",
        "only a doomed blob is swept, by whoever removes its file",
    ),
    f"""CREATE TRIGGER blobs_doomed AFTER UPDATE ON blobs WHEN OLD.state = 'ready' AND NEW.state = 'doomed' BEGIN
  {_ledger("blob_count = blob_count - 1, blob_bytes = blob_bytes - OLD.size, doomed_bytes = doomed_bytes + OLD.size")}
END""",
    f"""CREATE TRIGGER blobs_taken_back AFTER UPDATE ON blobs WHEN OLD.state = 'doomed' AND NEW.state = 'ready' BEGIN
  {_ledger("blob_count = blob_count + 1, blob_bytes = blob_bytes + OLD.size, doomed_bytes = doomed_bytes - OLD.size")}
END""",
    """CREATE TRIGGER blobs_swept AFTER UPDATE ON blobs WHEN NEW.state = 'swept' BEGIN
  DELETE FROM blobs WHERE id = NEW.id;
END""",
    _refuse(
        "blobs_stay",
        "BEFORE DELETE ON blobs",
        "OLD.state <> 'swept'",
        "a blob row goes with its file: set state to doomed, and ullage gc removes both",
    ),
    f"""CREATE TRIGGER blobs_gone AFTER DELETE ON blobs BEGIN
  {_ledger("doomed_bytes = doomed_bytes - OLD.size")}
END""",
)

IMAGE_TRIGGERS = (
    _refuse(
        "images_are_new",
        "BEFORE INSERT ON images",
        "EXISTS (SELECT 1 FROM images WHERE image_id = NEW.image_id OR id = NEW.id)",
        "that image is here",
    ),
    _numbered("images"),
    _refuse(
        "images_have_content",
        "BEFORE INSERT ON images",
        f"NEW.registered_bytes IS NULL AND NOT {_KEPT.format('b.digest = NEW.image_id')}",
        "an image is made by a pull that completes and keeps its content, or of what is registered for it",
    ),
    _refuse(
        "images_start_small",
        "BEFORE INSERT ON images",
        "NEW.size IS NOT coalesce(NEW.registered_bytes, 0)",
        "a new image has the size of what is registered for it",
    ),
    f"""CREATE TRIGGER images_counted AFTER INSERT ON images BEGIN
  {_ledger("image_count = image_count + 1, registered_bytes = registered_bytes + coalesce(NEW.registered_bytes, 0), logical_bytes = logical_bytes + NEW.size")}
END""",
    _refuse(
        "images_immutable",
        "BEFORE UPDATE ON images",
        _changed("id", "image_id", "registered_bytes", "platform", "uid", "username", "config"),
        "an image keeps its identity, and what its config says",
    ),
    _refuse(
        "images_size",
        "BEFORE UPDATE ON images",
        f"NEW.size IS NOT OLD.size AND NEW.size IS NOT {_IMAGE_SIZE.format('OLD.id')}",
        "the size of an image is that of its blobs",
    ),
    f"""CREATE TRIGGER images_resized AFTER UPDATE ON images WHEN NEW.size <> OLD.size BEGIN
  {_ledger("logical_bytes = logical_bytes + NEW.size - OLD.size")}
END""",
    _refuse(
        "images_held",
        "BEFORE DELETE ON images",
        "EXISTS (SELECT 1 FROM lease_images WHERE image_id = OLD.id)",
        "the image is held; the view held says by whom",
    ),
    f"""CREATE TRIGGER images_gone AFTER DELETE ON images BEGIN
  DELETE FROM repo_tags WHERE image_id = OLD.id;
  DELETE FROM repo_digests WHERE image_id = OLD.id;
  DELETE FROM manifests WHERE image_id = OLD.id;
  {_ledger("image_count = image_count - 1, registered_bytes = registered_bytes - coalesce(OLD.registered_bytes, 0), logical_bytes = logical_bytes - OLD.size")}
END""",
    _refuse(
        "manifests_are_new",
        "BEFORE INSERT ON manifests",
        "EXISTS (SELECT 1 FROM manifests WHERE digest = NEW.digest OR id = NEW.id)",
        "that manifest is here",
    ),
    _numbered("manifests"),
    _refuse(
        "manifests_need_an_image",
        "BEFORE INSERT ON manifests",
        f"NEW.complete IS NOT 0 OR NOT EXISTS (SELECT 1 FROM images WHERE id = NEW.image_id) OR NOT {_KEPT.format('b.digest = NEW.digest')}",
        "a manifest is made by a pull that completes and keeps its bytes; it needs its image, and is complete when its edges are here",
    ),
    _refuse(
        "manifests_immutable",
        "BEFORE UPDATE ON manifests",
        f"{_changed('id', 'digest', 'image_id', 'media_type', 'artifact_type', 'subject', 'annotations')} OR NEW.complete IS NOT 1 AND OLD.complete = 1",
        "a manifest is immutable",
    ),
    _refuse(
        "manifests_whole",
        "BEFORE UPDATE ON manifests",
        """NEW.complete > OLD.complete AND NOT (
  EXISTS (SELECT 1 FROM manifest_blobs AS e JOIN blobs AS b ON b.id = e.blob_id WHERE e.manifest_id = OLD.id AND e.role = 'manifest' AND b.digest = OLD.digest)
  AND EXISTS (SELECT 1 FROM manifest_blobs AS e JOIN blobs AS b ON b.id = e.blob_id JOIN images AS i ON i.id = OLD.image_id
    WHERE e.manifest_id = OLD.id AND e.role = 'config' AND i.image_id IN (b.digest, OLD.digest)))""",
        "a complete manifest has itself and its config among its blobs, and one of the two names its image",
    ),
    f"""CREATE TRIGGER manifests_completed AFTER UPDATE ON manifests WHEN NEW.complete > OLD.complete BEGIN
  UPDATE images SET size = {_IMAGE_SIZE.format("NEW.image_id")} WHERE id = NEW.image_id;
END""",
    _refuse(
        "manifests_stay",
        "BEFORE DELETE ON manifests",
        "EXISTS (SELECT 1 FROM images WHERE id = OLD.image_id)",
        "a manifest goes with its image",
    ),
    """CREATE TRIGGER manifests_gone AFTER DELETE ON manifests BEGIN
  DELETE FROM manifest_blobs WHERE manifest_id = OLD.id;
END""",
    _refuse(
        "manifest_blobs_sound",
        "BEFORE INSERT ON manifest_blobs",
        f"""NOT {_KEPT.format("b.id = NEW.blob_id")}
  OR NOT EXISTS (SELECT 1 FROM manifests WHERE id = NEW.manifest_id AND (complete = 0 OR NEW.role = 'index'))
  OR NEW.position IS NOT (SELECT coalesce(max(position) + 1, 0) FROM manifest_blobs WHERE manifest_id = NEW.manifest_id)""",
        "an edge is made by a pull that completes and keeps its blob; it needs the next position, and a manifest that is not complete",
    ),
    f"""CREATE TRIGGER manifest_blobs_added AFTER INSERT ON manifest_blobs BEGIN
  UPDATE blobs SET referenced = 1 WHERE id = NEW.blob_id AND referenced = 0;
  UPDATE images SET size = {_IMAGE_SIZE.format("images.id")}
   WHERE id = (SELECT image_id FROM manifests WHERE id = NEW.manifest_id AND complete = 1);
END""",
    _refuse("manifest_blobs_immutable", "BEFORE UPDATE ON manifest_blobs", "1", "edges are immutable"),
    _refuse(
        "manifest_blobs_stay",
        "BEFORE DELETE ON manifest_blobs",
        "EXISTS (SELECT 1 FROM manifests WHERE id = OLD.manifest_id)",
        "edges go with their manifest",
    ),
    """CREATE TRIGGER manifest_blobs_gone AFTER DELETE ON manifest_blobs BEGIN
  UPDATE blobs SET referenced = 0 WHERE id = OLD.blob_id AND referenced = 1
     AND NOT EXISTS (SELECT 1 FROM manifest_blobs WHERE blob_id = OLD.blob_id);
END""",
    _numbered("repo_tags"),
    _refuse(
        "repo_tags_sound",
        "BEFORE INSERT ON repo_tags",
        f"NOT {_REFERENCE_IS_SOUND}",
        "a reference needs an image, a complete manifest of it, and a digest by which that is found",
    ),
    _refuse(
        "repo_tags_keep_their_ids",
        "BEFORE UPDATE ON repo_tags",
        _changed("id"),
        "a reference keeps its row",
    ),
    _refuse(
        "repo_tags_stay_sound",
        "BEFORE UPDATE ON repo_tags",
        f"NOT {_REFERENCE_IS_SOUND}",
        "a reference needs an image, a complete manifest of it, and a digest by which that is found",
    ),
    _numbered("repo_digests"),
    _refuse(
        "repo_digests_sound",
        "BEFORE INSERT ON repo_digests",
        f"NOT {_REFERENCE_IS_SOUND}",
        "a reference needs an image, a complete manifest of it, and a digest by which that is found",
    ),
    _refuse(
        "repo_digests_keep_their_ids",
        "BEFORE UPDATE ON repo_digests",
        _changed("id"),
        "a reference keeps its row",
    ),
    _refuse(
        "repo_digests_stay_sound",
        "BEFORE UPDATE ON repo_digests",
        f"NOT {_REFERENCE_IS_SOUND}",
        "a reference needs an image, a complete manifest of it, and a digest by which that is found",
    ),
)

LEASE_TRIGGERS = (
    _refuse(
        "leases_are_new",
        "BEFORE INSERT ON leases",
        "EXISTS (SELECT 1 FROM leases WHERE token = NEW.token OR id = NEW.id)",
        "that lease is here",
    ),
    _refuse(
        "leases_start_at_work",
        "BEFORE INSERT ON leases",
        "NEW.ended_token IS NOT NULL OR NEW.status IS 'complete'",
        "a lease starts with its work before it",
    ),
    _numbered("leases"),
    _refuse(
        "leases_immutable",
        "BEFORE UPDATE ON leases",
        _changed("id", "token", "purpose", "reference", "owner", "pid", "created_at"),
        "a lease keeps its identity",
    ),
    """CREATE TRIGGER leases_ended AFTER UPDATE ON leases WHEN NEW.ended_token IS NOT NULL BEGIN
  DELETE FROM leases WHERE id = NEW.id;
END""",
    _refuse(
        "leases_stay",
        "BEFORE DELETE ON leases",
        "OLD.ended_token IS NULL",
        "a lease ends when its owner lets go of its lock; ullage gc ends those whose owners are dead",
    ),
    # What it was fetching stays, as a partial blob that nobody owns: the file may be there, so whoever removes that
    # says so. (To discard here what received nothing would take a hand-written 0 for the truth, and leave a file.)
    """CREATE TRIGGER leases_gone AFTER DELETE ON leases BEGIN
  DELETE FROM lease_blobs WHERE lease_id = OLD.id;
  DELETE FROM lease_images WHERE lease_id = OLD.id;
  UPDATE ingests SET lease_id = NULL, reserved_bytes = received_bytes, state = 'partial' WHERE lease_id = OLD.id;
END""",
    _refuse(
        "lease_blobs_sound",
        "BEFORE INSERT ON lease_blobs",
        "NOT EXISTS (SELECT 1 FROM leases WHERE id = NEW.lease_id) OR NOT EXISTS (SELECT 1 FROM blobs WHERE id = NEW.blob_id AND state = 'ready')",
        "a lease keeps blobs that are ready",
    ),
    _refuse(
        "lease_blobs_immutable", "BEFORE UPDATE ON lease_blobs", "1", "what a lease keeps goes with the lease"
    ),
    _refuse(
        "lease_blobs_stay",
        "BEFORE DELETE ON lease_blobs",
        "EXISTS (SELECT 1 FROM leases WHERE id = OLD.lease_id)",
        "what a lease keeps goes with the lease",
    ),
    _refuse(
        "lease_images_sound",
        "BEFORE INSERT ON lease_images",
        "NOT EXISTS (SELECT 1 FROM leases WHERE id = NEW.lease_id) OR NOT EXISTS (SELECT 1 FROM images WHERE id = NEW.image_id)",
        "a lease holds images that are here",
    ),
    _refuse(
        "lease_images_immutable",
        "BEFORE UPDATE ON lease_images",
        "1",
        "what a lease holds goes with the lease",
    ),
    _refuse(
        "lease_images_stay",
        "BEFORE DELETE ON lease_images",
        "EXISTS (SELECT 1 FROM leases WHERE id = OLD.lease_id)",
        "what a lease holds goes with the lease",
    ),
    _refuse(
        "ingests_are_new",
        "BEFORE INSERT ON ingests",
        "EXISTS (SELECT 1 FROM ingests WHERE digest = NEW.digest OR id = NEW.id) OR EXISTS (SELECT 1 FROM blobs WHERE digest = NEW.digest)",
        "that blob is here or on its way",
    ),
    _numbered("ingests"),
    _refuse(
        "ingests_need_a_lease",
        "BEFORE INSERT ON ingests",
        "NEW.state IS NOT 'partial' OR NEW.received_bytes IS NOT 0 OR NEW.lease_id IS NULL OR NOT EXISTS (SELECT 1 FROM leases WHERE id = NEW.lease_id)",
        "an ingest starts empty and needs a lease",
    ),
    f"""CREATE TRIGGER ingests_reserved AFTER INSERT ON ingests BEGIN
  {_ledger("reserved_bytes = reserved_bytes + NEW.reserved_bytes")}
END""",
    _refuse(
        "ingests_immutable",
        "BEFORE UPDATE ON ingests",
        _changed("id", "digest", "size"),
        "an ingest keeps its identity",
    ),
    _refuse(
        "ingests_owner",
        "BEFORE UPDATE ON ingests",
        """NEW.lease_id IS NOT OLD.lease_id AND (
  EXISTS (SELECT 1 FROM leases WHERE id = OLD.lease_id)
  OR NEW.lease_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM leases WHERE id = NEW.lease_id))""",
        "an ingest belongs to its lease for as long as that lives",
    ),
    _refuse(
        "ingests_at_rest",
        "BEFORE UPDATE ON ingests",
        "OLD.lease_id IS NULL AND NEW.received_bytes IS NOT OLD.received_bytes",
        "a partial blob that nobody fetches does not change",
    ),
    _refuse(
        "ingests_in_use",
        "BEFORE UPDATE ON ingests",
        "NEW.state IS 'discarded' AND NEW.lease_id IS NOT NULL",
        "only a partial blob that nobody owns is discarded, by whoever removes its file",
    ),
    _refuse(
        "ingests_arrive_whole",
        "BEFORE UPDATE ON ingests",
        "NEW.state IS 'arrived' AND (NEW.lease_id IS NULL OR NEW.received_bytes IS NOT NEW.size)",
        "an ingest has arrived when its owner says so and all its bytes are here",
    ),
    f"""CREATE TRIGGER ingests_resized AFTER UPDATE ON ingests WHEN NEW.reserved_bytes <> OLD.reserved_bytes BEGIN
  {_ledger("reserved_bytes = reserved_bytes + NEW.reserved_bytes - OLD.reserved_bytes")}
END""",
    """CREATE TRIGGER ingests_discarded AFTER UPDATE ON ingests WHEN NEW.state = 'discarded' BEGIN
  DELETE FROM ingests WHERE id = NEW.id;
END""",
    _refuse(
        "ingests_stay",
        "BEFORE DELETE ON ingests",
        "OLD.state <> 'discarded' AND NOT EXISTS (SELECT 1 FROM blobs WHERE digest = OLD.digest)",
        "an ingest ends with its lease, or is discarded by ullage gc with its file",
    ),
    f"""CREATE TRIGGER ingests_gone AFTER DELETE ON ingests WHEN NOT EXISTS (SELECT 1 FROM blobs WHERE digest = OLD.digest) BEGIN
  {_ledger("reserved_bytes = reserved_bytes - OLD.reserved_bytes")}
END""",
)

_HUMAN = """CASE WHEN {0} < 1000 THEN {0} || ' B' WHEN {0} < 1000000 THEN round({0} / 1e3, 1) || ' kB'
       WHEN {0} < 1000000000 THEN round({0} / 1e6, 1) || ' MB' ELSE round({0} / 1e9, 2) || ' GB' END"""
_NAMES = "(SELECT group_concat(reference, ' ') FROM (SELECT reference FROM {0} WHERE image_id = {1} ORDER BY reference))"

VIEWS = (
    """
CREATE VIEW storage_usage AS
-- Where the bytes are: one row, at no cost. used + reserved + available = max, unless the limit was lowered below use.
SELECT max_bytes,
       blob_bytes + registered_bytes AS used_bytes,
       reserved_bytes,
       max(0, max_bytes - blob_bytes - registered_bytes - reserved_bytes) AS available_bytes,
       image_count, blob_count, blob_bytes,
       0 AS tree_bytes, -- this revision keeps no trees
       registered_bytes, doomed_bytes, logical_bytes
FROM store
""",
    f"""
CREATE VIEW image_listing AS
-- The images, for people. image_storage says what each of them takes alone.
SELECT i.id, coalesce({_NAMES.format("repo_tags", "i.id")}, '<none>') AS repo_tags,
       {_HUMAN.format("i.size")} AS human_size, i.size, i.platform, i.pinned,
       i.pulled_at, i.last_used_at, i.image_id,
       {_NAMES.format("repo_digests", "i.id")} AS repo_digests, i.uid, i.username
FROM images AS i
""",
    """
CREATE VIEW image_storage AS
-- What each image takes: exclusive_bytes is what removing it frees.
SELECT id, image_id, size, size - exclusive_bytes AS shared_bytes, exclusive_bytes FROM (
  SELECT i.id, i.image_id, i.size,
         coalesce(i.registered_bytes, 0) + coalesce((
           SELECT sum(b.size) FROM blobs AS b WHERE b.id IN (
             SELECT e.blob_id FROM manifests AS m CROSS JOIN manifest_blobs AS e ON e.manifest_id = m.id WHERE m.image_id = i.id)
           AND NOT EXISTS (
             SELECT 1 FROM manifest_blobs AS o CROSS JOIN manifests AS n ON n.id = o.manifest_id
             WHERE o.blob_id = b.id AND n.image_id <> i.id)
           AND NOT EXISTS (SELECT 1 FROM lease_blobs AS l WHERE l.blob_id = b.id)), 0) AS exclusive_bytes
  FROM images AS i)
""",
    """
CREATE VIEW reclaimable AS
-- What collection would free: blobs that nothing names, and partial blobs that nobody fetches.
SELECT 'blob' AS kind, b.digest, b.size AS bytes, b.created_at AS since FROM blobs AS b
 WHERE b.referenced = 0 AND NOT EXISTS (SELECT 1 FROM lease_blobs AS l WHERE l.blob_id = b.id)
UNION ALL
SELECT 'partial', digest, reserved_bytes, created_at FROM ingests WHERE lease_id IS NULL
""",
    f"""
CREATE VIEW in_flight AS
-- What is being pulled right now, blob by blob, and what a later pull can go on with.
SELECT coalesce(l.reference, '(nobody: resumable)') AS reference, l.status, g.digest, g.received_bytes, g.size,
       CASE WHEN g.size > 0 THEN 100 * g.received_bytes / g.size ELSE 100 END AS percent,
       {_HUMAN.format("g.size")} AS human_size, g.reserved_bytes, l.owner, l.pid, g.created_at AS since
FROM ingests AS g LEFT JOIN leases AS l ON l.id = g.lease_id
""",
    f"""
CREATE VIEW held AS
-- Who holds which image, since when.
SELECT i.id, i.image_id, {_NAMES.format("repo_tags", "i.id")} AS repo_tags, l.owner, l.pid, l.created_at AS since
FROM lease_images AS h JOIN leases AS l ON l.id = h.lease_id JOIN images AS i ON i.id = h.image_id
""",
    f"""
CREATE VIEW accounting_drift AS
-- Empty when the counters are right: each is compared with what it counts.
SELECT name, counter, actual FROM (
  SELECT 'image_count' AS name, (SELECT image_count FROM store) AS counter, (SELECT count(*) FROM images) AS actual
  UNION ALL SELECT 'blob_count', (SELECT blob_count FROM store), (SELECT count(*) FROM blobs WHERE state = 'ready')
  UNION ALL SELECT 'blob_bytes', (SELECT blob_bytes FROM store), (SELECT coalesce(sum(size), 0) FROM blobs WHERE state = 'ready')
  UNION ALL SELECT 'doomed_bytes', (SELECT doomed_bytes FROM store), (SELECT coalesce(sum(size), 0) FROM blobs WHERE state = 'doomed')
  UNION ALL SELECT 'registered_bytes', (SELECT registered_bytes FROM store), (SELECT coalesce(sum(registered_bytes), 0) FROM images)
  UNION ALL SELECT 'reserved_bytes', (SELECT reserved_bytes FROM store), (SELECT coalesce(sum(reserved_bytes), 0) FROM ingests)
  UNION ALL SELECT 'logical_bytes', (SELECT logical_bytes FROM store), (SELECT coalesce(sum(size), 0) FROM images)
  UNION ALL SELECT 'size of image ' || id, size, {_IMAGE_SIZE.format("images.id")} FROM images
  UNION ALL SELECT 'referenced of ' || digest, referenced, EXISTS (SELECT 1 FROM manifest_blobs WHERE blob_id = blobs.id) FROM blobs)
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
UNION ALL SELECT 'I8', 'kept by no lease', lease_id, blob_id FROM lease_blobs AS k WHERE NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.id = k.lease_id)
UNION ALL SELECT 'I8', 'held by no lease', lease_id, image_id FROM lease_images AS h WHERE NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.id = h.lease_id)
UNION ALL SELECT 'I3', 'ingest without its lease', digest, lease_id FROM ingests AS g WHERE lease_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM leases AS l WHERE l.id = g.lease_id)
UNION ALL SELECT 'I3', 'both here and on its way', digest, NULL FROM ingests AS g WHERE EXISTS (SELECT 1 FROM blobs AS b WHERE b.digest = g.digest)
UNION ALL SELECT 'I7', 'counter ' || name, counter, actual FROM accounting_drift
""",
)


def upgrade() -> None:
    op.execute("PRAGMA application_id = 1970039911")  # 'ullg': what file(1) and our own opener look at
    op.execute("PRAGMA user_version = 1")
    for statement in (
        *TABLES,
        *INDEXES,
        *STORE_TRIGGERS,
        *BLOB_TRIGGERS,
        *IMAGE_TRIGGERS,
        *LEASE_TRIGGERS,
        *VIEWS,
    ):
        op.execute(statement.strip())


def downgrade() -> None:
    for view in (
        "problems",
        "accounting_drift",
        "held",
        "in_flight",
        "reclaimable",
        "image_storage",
        "image_listing",
        "storage_usage",
    ):
        op.execute(f"DROP VIEW {view}")
    # Dropping a table drops its triggers; DROP TABLE fires none.
    for table in (
        "ingests",
        "lease_images",
        "lease_blobs",
        "leases",
        "repo_digests",
        "repo_tags",
        "manifest_blobs",
        "blobs",
        "manifests",
        "images",
        "store",
    ):
        op.execute(f"DROP TABLE {table}")
