-- A store at head, as sqlite_schema has it. Not written by hand: see tests/support/schema.py.

PRAGMA application_id = 1970039911; -- 'ullg'
PRAGMA user_version = 5;

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
  ledger INTEGER NOT NULL DEFAULT 0, tree_count INTEGER NOT NULL DEFAULT 0 /* trees that are ready */, tree_bytes INTEGER NOT NULL DEFAULT 0 /* the blocks that they occupy */, tree_inodes INTEGER NOT NULL DEFAULT 0 /* and the inodes */, reserved_inodes INTEGER NOT NULL DEFAULT 0 /* held by tree_ingests */, -- +1 with each change of a counter; a change without it is refused
  CONSTRAINT pk_store PRIMARY KEY (one),
  CONSTRAINT ck_store_one CHECK (one = 1),
  CONSTRAINT ck_store_uuid CHECK (length(uuid) = 36 AND length(uuid) = length(CAST(uuid AS BLOB))),
  CONSTRAINT ck_store_created_at CHECK (length(created_at) = length(CAST(created_at AS BLOB)) AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND created_at > '0001' AND substr(created_at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days')),
  CONSTRAINT ck_store_max_bytes CHECK (max_bytes BETWEEN 0 AND 1152921504606846976),
  CONSTRAINT ck_store_min_free_bytes CHECK (min_free_bytes BETWEEN 0 AND 1152921504606846976)
) STRICT;

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
  CONSTRAINT ck_images_image_id CHECK (length(image_id) = length(CAST(image_id AS BLOB)) AND substr(image_id, 8) NOT GLOB '*[^0-9a-f]*' AND (length(image_id) = 71 AND substr(image_id, 1, 7) = 'sha256:' OR length(image_id) = 135 AND substr(image_id, 1, 7) = 'sha512:')),
  CONSTRAINT ck_images_size CHECK (size >= 0),
  CONSTRAINT ck_images_registered_bytes CHECK (registered_bytes BETWEEN 0 AND 1125899906842624),
  CONSTRAINT ck_images_user CHECK (uid IS NULL OR username = ''),
  CONSTRAINT ck_images_spec CHECK (length((spec_image_name || spec_tag || spec_digest)) = length(CAST((spec_image_name || spec_tag || spec_digest) AS BLOB)) AND spec_image_name || spec_tag || spec_digest NOT GLOB '*[^!-~]*'),
  CONSTRAINT ck_images_pinned CHECK (pinned IN (0, 1)),
  CONSTRAINT ck_images_pulled_at CHECK (length(pulled_at) = length(CAST(pulled_at AS BLOB)) AND substr(pulled_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND pulled_at > '0001' AND substr(pulled_at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(pulled_at, 1, 19), '+0 days')),
  CONSTRAINT ck_images_last_used_at CHECK (length(last_used_at) = length(CAST(last_used_at AS BLOB)) AND substr(last_used_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND last_used_at > '0001' AND substr(last_used_at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(last_used_at, 1, 19), '+0 days'))
) STRICT;

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
  CONSTRAINT ck_manifests_digest CHECK (length(digest) = length(CAST(digest AS BLOB)) AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*' AND (length(digest) = 71 AND substr(digest, 1, 7) = 'sha256:' OR length(digest) = 135 AND substr(digest, 1, 7) = 'sha512:')),
  CONSTRAINT ck_manifests_complete CHECK (complete IN (0, 1)),
  CONSTRAINT ck_manifests_created_at CHECK (length(created_at) = length(CAST(created_at AS BLOB)) AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND created_at > '0001' AND substr(created_at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days'))
) STRICT;

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
  CONSTRAINT ck_blobs_digest CHECK (length(digest) = length(CAST(digest AS BLOB)) AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*' AND (length(digest) = 71 AND substr(digest, 1, 7) = 'sha256:' OR length(digest) = 135 AND substr(digest, 1, 7) = 'sha512:')),
  CONSTRAINT ck_blobs_size CHECK (size BETWEEN 0 AND 1125899906842624),
  CONSTRAINT ck_blobs_state CHECK (state IN ('ready', 'doomed', 'swept')),
  CONSTRAINT ck_blobs_referenced CHECK (referenced IN (0, 1)),
  CONSTRAINT ck_blobs_created_at CHECK (length(created_at) = length(CAST(created_at AS BLOB)) AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND created_at > '0001' AND substr(created_at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days')),
  CONSTRAINT ck_blobs_verified_at CHECK (verified_at IS NULL OR length(verified_at) = length(CAST(verified_at AS BLOB)) AND substr(verified_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND verified_at > '0001' AND substr(verified_at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(verified_at, 1, 19), '+0 days'))
) STRICT;

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
) STRICT, WITHOUT ROWID;

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
  CONSTRAINT ck_repo_tags_reference CHECK (length(reference) BETWEEN 5 AND 1024 AND length(reference) = length(CAST(reference AS BLOB)) AND reference NOT GLOB '*[^!-~]*' AND reference GLOB '?*/?*:?*' AND instr(reference, '@') = 0),
  CONSTRAINT ck_repo_tags_digest CHECK (digest IS NULL OR length(digest) = length(CAST(digest AS BLOB)) AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*' AND (length(digest) = 71 AND substr(digest, 1, 7) = 'sha256:' OR length(digest) = 135 AND substr(digest, 1, 7) = 'sha512:')),
  CONSTRAINT ck_repo_tags_updated_at CHECK (length(updated_at) = length(CAST(updated_at AS BLOB)) AND substr(updated_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND updated_at > '0001' AND substr(updated_at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(updated_at, 1, 19), '+0 days'))
) STRICT;

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
  CONSTRAINT ck_repo_digests_reference CHECK (length(reference) <= 1024 AND length(reference) = length(CAST(reference AS BLOB)) AND reference NOT GLOB '*[^!-~]*' AND reference GLOB '?*/?*@?*' AND substr(reference, instr(reference, '@') + 1) = digest),
  CONSTRAINT ck_repo_digests_digest CHECK (length(digest) = length(CAST(digest AS BLOB)) AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*' AND (length(digest) = 71 AND substr(digest, 1, 7) = 'sha256:' OR length(digest) = 135 AND substr(digest, 1, 7) = 'sha512:')),
  CONSTRAINT ck_repo_digests_updated_at CHECK (length(updated_at) = length(CAST(updated_at AS BLOB)) AND substr(updated_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND updated_at > '0001' AND substr(updated_at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(updated_at, 1, 19), '+0 days'))
) STRICT;

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
  CONSTRAINT ck_leases_token CHECK (length(token) = 32 AND length(token) = length(CAST(token AS BLOB)) AND token NOT GLOB '*[^0-9a-f]*'),
  CONSTRAINT ck_leases_purpose CHECK (purpose IN ('pull', 'hold')),
  CONSTRAINT ck_leases_status CHECK (status IN ('pending', 'downloading', 'extracting', 'complete', 'failed')),
  CONSTRAINT ck_leases_ended_token CHECK (ended_token IS NULL OR ended_token = token),
  CONSTRAINT ck_leases_created_at CHECK (length(created_at) = length(CAST(created_at AS BLOB)) AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND created_at > '0001' AND substr(created_at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days'))
) STRICT;

CREATE TABLE lease_blobs (
  -- Blobs that a lease keeps from the collector.
  lease_id INTEGER NOT NULL,
  blob_id INTEGER NOT NULL,
  CONSTRAINT pk_lease_blobs PRIMARY KEY (lease_id, blob_id),
  CONSTRAINT fk_lease_blobs_lease_id_leases FOREIGN KEY (lease_id) REFERENCES leases (id),
  CONSTRAINT fk_lease_blobs_blob_id_blobs FOREIGN KEY (blob_id) REFERENCES blobs (id)
) STRICT, WITHOUT ROWID;

CREATE TABLE lease_images (
  -- Images that a lease holds: nobody removes them meanwhile. View: held.
  lease_id INTEGER NOT NULL,
  image_id INTEGER NOT NULL,
  CONSTRAINT pk_lease_images PRIMARY KEY (lease_id, image_id),
  CONSTRAINT fk_lease_images_lease_id_leases FOREIGN KEY (lease_id) REFERENCES leases (id),
  CONSTRAINT fk_lease_images_image_id_images FOREIGN KEY (image_id) REFERENCES images (id)
) STRICT, WITHOUT ROWID;

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
  CONSTRAINT ck_ingests_digest CHECK (length(digest) = length(CAST(digest AS BLOB)) AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*' AND (length(digest) = 71 AND substr(digest, 1, 7) = 'sha256:' OR length(digest) = 135 AND substr(digest, 1, 7) = 'sha512:')),
  CONSTRAINT ck_ingests_size CHECK (size BETWEEN 0 AND 1125899906842624),
  CONSTRAINT ck_ingests_received_bytes CHECK (received_bytes BETWEEN 0 AND size),
  CONSTRAINT ck_ingests_reserved_bytes CHECK (reserved_bytes = CASE WHEN lease_id IS NULL THEN received_bytes ELSE size END),
  CONSTRAINT ck_ingests_state CHECK (state IN ('partial', 'arrived', 'discarded')),
  CONSTRAINT ck_ingests_created_at CHECK (length(created_at) = length(CAST(created_at AS BLOB)) AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND created_at > '0001' AND substr(created_at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days'))
) STRICT;

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
  CONSTRAINT ck_trees_chain_id CHECK (length(chain_id) = length(CAST(chain_id AS BLOB)) AND substr(chain_id, 8) NOT GLOB '*[^0-9a-f]*' AND (length(chain_id) = 71 AND substr(chain_id, 1, 7) = 'sha256:' OR length(chain_id) = 135 AND substr(chain_id, 1, 7) = 'sha512:')),
  CONSTRAINT ck_trees_diff_id CHECK (length(diff_id) = length(CAST(diff_id AS BLOB)) AND substr(diff_id, 8) NOT GLOB '*[^0-9a-f]*' AND (length(diff_id) = 71 AND substr(diff_id, 1, 7) = 'sha256:' OR length(diff_id) = 135 AND substr(diff_id, 1, 7) = 'sha512:')),
  CONSTRAINT ck_trees_space_bytes CHECK (space_bytes BETWEEN 0 AND 1125899906842624),
  CONSTRAINT ck_trees_inodes CHECK (inodes BETWEEN 0 AND 1125899906842624),
  CONSTRAINT ck_trees_rootless CHECK (rootless IN (0, 1)),
  CONSTRAINT ck_trees_forgiven CHECK (forgiven >= 0),
  CONSTRAINT ck_trees_state CHECK (state IN ('ready', 'doomed', 'swept')),
  CONSTRAINT ck_trees_referenced CHECK (referenced IN (0, 1)),
  CONSTRAINT ck_trees_created_at CHECK (length(created_at) = length(CAST(created_at AS BLOB)) AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND created_at > '0001' AND substr(created_at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days'))
) STRICT;

CREATE TABLE manifest_trees (
  -- Which trees a manifest stacks on, once it is unpacked: the lowest is at position 0.
  manifest_id INTEGER NOT NULL,
  position INTEGER NOT NULL,
  tree_id INTEGER NOT NULL,
  CONSTRAINT pk_manifest_trees PRIMARY KEY (manifest_id, position),
  CONSTRAINT fk_manifest_trees_manifest_id_manifests FOREIGN KEY (manifest_id) REFERENCES manifests (id),
  CONSTRAINT fk_manifest_trees_tree_id_trees FOREIGN KEY (tree_id) REFERENCES trees (id),
  CONSTRAINT ck_manifest_trees_position CHECK (position >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE lease_trees (
  -- Trees that a lease keeps from the collector.
  lease_id INTEGER NOT NULL,
  tree_id INTEGER NOT NULL,
  CONSTRAINT pk_lease_trees PRIMARY KEY (lease_id, tree_id),
  CONSTRAINT fk_lease_trees_lease_id_leases FOREIGN KEY (lease_id) REFERENCES leases (id),
  CONSTRAINT fk_lease_trees_tree_id_trees FOREIGN KEY (tree_id) REFERENCES trees (id)
) STRICT, WITHOUT ROWID;

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
  CONSTRAINT ck_tree_ingests_chain_id CHECK (length(chain_id) = length(CAST(chain_id AS BLOB)) AND substr(chain_id, 8) NOT GLOB '*[^0-9a-f]*' AND (length(chain_id) = 71 AND substr(chain_id, 1, 7) = 'sha256:' OR length(chain_id) = 135 AND substr(chain_id, 1, 7) = 'sha512:')),
  CONSTRAINT ck_tree_ingests_reserved_bytes CHECK (reserved_bytes BETWEEN 0 AND 1125899906842624),
  CONSTRAINT ck_tree_ingests_reserved_inodes CHECK (reserved_inodes BETWEEN 0 AND 1125899906842624),
  CONSTRAINT ck_tree_ingests_state CHECK (state IN ('partial', 'filled', 'arrived', 'discarded')),
  CONSTRAINT ck_tree_ingests_created_at CHECK (length(created_at) = length(CAST(created_at AS BLOB)) AND substr(created_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND created_at > '0001' AND substr(created_at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(created_at, 1, 19), '+0 days'))
) STRICT;

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
  CONSTRAINT ck_acting_at CHECK (length(at) = length(CAST(at AS BLOB)) AND substr(at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND at > '0001' AND substr(at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(at, 1, 19), '+0 days')),
  CONSTRAINT ck_acting_event CHECK (event IN ('pulled', 'imported', 'registered', 'tagged', 'moved', 'untagged', 'removed', 'evicted', 'unpacked', 'repaired', 'salvaged'))
) STRICT;

CREATE TABLE blob_sources (
  -- Which host a blob came from. One that was imported has no row here. View: image_sources.
  blob_id INTEGER NOT NULL,
  host TEXT NOT NULL, -- the registry or the mirror, with its port if it has one
  CONSTRAINT pk_blob_sources PRIMARY KEY (blob_id),
  CONSTRAINT fk_blob_sources_blob_id_blobs FOREIGN KEY (blob_id) REFERENCES blobs (id)
) STRICT;

CREATE TABLE access (
  -- Whose credentials an image was fetched with. Its registry is asked about everybody else, who is told that it is not here.
  image_id INTEGER NOT NULL,
  repo TEXT NOT NULL, -- domain and path that it was fetched from; empty: imported without a name
  credential TEXT NOT NULL, -- HMAC-SHA-256 of registry and credentials; empty: none were asked for, so everybody may
  verified_at TEXT NOT NULL, -- when the registry last said so
  CONSTRAINT pk_access PRIMARY KEY (image_id, repo, credential),
  CONSTRAINT fk_access_image_id_images FOREIGN KEY (image_id) REFERENCES images (id),
  CONSTRAINT ck_access_credential CHECK (
    length(credential) = length(CAST(credential AS BLOB)) AND length(credential) IN (0, 64) AND credential NOT GLOB '*[^0-9a-f]*'),
  CONSTRAINT ck_access_verified_at CHECK (length(verified_at) = length(CAST(verified_at AS BLOB)) AND substr(verified_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND verified_at > '0001' AND substr(verified_at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(verified_at, 1, 19), '+0 days'))
) STRICT, WITHOUT ROWID;

CREATE TABLE history (
  -- What happened to images and their names, oldest first; the last 10000 facts of a year. View: history_listing.
  id INTEGER NOT NULL,
  at TEXT NOT NULL,
  event TEXT NOT NULL, -- pulled, imported, registered, tagged, moved, untagged, removed, evicted, unpacked, repaired, salvaged, failed
  reference TEXT, -- the name that it is about; of an image that went all its names, with blanks between
  image_id TEXT, -- of the image, as images.image_id has it: the image may be gone
  previous_image_id TEXT, -- of what the reference denoted before it moved
  received_bytes INTEGER, -- that came over the network for it; null where nothing could
  freed_bytes INTEGER, -- what the image alone had
  hosts TEXT, -- which hosts those bytes came from, with blanks between
  owner TEXT, -- host and program; null: somebody at the sqlite3 shell
  pid INTEGER,
  detail TEXT, -- why: the reason of an eviction, what was repaired, how something failed
  CONSTRAINT pk_history PRIMARY KEY (id),
  CONSTRAINT ck_history_id CHECK (id > 0),
  CONSTRAINT ck_history_at CHECK (length(at) = length(CAST(at AS BLOB)) AND substr(at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' AND at > '0001' AND substr(at, 1, 19) IS strftime('%Y-%m-%dT%H:%M:%S', substr(at, 1, 19), '+0 days')),
  CONSTRAINT ck_history_event CHECK (event IN ('pulled', 'imported', 'registered', 'tagged', 'moved', 'untagged', 'removed', 'evicted', 'unpacked', 'repaired', 'salvaged', 'failed'))
) STRICT;

CREATE INDEX ix_images_last_used_at ON images (last_used_at) WHERE pinned = 0;

CREATE INDEX ix_manifests_image_id ON manifests (image_id);

CREATE INDEX ix_manifest_blobs_blob_id ON manifest_blobs (blob_id, manifest_id);

CREATE INDEX ix_blobs_unreferenced ON blobs (created_at) WHERE referenced = 0;

CREATE INDEX ix_blobs_doomed ON blobs (id) WHERE state = 'doomed';

CREATE INDEX ix_repo_tags_image_id ON repo_tags (image_id);

CREATE INDEX ix_repo_digests_image_id ON repo_digests (image_id);

CREATE INDEX ix_repo_tags_manifest_id ON repo_tags (manifest_id);

CREATE INDEX ix_repo_digests_manifest_id ON repo_digests (manifest_id);

CREATE INDEX ix_lease_blobs_blob_id ON lease_blobs (blob_id);

CREATE INDEX ix_lease_images_image_id ON lease_images (image_id);

CREATE INDEX ix_ingests_lease_id ON ingests (lease_id);

CREATE INDEX ix_trees_unreferenced ON trees (created_at) WHERE referenced = 0;

CREATE INDEX ix_trees_doomed ON trees (id) WHERE state = 'doomed';

CREATE INDEX ix_manifest_trees_tree_id ON manifest_trees (tree_id, manifest_id);

CREATE INDEX ix_lease_trees_tree_id ON lease_trees (tree_id);

CREATE INDEX ix_tree_ingests_lease_id ON tree_ingests (lease_id);

CREATE TRIGGER store_stays BEFORE DELETE ON store
WHEN 1
BEGIN SELECT RAISE(ABORT, 'ullage: the store row cannot be deleted'); END;

CREATE TRIGGER store_is_one BEFORE INSERT ON store
WHEN EXISTS (SELECT 1 FROM store)
BEGIN SELECT RAISE(ABORT, 'ullage: the store row exists'); END;

CREATE TRIGGER store_identity BEFORE UPDATE ON store
WHEN NEW.one IS NOT OLD.one OR NEW.uuid IS NOT OLD.uuid OR NEW.created_at IS NOT OLD.created_at
BEGIN SELECT RAISE(ABORT, 'ullage: a store keeps its identity'); END;

CREATE TRIGGER blobs_are_new BEFORE INSERT ON blobs
WHEN EXISTS (SELECT 1 FROM blobs WHERE digest = NEW.digest OR id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'ullage: that blob is here'); END;

CREATE TRIGGER blobs_numbered BEFORE INSERT ON blobs
WHEN NEW.id > 0 AND NEW.id <> coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'blobs'), 0) + 1
BEGIN SELECT RAISE(ABORT, 'ullage: ids are given by the database, each once'); END;

CREATE TRIGGER blobs_come_from_ingests BEFORE INSERT ON blobs
WHEN NOT EXISTS (SELECT 1 FROM ingests WHERE digest = NEW.digest AND size = NEW.size AND received_bytes = size AND state = 'arrived' AND lease_id IS NOT NULL)
BEGIN SELECT RAISE(ABORT, 'ullage: a blob row comes from an ingest whose owner says that it arrived'); END;

CREATE TRIGGER blobs_start_ready BEFORE INSERT ON blobs
WHEN NEW.state IS NOT 'ready' OR NEW.referenced IS NOT 0
BEGIN SELECT RAISE(ABORT, 'ullage: a new blob is ready, and named by nothing yet'); END;

CREATE TRIGGER blobs_published AFTER INSERT ON blobs BEGIN
  UPDATE store SET blob_count = blob_count + 1, blob_bytes = blob_bytes + NEW.size, reserved_bytes = reserved_bytes - (SELECT reserved_bytes FROM ingests WHERE digest = NEW.digest), ledger = ledger + 1;
  INSERT INTO lease_blobs (lease_id, blob_id) SELECT lease_id, NEW.id FROM ingests WHERE digest = NEW.digest;
  DELETE FROM ingests WHERE digest = NEW.digest;
END;

CREATE TRIGGER blobs_immutable BEFORE UPDATE ON blobs
WHEN NEW.id IS NOT OLD.id OR NEW.digest IS NOT OLD.digest OR NEW.size IS NOT OLD.size
BEGIN SELECT RAISE(ABORT, 'ullage: a blob is immutable'); END;

CREATE TRIGGER blobs_referenced BEFORE UPDATE ON blobs
WHEN NEW.referenced IS NOT OLD.referenced AND NEW.referenced IS NOT EXISTS (SELECT 1 FROM manifest_blobs WHERE blob_id = OLD.id)
BEGIN SELECT RAISE(ABORT, 'ullage: whether a blob is referenced is for its manifests to say'); END;

CREATE TRIGGER blobs_in_use BEFORE UPDATE ON blobs
WHEN NEW.state IS NOT 'ready' AND (EXISTS (SELECT 1 FROM manifest_blobs WHERE blob_id = OLD.id) OR EXISTS (SELECT 1 FROM lease_blobs WHERE blob_id = OLD.id))
BEGIN SELECT RAISE(ABORT, 'ullage: the blob is in use'); END;

CREATE TRIGGER blobs_step_by_step BEFORE UPDATE ON blobs
WHEN NEW.state IS 'swept' AND OLD.state <> 'doomed'
BEGIN SELECT RAISE(ABORT, 'ullage: only a doomed blob is swept, by whoever removes its file'); END;

CREATE TRIGGER blobs_doomed AFTER UPDATE ON blobs WHEN OLD.state = 'ready' AND NEW.state = 'doomed' BEGIN
  UPDATE store SET blob_count = blob_count - 1, blob_bytes = blob_bytes - OLD.size, doomed_bytes = doomed_bytes + OLD.size, ledger = ledger + 1;
END;

CREATE TRIGGER blobs_taken_back AFTER UPDATE ON blobs WHEN OLD.state = 'doomed' AND NEW.state = 'ready' BEGIN
  UPDATE store SET blob_count = blob_count + 1, blob_bytes = blob_bytes + OLD.size, doomed_bytes = doomed_bytes - OLD.size, ledger = ledger + 1;
END;

CREATE TRIGGER blobs_swept AFTER UPDATE ON blobs WHEN NEW.state = 'swept' BEGIN
  DELETE FROM blobs WHERE id = NEW.id;
END;

CREATE TRIGGER blobs_stay BEFORE DELETE ON blobs
WHEN OLD.state <> 'swept'
BEGIN SELECT RAISE(ABORT, 'ullage: a blob row goes with its file: set state to doomed, and ullage gc removes both'); END;

CREATE TRIGGER blobs_gone AFTER DELETE ON blobs BEGIN
  UPDATE store SET doomed_bytes = doomed_bytes - OLD.size, ledger = ledger + 1;
END;

CREATE TRIGGER images_are_new BEFORE INSERT ON images
WHEN EXISTS (SELECT 1 FROM images WHERE image_id = NEW.image_id OR id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'ullage: that image is here'); END;

CREATE TRIGGER images_numbered BEFORE INSERT ON images
WHEN NEW.id > 0 AND NEW.id <> coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'images'), 0) + 1
BEGIN SELECT RAISE(ABORT, 'ullage: ids are given by the database, each once'); END;

CREATE TRIGGER images_have_content BEFORE INSERT ON images
WHEN NEW.registered_bytes IS NULL AND NOT EXISTS (
  SELECT 1 FROM blobs AS b CROSS JOIN lease_blobs AS k ON k.blob_id = b.id CROSS JOIN leases AS l ON l.id = k.lease_id
  WHERE b.digest = NEW.image_id AND b.state = 'ready' AND l.status = 'complete')
BEGIN SELECT RAISE(ABORT, 'ullage: an image is made by a pull that completes and keeps its content, or of what is registered for it'); END;

CREATE TRIGGER images_start_small BEFORE INSERT ON images
WHEN NEW.size IS NOT coalesce(NEW.registered_bytes, 0)
BEGIN SELECT RAISE(ABORT, 'ullage: a new image has the size of what is registered for it'); END;

CREATE TRIGGER images_counted AFTER INSERT ON images BEGIN
  UPDATE store SET image_count = image_count + 1, registered_bytes = registered_bytes + coalesce(NEW.registered_bytes, 0), logical_bytes = logical_bytes + NEW.size, ledger = ledger + 1;
END;

CREATE TRIGGER images_immutable BEFORE UPDATE ON images
WHEN NEW.id IS NOT OLD.id OR NEW.image_id IS NOT OLD.image_id OR NEW.registered_bytes IS NOT OLD.registered_bytes OR NEW.platform IS NOT OLD.platform OR NEW.uid IS NOT OLD.uid OR NEW.username IS NOT OLD.username OR NEW.config IS NOT OLD.config
BEGIN SELECT RAISE(ABORT, 'ullage: an image keeps its identity, and what its config says'); END;

CREATE TRIGGER images_size BEFORE UPDATE ON images
WHEN NEW.size IS NOT OLD.size AND NEW.size IS NOT (SELECT coalesce(i.registered_bytes, 0) + coalesce((
    SELECT sum(b.size) FROM blobs AS b WHERE b.id IN (
      SELECT e.blob_id FROM manifests AS m CROSS JOIN manifest_blobs AS e ON e.manifest_id = m.id
      WHERE m.image_id = i.id AND m.complete = 1)), 0)
    FROM images AS i WHERE i.id = OLD.id)
BEGIN SELECT RAISE(ABORT, 'ullage: the size of an image is that of its blobs'); END;

CREATE TRIGGER images_resized AFTER UPDATE ON images WHEN NEW.size <> OLD.size BEGIN
  UPDATE store SET logical_bytes = logical_bytes + NEW.size - OLD.size, ledger = ledger + 1;
END;

CREATE TRIGGER images_held BEFORE DELETE ON images
WHEN EXISTS (SELECT 1 FROM lease_images WHERE image_id = OLD.id)
BEGIN SELECT RAISE(ABORT, 'ullage: the image is held; the view held says by whom'); END;

CREATE TRIGGER images_gone AFTER DELETE ON images BEGIN
  DELETE FROM repo_tags WHERE image_id = OLD.id;
  DELETE FROM repo_digests WHERE image_id = OLD.id;
  DELETE FROM manifests WHERE image_id = OLD.id;
  UPDATE store SET image_count = image_count - 1, registered_bytes = registered_bytes - coalesce(OLD.registered_bytes, 0), logical_bytes = logical_bytes - OLD.size, ledger = ledger + 1;
END;

CREATE TRIGGER manifests_are_new BEFORE INSERT ON manifests
WHEN EXISTS (SELECT 1 FROM manifests WHERE digest = NEW.digest OR id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'ullage: that manifest is here'); END;

CREATE TRIGGER manifests_numbered BEFORE INSERT ON manifests
WHEN NEW.id > 0 AND NEW.id <> coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'manifests'), 0) + 1
BEGIN SELECT RAISE(ABORT, 'ullage: ids are given by the database, each once'); END;

CREATE TRIGGER manifests_need_an_image BEFORE INSERT ON manifests
WHEN NEW.complete IS NOT 0 OR NOT EXISTS (SELECT 1 FROM images WHERE id = NEW.image_id) OR NOT EXISTS (
  SELECT 1 FROM blobs AS b CROSS JOIN lease_blobs AS k ON k.blob_id = b.id CROSS JOIN leases AS l ON l.id = k.lease_id
  WHERE b.digest = NEW.digest AND b.state = 'ready' AND l.status = 'complete')
BEGIN SELECT RAISE(ABORT, 'ullage: a manifest is made by a pull that completes and keeps its bytes; it needs its image, and is complete when its edges are here'); END;

CREATE TRIGGER manifests_immutable BEFORE UPDATE ON manifests
WHEN NEW.id IS NOT OLD.id OR NEW.digest IS NOT OLD.digest OR NEW.image_id IS NOT OLD.image_id OR NEW.media_type IS NOT OLD.media_type OR NEW.artifact_type IS NOT OLD.artifact_type OR NEW.subject IS NOT OLD.subject OR NEW.annotations IS NOT OLD.annotations OR NEW.complete IS NOT 1 AND OLD.complete = 1
BEGIN SELECT RAISE(ABORT, 'ullage: a manifest is immutable'); END;

CREATE TRIGGER manifests_whole BEFORE UPDATE ON manifests
WHEN NEW.complete > OLD.complete AND NOT (
  EXISTS (SELECT 1 FROM manifest_blobs AS e JOIN blobs AS b ON b.id = e.blob_id WHERE e.manifest_id = OLD.id AND e.role = 'manifest' AND b.digest = OLD.digest)
  AND EXISTS (SELECT 1 FROM manifest_blobs AS e JOIN blobs AS b ON b.id = e.blob_id JOIN images AS i ON i.id = OLD.image_id
    WHERE e.manifest_id = OLD.id AND e.role = 'config' AND i.image_id IN (b.digest, OLD.digest)))
BEGIN SELECT RAISE(ABORT, 'ullage: a complete manifest has itself and its config among its blobs, and one of the two names its image'); END;

CREATE TRIGGER manifests_completed AFTER UPDATE ON manifests WHEN NEW.complete > OLD.complete BEGIN
  UPDATE images SET size = (SELECT coalesce(i.registered_bytes, 0) + coalesce((
    SELECT sum(b.size) FROM blobs AS b WHERE b.id IN (
      SELECT e.blob_id FROM manifests AS m CROSS JOIN manifest_blobs AS e ON e.manifest_id = m.id
      WHERE m.image_id = i.id AND m.complete = 1)), 0)
    FROM images AS i WHERE i.id = NEW.image_id) WHERE id = NEW.image_id;
END;

CREATE TRIGGER manifests_stay BEFORE DELETE ON manifests
WHEN EXISTS (SELECT 1 FROM images WHERE id = OLD.image_id)
BEGIN SELECT RAISE(ABORT, 'ullage: a manifest goes with its image'); END;

CREATE TRIGGER manifest_blobs_sound BEFORE INSERT ON manifest_blobs
WHEN NOT EXISTS (
  SELECT 1 FROM blobs AS b CROSS JOIN lease_blobs AS k ON k.blob_id = b.id CROSS JOIN leases AS l ON l.id = k.lease_id
  WHERE b.id = NEW.blob_id AND b.state = 'ready' AND l.status = 'complete')
  OR NOT EXISTS (SELECT 1 FROM manifests WHERE id = NEW.manifest_id AND (complete = 0 OR NEW.role = 'index'))
  OR NEW.position IS NOT (SELECT coalesce(max(position) + 1, 0) FROM manifest_blobs WHERE manifest_id = NEW.manifest_id)
BEGIN SELECT RAISE(ABORT, 'ullage: an edge is made by a pull that completes and keeps its blob; it needs the next position, and a manifest that is not complete'); END;

CREATE TRIGGER manifest_blobs_added AFTER INSERT ON manifest_blobs BEGIN
  UPDATE blobs SET referenced = 1 WHERE id = NEW.blob_id AND referenced = 0;
  UPDATE images SET size = (SELECT coalesce(i.registered_bytes, 0) + coalesce((
    SELECT sum(b.size) FROM blobs AS b WHERE b.id IN (
      SELECT e.blob_id FROM manifests AS m CROSS JOIN manifest_blobs AS e ON e.manifest_id = m.id
      WHERE m.image_id = i.id AND m.complete = 1)), 0)
    FROM images AS i WHERE i.id = images.id)
   WHERE id = (SELECT image_id FROM manifests WHERE id = NEW.manifest_id AND complete = 1);
END;

CREATE TRIGGER manifest_blobs_immutable BEFORE UPDATE ON manifest_blobs
WHEN 1
BEGIN SELECT RAISE(ABORT, 'ullage: edges are immutable'); END;

CREATE TRIGGER manifest_blobs_stay BEFORE DELETE ON manifest_blobs
WHEN EXISTS (SELECT 1 FROM manifests WHERE id = OLD.manifest_id)
BEGIN SELECT RAISE(ABORT, 'ullage: edges go with their manifest'); END;

CREATE TRIGGER manifest_blobs_gone AFTER DELETE ON manifest_blobs BEGIN
  UPDATE blobs SET referenced = 0 WHERE id = OLD.blob_id AND referenced = 1
     AND NOT EXISTS (SELECT 1 FROM manifest_blobs WHERE blob_id = OLD.blob_id);
END;

CREATE TRIGGER repo_tags_numbered BEFORE INSERT ON repo_tags
WHEN NEW.id > 0 AND NEW.id <> coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'repo_tags'), 0) + 1
BEGIN SELECT RAISE(ABORT, 'ullage: ids are given by the database, each once'); END;

CREATE TRIGGER repo_tags_sound BEFORE INSERT ON repo_tags
WHEN NOT (
  EXISTS (SELECT 1 FROM manifests AS m WHERE m.id = NEW.manifest_id AND m.image_id = NEW.image_id AND m.complete = 1
    AND (m.digest = NEW.digest OR EXISTS (SELECT 1 FROM blobs AS b CROSS JOIN manifest_blobs AS e ON e.blob_id = b.id
      WHERE b.digest = NEW.digest AND e.manifest_id = NEW.manifest_id AND e.role = 'index')))
  OR NEW.manifest_id IS NULL AND EXISTS (SELECT 1 FROM images AS i WHERE i.id = NEW.image_id AND i.registered_bytes IS NOT NULL))
BEGIN SELECT RAISE(ABORT, 'ullage: a reference needs an image, a complete manifest of it, and a digest by which that is found'); END;

CREATE TRIGGER repo_tags_keep_their_ids BEFORE UPDATE ON repo_tags
WHEN NEW.id IS NOT OLD.id
BEGIN SELECT RAISE(ABORT, 'ullage: a reference keeps its row'); END;

CREATE TRIGGER repo_tags_stay_sound BEFORE UPDATE ON repo_tags
WHEN NOT (
  EXISTS (SELECT 1 FROM manifests AS m WHERE m.id = NEW.manifest_id AND m.image_id = NEW.image_id AND m.complete = 1
    AND (m.digest = NEW.digest OR EXISTS (SELECT 1 FROM blobs AS b CROSS JOIN manifest_blobs AS e ON e.blob_id = b.id
      WHERE b.digest = NEW.digest AND e.manifest_id = NEW.manifest_id AND e.role = 'index')))
  OR NEW.manifest_id IS NULL AND EXISTS (SELECT 1 FROM images AS i WHERE i.id = NEW.image_id AND i.registered_bytes IS NOT NULL))
BEGIN SELECT RAISE(ABORT, 'ullage: a reference needs an image, a complete manifest of it, and a digest by which that is found'); END;

CREATE TRIGGER repo_digests_numbered BEFORE INSERT ON repo_digests
WHEN NEW.id > 0 AND NEW.id <> coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'repo_digests'), 0) + 1
BEGIN SELECT RAISE(ABORT, 'ullage: ids are given by the database, each once'); END;

CREATE TRIGGER repo_digests_sound BEFORE INSERT ON repo_digests
WHEN NOT (
  EXISTS (SELECT 1 FROM manifests AS m WHERE m.id = NEW.manifest_id AND m.image_id = NEW.image_id AND m.complete = 1
    AND (m.digest = NEW.digest OR EXISTS (SELECT 1 FROM blobs AS b CROSS JOIN manifest_blobs AS e ON e.blob_id = b.id
      WHERE b.digest = NEW.digest AND e.manifest_id = NEW.manifest_id AND e.role = 'index')))
  OR NEW.manifest_id IS NULL AND EXISTS (SELECT 1 FROM images AS i WHERE i.id = NEW.image_id AND i.registered_bytes IS NOT NULL))
BEGIN SELECT RAISE(ABORT, 'ullage: a reference needs an image, a complete manifest of it, and a digest by which that is found'); END;

CREATE TRIGGER repo_digests_keep_their_ids BEFORE UPDATE ON repo_digests
WHEN NEW.id IS NOT OLD.id
BEGIN SELECT RAISE(ABORT, 'ullage: a reference keeps its row'); END;

CREATE TRIGGER repo_digests_stay_sound BEFORE UPDATE ON repo_digests
WHEN NOT (
  EXISTS (SELECT 1 FROM manifests AS m WHERE m.id = NEW.manifest_id AND m.image_id = NEW.image_id AND m.complete = 1
    AND (m.digest = NEW.digest OR EXISTS (SELECT 1 FROM blobs AS b CROSS JOIN manifest_blobs AS e ON e.blob_id = b.id
      WHERE b.digest = NEW.digest AND e.manifest_id = NEW.manifest_id AND e.role = 'index')))
  OR NEW.manifest_id IS NULL AND EXISTS (SELECT 1 FROM images AS i WHERE i.id = NEW.image_id AND i.registered_bytes IS NOT NULL))
BEGIN SELECT RAISE(ABORT, 'ullage: a reference needs an image, a complete manifest of it, and a digest by which that is found'); END;

CREATE TRIGGER leases_are_new BEFORE INSERT ON leases
WHEN EXISTS (SELECT 1 FROM leases WHERE token = NEW.token OR id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'ullage: that lease is here'); END;

CREATE TRIGGER leases_start_at_work BEFORE INSERT ON leases
WHEN NEW.ended_token IS NOT NULL OR NEW.status IS 'complete'
BEGIN SELECT RAISE(ABORT, 'ullage: a lease starts with its work before it'); END;

CREATE TRIGGER leases_numbered BEFORE INSERT ON leases
WHEN NEW.id > 0 AND NEW.id <> coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'leases'), 0) + 1
BEGIN SELECT RAISE(ABORT, 'ullage: ids are given by the database, each once'); END;

CREATE TRIGGER leases_immutable BEFORE UPDATE ON leases
WHEN NEW.id IS NOT OLD.id OR NEW.token IS NOT OLD.token OR NEW.purpose IS NOT OLD.purpose OR NEW.reference IS NOT OLD.reference OR NEW.owner IS NOT OLD.owner OR NEW.pid IS NOT OLD.pid OR NEW.created_at IS NOT OLD.created_at
BEGIN SELECT RAISE(ABORT, 'ullage: a lease keeps its identity'); END;

CREATE TRIGGER leases_ended AFTER UPDATE ON leases WHEN NEW.ended_token IS NOT NULL BEGIN
  DELETE FROM leases WHERE id = NEW.id;
END;

CREATE TRIGGER leases_stay BEFORE DELETE ON leases
WHEN OLD.ended_token IS NULL
BEGIN SELECT RAISE(ABORT, 'ullage: a lease ends when its owner lets go of its lock; ullage gc ends those whose owners are dead'); END;

CREATE TRIGGER lease_blobs_sound BEFORE INSERT ON lease_blobs
WHEN NOT EXISTS (SELECT 1 FROM leases WHERE id = NEW.lease_id) OR NOT EXISTS (SELECT 1 FROM blobs WHERE id = NEW.blob_id AND state = 'ready')
BEGIN SELECT RAISE(ABORT, 'ullage: a lease keeps blobs that are ready'); END;

CREATE TRIGGER lease_blobs_immutable BEFORE UPDATE ON lease_blobs
WHEN 1
BEGIN SELECT RAISE(ABORT, 'ullage: what a lease keeps goes with the lease'); END;

CREATE TRIGGER lease_blobs_stay BEFORE DELETE ON lease_blobs
WHEN EXISTS (SELECT 1 FROM leases WHERE id = OLD.lease_id)
BEGIN SELECT RAISE(ABORT, 'ullage: what a lease keeps goes with the lease'); END;

CREATE TRIGGER lease_images_sound BEFORE INSERT ON lease_images
WHEN NOT EXISTS (SELECT 1 FROM leases WHERE id = NEW.lease_id) OR NOT EXISTS (SELECT 1 FROM images WHERE id = NEW.image_id)
BEGIN SELECT RAISE(ABORT, 'ullage: a lease holds images that are here'); END;

CREATE TRIGGER lease_images_immutable BEFORE UPDATE ON lease_images
WHEN 1
BEGIN SELECT RAISE(ABORT, 'ullage: what a lease holds goes with the lease'); END;

CREATE TRIGGER lease_images_stay BEFORE DELETE ON lease_images
WHEN EXISTS (SELECT 1 FROM leases WHERE id = OLD.lease_id)
BEGIN SELECT RAISE(ABORT, 'ullage: what a lease holds goes with the lease'); END;

CREATE TRIGGER ingests_are_new BEFORE INSERT ON ingests
WHEN EXISTS (SELECT 1 FROM ingests WHERE digest = NEW.digest OR id = NEW.id) OR EXISTS (SELECT 1 FROM blobs WHERE digest = NEW.digest)
BEGIN SELECT RAISE(ABORT, 'ullage: that blob is here or on its way'); END;

CREATE TRIGGER ingests_numbered BEFORE INSERT ON ingests
WHEN NEW.id > 0 AND NEW.id <> coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'ingests'), 0) + 1
BEGIN SELECT RAISE(ABORT, 'ullage: ids are given by the database, each once'); END;

CREATE TRIGGER ingests_need_a_lease BEFORE INSERT ON ingests
WHEN NEW.state IS NOT 'partial' OR NEW.received_bytes IS NOT 0 OR NEW.lease_id IS NULL OR NOT EXISTS (SELECT 1 FROM leases WHERE id = NEW.lease_id)
BEGIN SELECT RAISE(ABORT, 'ullage: an ingest starts empty and needs a lease'); END;

CREATE TRIGGER ingests_reserved AFTER INSERT ON ingests BEGIN
  UPDATE store SET reserved_bytes = reserved_bytes + NEW.reserved_bytes, ledger = ledger + 1;
END;

CREATE TRIGGER ingests_immutable BEFORE UPDATE ON ingests
WHEN NEW.id IS NOT OLD.id OR NEW.digest IS NOT OLD.digest OR NEW.size IS NOT OLD.size
BEGIN SELECT RAISE(ABORT, 'ullage: an ingest keeps its identity'); END;

CREATE TRIGGER ingests_owner BEFORE UPDATE ON ingests
WHEN NEW.lease_id IS NOT OLD.lease_id AND (
  EXISTS (SELECT 1 FROM leases WHERE id = OLD.lease_id)
  OR NEW.lease_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM leases WHERE id = NEW.lease_id))
BEGIN SELECT RAISE(ABORT, 'ullage: an ingest belongs to its lease for as long as that lives'); END;

CREATE TRIGGER ingests_at_rest BEFORE UPDATE ON ingests
WHEN OLD.lease_id IS NULL AND NEW.received_bytes IS NOT OLD.received_bytes
BEGIN SELECT RAISE(ABORT, 'ullage: a partial blob that nobody fetches does not change'); END;

CREATE TRIGGER ingests_in_use BEFORE UPDATE ON ingests
WHEN NEW.state IS 'discarded' AND NEW.lease_id IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'ullage: only a partial blob that nobody owns is discarded, by whoever removes its file'); END;

CREATE TRIGGER ingests_arrive_whole BEFORE UPDATE ON ingests
WHEN NEW.state IS 'arrived' AND (NEW.lease_id IS NULL OR NEW.received_bytes IS NOT NEW.size)
BEGIN SELECT RAISE(ABORT, 'ullage: an ingest has arrived when its owner says so and all its bytes are here'); END;

CREATE TRIGGER ingests_resized AFTER UPDATE ON ingests WHEN NEW.reserved_bytes <> OLD.reserved_bytes BEGIN
  UPDATE store SET reserved_bytes = reserved_bytes + NEW.reserved_bytes - OLD.reserved_bytes, ledger = ledger + 1;
END;

CREATE TRIGGER ingests_discarded AFTER UPDATE ON ingests WHEN NEW.state = 'discarded' BEGIN
  DELETE FROM ingests WHERE id = NEW.id;
END;

CREATE TRIGGER ingests_stay BEFORE DELETE ON ingests
WHEN OLD.state <> 'discarded' AND NOT EXISTS (SELECT 1 FROM blobs WHERE digest = OLD.digest)
BEGIN SELECT RAISE(ABORT, 'ullage: an ingest ends with its lease, or is discarded by ullage gc with its file'); END;

CREATE TRIGGER ingests_gone AFTER DELETE ON ingests WHEN NOT EXISTS (SELECT 1 FROM blobs WHERE digest = OLD.digest) BEGIN
  UPDATE store SET reserved_bytes = reserved_bytes - OLD.reserved_bytes, ledger = ledger + 1;
END;

CREATE TRIGGER store_starts_empty BEFORE INSERT ON store
WHEN NEW.image_count IS NOT 0 OR NEW.blob_count IS NOT 0 OR NEW.blob_bytes IS NOT 0 OR NEW.tree_count IS NOT 0 OR NEW.tree_bytes IS NOT 0 OR NEW.tree_inodes IS NOT 0 OR NEW.registered_bytes IS NOT 0 OR NEW.reserved_bytes IS NOT 0 OR NEW.reserved_inodes IS NOT 0 OR NEW.doomed_bytes IS NOT 0 OR NEW.logical_bytes IS NOT 0
BEGIN SELECT RAISE(ABORT, 'ullage: a store starts with nothing in it'); END;

CREATE TRIGGER store_ledger BEFORE UPDATE ON store
WHEN (NEW.image_count IS NOT OLD.image_count OR NEW.blob_count IS NOT OLD.blob_count OR NEW.blob_bytes IS NOT OLD.blob_bytes OR NEW.tree_count IS NOT OLD.tree_count OR NEW.tree_bytes IS NOT OLD.tree_bytes OR NEW.tree_inodes IS NOT OLD.tree_inodes OR NEW.registered_bytes IS NOT OLD.registered_bytes OR NEW.reserved_bytes IS NOT OLD.reserved_bytes OR NEW.reserved_inodes IS NOT OLD.reserved_inodes OR NEW.doomed_bytes IS NOT OLD.doomed_bytes OR NEW.logical_bytes IS NOT OLD.logical_bytes OR NEW.ledger IS NOT OLD.ledger) AND NEW.ledger IS NOT OLD.ledger + 1
BEGIN SELECT RAISE(ABORT, 'ullage: counters are kept by triggers; accounting_drift shows where they are wrong, ullage check --repair recounts'); END;

CREATE TRIGGER store_counters BEFORE UPDATE ON store
WHEN min(NEW.image_count, NEW.blob_count, NEW.blob_bytes, NEW.tree_count, NEW.tree_bytes, NEW.tree_inodes, NEW.registered_bytes, NEW.reserved_bytes, NEW.reserved_inodes, NEW.doomed_bytes, NEW.logical_bytes) < 0
BEGIN SELECT RAISE(ABORT, 'ullage: counters do not go below zero; accounting_drift shows where they are wrong, ullage check --repair recounts'); END;

CREATE TRIGGER store_limit BEFORE UPDATE ON store
WHEN (NEW.blob_bytes + NEW.tree_bytes + NEW.registered_bytes + NEW.reserved_bytes) > (OLD.blob_bytes + OLD.tree_bytes + OLD.registered_bytes + OLD.reserved_bytes) AND (NEW.blob_bytes + NEW.tree_bytes + NEW.registered_bytes + NEW.reserved_bytes) > NEW.max_bytes
BEGIN SELECT RAISE(ABORT, 'ullage: storage limit exceeded'); END;

CREATE TRIGGER manifests_gone AFTER DELETE ON manifests BEGIN
  DELETE FROM manifest_blobs WHERE manifest_id = OLD.id;
  DELETE FROM manifest_trees WHERE manifest_id = OLD.id;
END;

CREATE TRIGGER leases_gone AFTER DELETE ON leases BEGIN
  DELETE FROM lease_blobs WHERE lease_id = OLD.id;
  DELETE FROM lease_images WHERE lease_id = OLD.id;
  DELETE FROM lease_trees WHERE lease_id = OLD.id;
  UPDATE ingests SET lease_id = NULL, reserved_bytes = received_bytes, state = 'partial' WHERE lease_id = OLD.id;
  UPDATE tree_ingests SET lease_id = NULL, state = 'partial' WHERE lease_id = OLD.id;
END;

CREATE TRIGGER store_inodes BEFORE UPDATE ON store
WHEN (NEW.tree_inodes + NEW.reserved_inodes) > (OLD.tree_inodes + OLD.reserved_inodes) AND (NEW.tree_inodes + NEW.reserved_inodes) > NEW.max_bytes / 4096
BEGIN SELECT RAISE(ABORT, 'ullage: storage limit exceeded by inodes'); END;

CREATE TRIGGER trees_are_new BEFORE INSERT ON trees
WHEN EXISTS (SELECT 1 FROM trees WHERE chain_id = NEW.chain_id OR id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'ullage: that tree is here'); END;

CREATE TRIGGER trees_numbered BEFORE INSERT ON trees
WHEN NEW.id > 0 AND NEW.id <> coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'trees'), 0) + 1
BEGIN SELECT RAISE(ABORT, 'ullage: ids are given by the database, each once'); END;

CREATE TRIGGER trees_come_from_ingests BEFORE INSERT ON trees
WHEN NOT EXISTS (SELECT 1 FROM tree_ingests WHERE chain_id = NEW.chain_id AND reserved_bytes >= NEW.space_bytes AND reserved_inodes >= NEW.inodes AND state = 'arrived' AND lease_id IS NOT NULL)
BEGIN SELECT RAISE(ABORT, 'ullage: a tree row comes from an ingest whose owner says that it arrived, and takes no more than was reserved'); END;

CREATE TRIGGER trees_start_ready BEFORE INSERT ON trees
WHEN NEW.state IS NOT 'ready' OR NEW.referenced IS NOT 0
BEGIN SELECT RAISE(ABORT, 'ullage: a new tree is ready, and named by nothing yet'); END;

CREATE TRIGGER trees_published AFTER INSERT ON trees BEGIN
  UPDATE store SET tree_count = tree_count + 1, tree_bytes = tree_bytes + NEW.space_bytes, tree_inodes = tree_inodes + NEW.inodes, reserved_bytes = reserved_bytes - (SELECT reserved_bytes FROM tree_ingests WHERE chain_id = NEW.chain_id), reserved_inodes = reserved_inodes - (SELECT reserved_inodes FROM tree_ingests WHERE chain_id = NEW.chain_id), ledger = ledger + 1;
  INSERT INTO lease_trees (lease_id, tree_id) SELECT lease_id, NEW.id FROM tree_ingests WHERE chain_id = NEW.chain_id;
  DELETE FROM tree_ingests WHERE chain_id = NEW.chain_id;
END;

CREATE TRIGGER trees_immutable BEFORE UPDATE ON trees
WHEN NEW.id IS NOT OLD.id OR NEW.chain_id IS NOT OLD.chain_id OR NEW.diff_id IS NOT OLD.diff_id OR NEW.space_bytes IS NOT OLD.space_bytes OR NEW.inodes IS NOT OLD.inodes OR NEW.rootless IS NOT OLD.rootless OR NEW.forgiven IS NOT OLD.forgiven
BEGIN SELECT RAISE(ABORT, 'ullage: a tree is immutable'); END;

CREATE TRIGGER trees_referenced BEFORE UPDATE ON trees
WHEN NEW.referenced IS NOT OLD.referenced AND NEW.referenced IS NOT EXISTS (SELECT 1 FROM manifest_trees WHERE tree_id = OLD.id)
BEGIN SELECT RAISE(ABORT, 'ullage: whether a tree is referenced is for its manifests to say'); END;

CREATE TRIGGER trees_in_use BEFORE UPDATE ON trees
WHEN NEW.state IS NOT 'ready' AND (EXISTS (SELECT 1 FROM manifest_trees WHERE tree_id = OLD.id) OR EXISTS (SELECT 1 FROM lease_trees WHERE tree_id = OLD.id))
BEGIN SELECT RAISE(ABORT, 'ullage: the tree is in use'); END;

CREATE TRIGGER trees_step_by_step BEFORE UPDATE ON trees
WHEN NEW.state IS 'swept' AND OLD.state <> 'doomed'
BEGIN SELECT RAISE(ABORT, 'ullage: only a doomed tree is swept, by whoever removes its directory'); END;

CREATE TRIGGER trees_doomed AFTER UPDATE ON trees WHEN OLD.state = 'ready' AND NEW.state = 'doomed' BEGIN
  UPDATE store SET tree_count = tree_count - 1, tree_bytes = tree_bytes - OLD.space_bytes, tree_inodes = tree_inodes - OLD.inodes, doomed_bytes = doomed_bytes + OLD.space_bytes, ledger = ledger + 1;
END;

CREATE TRIGGER trees_taken_back AFTER UPDATE ON trees WHEN OLD.state = 'doomed' AND NEW.state = 'ready' BEGIN
  UPDATE store SET tree_count = tree_count + 1, tree_bytes = tree_bytes + OLD.space_bytes, tree_inodes = tree_inodes + OLD.inodes, doomed_bytes = doomed_bytes - OLD.space_bytes, ledger = ledger + 1;
END;

CREATE TRIGGER trees_swept AFTER UPDATE ON trees WHEN NEW.state = 'swept' BEGIN
  DELETE FROM trees WHERE id = NEW.id;
END;

CREATE TRIGGER trees_stay BEFORE DELETE ON trees
WHEN OLD.state <> 'swept'
BEGIN SELECT RAISE(ABORT, 'ullage: a tree row goes with its directory: set state to doomed, and ullage gc removes both'); END;

CREATE TRIGGER trees_gone AFTER DELETE ON trees BEGIN
  UPDATE store SET doomed_bytes = doomed_bytes - OLD.space_bytes, ledger = ledger + 1;
END;

CREATE TRIGGER manifest_trees_sound BEFORE INSERT ON manifest_trees
WHEN NOT EXISTS (
  SELECT 1 FROM trees AS t CROSS JOIN lease_trees AS k ON k.tree_id = t.id CROSS JOIN leases AS l ON l.id = k.lease_id
  WHERE t.id = NEW.tree_id AND t.state = 'ready' AND l.status = 'complete')
  OR NOT EXISTS (SELECT 1 FROM manifests WHERE id = NEW.manifest_id AND complete = 1)
  OR EXISTS (SELECT 1 FROM manifest_trees WHERE manifest_id = NEW.manifest_id AND position = NEW.position)
BEGIN SELECT RAISE(ABORT, 'ullage: a manifest stacks on a tree when whoever unpacks it keeps that and completes; it needs to be complete, and the position free'); END;

CREATE TRIGGER manifest_trees_added AFTER INSERT ON manifest_trees BEGIN
  UPDATE trees SET referenced = 1 WHERE id = NEW.tree_id AND referenced = 0;
END;

CREATE TRIGGER manifest_trees_immutable BEFORE UPDATE ON manifest_trees
WHEN 1
BEGIN SELECT RAISE(ABORT, 'ullage: what a manifest stacks on does not change'); END;

CREATE TRIGGER manifest_trees_stay BEFORE DELETE ON manifest_trees
WHEN EXISTS (SELECT 1 FROM manifests AS m JOIN lease_images AS h ON h.image_id = m.image_id WHERE m.id = OLD.manifest_id)
BEGIN SELECT RAISE(ABORT, 'ullage: an image that is held keeps its trees; the view held says by whom'); END;

CREATE TRIGGER manifest_trees_gone AFTER DELETE ON manifest_trees BEGIN
  UPDATE trees SET referenced = 0 WHERE id = OLD.tree_id AND referenced = 1
     AND NOT EXISTS (SELECT 1 FROM manifest_trees WHERE tree_id = OLD.tree_id);
END;

CREATE TRIGGER lease_trees_sound BEFORE INSERT ON lease_trees
WHEN NOT EXISTS (SELECT 1 FROM leases WHERE id = NEW.lease_id) OR NOT EXISTS (SELECT 1 FROM trees WHERE id = NEW.tree_id AND state = 'ready')
BEGIN SELECT RAISE(ABORT, 'ullage: a lease keeps trees that are ready'); END;

CREATE TRIGGER lease_trees_immutable BEFORE UPDATE ON lease_trees
WHEN 1
BEGIN SELECT RAISE(ABORT, 'ullage: what a lease keeps goes with the lease'); END;

CREATE TRIGGER lease_trees_stay BEFORE DELETE ON lease_trees
WHEN EXISTS (SELECT 1 FROM leases WHERE id = OLD.lease_id)
BEGIN SELECT RAISE(ABORT, 'ullage: what a lease keeps goes with the lease'); END;

CREATE TRIGGER tree_ingests_are_new BEFORE INSERT ON tree_ingests
WHEN EXISTS (SELECT 1 FROM tree_ingests WHERE chain_id = NEW.chain_id OR id = NEW.id) OR EXISTS (SELECT 1 FROM trees WHERE chain_id = NEW.chain_id)
BEGIN SELECT RAISE(ABORT, 'ullage: that tree is here or on its way'); END;

CREATE TRIGGER tree_ingests_numbered BEFORE INSERT ON tree_ingests
WHEN NEW.id > 0 AND NEW.id <> coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'tree_ingests'), 0) + 1
BEGIN SELECT RAISE(ABORT, 'ullage: ids are given by the database, each once'); END;

CREATE TRIGGER tree_ingests_need_a_lease BEFORE INSERT ON tree_ingests
WHEN NEW.state IS NOT 'partial' OR NEW.lease_id IS NULL OR NOT EXISTS (SELECT 1 FROM leases WHERE id = NEW.lease_id)
BEGIN SELECT RAISE(ABORT, 'ullage: a tree is made for a lease'); END;

CREATE TRIGGER tree_ingests_reserved AFTER INSERT ON tree_ingests BEGIN
  UPDATE store SET reserved_bytes = reserved_bytes + NEW.reserved_bytes, reserved_inodes = reserved_inodes + NEW.reserved_inodes, ledger = ledger + 1;
END;

CREATE TRIGGER tree_ingests_immutable BEFORE UPDATE ON tree_ingests
WHEN NEW.id IS NOT OLD.id OR NEW.chain_id IS NOT OLD.chain_id
BEGIN SELECT RAISE(ABORT, 'ullage: an ingest keeps its identity'); END;

CREATE TRIGGER tree_ingests_owner BEFORE UPDATE ON tree_ingests
WHEN NEW.lease_id IS NOT OLD.lease_id AND (NEW.lease_id IS NOT NULL OR EXISTS (SELECT 1 FROM leases WHERE id = OLD.lease_id))
BEGIN SELECT RAISE(ABORT, 'ullage: a tree is made by one lease, for as long as that lives'); END;

CREATE TRIGGER tree_ingests_grow BEFORE UPDATE ON tree_ingests
WHEN NOT coalesce(NEW.reserved_bytes >= OLD.reserved_bytes AND NEW.reserved_inodes >= OLD.reserved_inodes, 0)
    AND NOT coalesce(NEW.state = 'filled' AND OLD.state = 'partial' AND NEW.reserved_bytes >= 0 AND NEW.reserved_inodes >= 0, 0)
  OR OLD.lease_id IS NULL AND (NEW.reserved_bytes IS NOT OLD.reserved_bytes OR NEW.reserved_inodes IS NOT OLD.reserved_inodes)
BEGIN SELECT RAISE(ABORT, 'ullage: what is reserved for a tree grows until that is filled, and is given back with its directory'); END;

CREATE TRIGGER tree_ingests_in_use BEFORE UPDATE ON tree_ingests
WHEN NEW.state IS 'discarded' AND NEW.lease_id IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'ullage: only what nobody makes is discarded, by whoever removes its directory'); END;

CREATE TRIGGER tree_ingests_arrive BEFORE UPDATE ON tree_ingests
WHEN NEW.state IN ('filled', 'arrived') AND NEW.lease_id IS NULL
BEGIN SELECT RAISE(ABORT, 'ullage: a tree is filled, and has arrived, when its owner says so'); END;

CREATE TRIGGER tree_ingests_resized AFTER UPDATE ON tree_ingests
WHEN NEW.reserved_bytes <> OLD.reserved_bytes OR NEW.reserved_inodes <> OLD.reserved_inodes BEGIN
  UPDATE store SET reserved_bytes = reserved_bytes + NEW.reserved_bytes - OLD.reserved_bytes, reserved_inodes = reserved_inodes + NEW.reserved_inodes - OLD.reserved_inodes, ledger = ledger + 1;
END;

CREATE TRIGGER tree_ingests_discarded AFTER UPDATE ON tree_ingests WHEN NEW.state = 'discarded' BEGIN
  DELETE FROM tree_ingests WHERE id = NEW.id;
END;

CREATE TRIGGER tree_ingests_stay BEFORE DELETE ON tree_ingests
WHEN OLD.state <> 'discarded' AND NOT EXISTS (SELECT 1 FROM trees WHERE chain_id = OLD.chain_id)
BEGIN SELECT RAISE(ABORT, 'ullage: half a tree goes with its directory; ullage gc removes both when its owner is dead'); END;

CREATE TRIGGER tree_ingests_gone AFTER DELETE ON tree_ingests WHEN NOT EXISTS (SELECT 1 FROM trees WHERE chain_id = OLD.chain_id) BEGIN
  UPDATE store SET reserved_bytes = reserved_bytes - OLD.reserved_bytes, reserved_inodes = reserved_inodes - OLD.reserved_inodes, ledger = ledger + 1;
END;

CREATE TRIGGER history_registered AFTER INSERT ON images WHEN NEW.registered_bytes IS NOT NULL BEGIN
  INSERT INTO history (at, event, owner, pid, detail, reference, image_id)
  SELECT coalesce(a.at, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')), 'registered', a.owner, a.pid, a.detail, coalesce(a.reference, NEW.spec_image_name || CASE WHEN NEW.spec_tag = '' THEN '' ELSE ':' || NEW.spec_tag END || CASE WHEN NEW.spec_digest = '' THEN '' ELSE '@' || NEW.spec_digest END), NEW.image_id
  FROM (SELECT 1) LEFT JOIN acting AS a ON a.one = 1;
END;

CREATE TRIGGER history_removed BEFORE DELETE ON images BEGIN
  INSERT INTO history (at, event, owner, pid, detail, reference, image_id, freed_bytes)
  SELECT coalesce(a.at, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')), CASE WHEN a.event = 'evicted' THEN a.event ELSE 'removed' END, a.owner, a.pid, a.detail, coalesce((SELECT substr(group_concat(reference, ' '), 1, 4096) FROM (SELECT reference FROM repo_tags WHERE image_id = OLD.id ORDER BY reference)), (SELECT substr(group_concat(reference, ' '), 1, 4096) FROM (SELECT reference FROM repo_digests WHERE image_id = OLD.id ORDER BY reference))), OLD.image_id, (SELECT exclusive_bytes FROM image_storage WHERE id = OLD.id)
  FROM (SELECT 1) LEFT JOIN acting AS a ON a.one = 1;
END;

CREATE TRIGGER history_tagged AFTER INSERT ON repo_tags WHEN NOT EXISTS (SELECT 1 FROM acting WHERE event IN ('pulled', 'imported', 'registered', 'salvaged')) BEGIN
  INSERT INTO history (at, event, owner, pid, detail, reference, image_id)
  SELECT coalesce(a.at, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')), 'tagged', a.owner, a.pid, a.detail, NEW.reference, (SELECT image_id FROM images WHERE id = NEW.image_id)
  FROM (SELECT 1) LEFT JOIN acting AS a ON a.one = 1;
END;

CREATE TRIGGER history_moved AFTER UPDATE ON repo_tags WHEN NEW.image_id <> OLD.image_id OR NEW.reference <> OLD.reference BEGIN
  INSERT INTO history (at, event, owner, pid, detail, reference, image_id, previous_image_id)
  SELECT coalesce(a.at, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')), 'moved', a.owner, a.pid, a.detail, NEW.reference, (SELECT image_id FROM images WHERE id = NEW.image_id), (SELECT image_id FROM images WHERE id = OLD.image_id)
  FROM (SELECT 1) LEFT JOIN acting AS a ON a.one = 1;
END;

CREATE TRIGGER history_untagged AFTER DELETE ON repo_tags WHEN EXISTS (SELECT 1 FROM images WHERE id = OLD.image_id) BEGIN
  INSERT INTO history (at, event, owner, pid, detail, reference, image_id)
  SELECT coalesce(a.at, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')), 'untagged', a.owner, a.pid, a.detail, OLD.reference, (SELECT image_id FROM images WHERE id = OLD.image_id)
  FROM (SELECT 1) LEFT JOIN acting AS a ON a.one = 1;
END;

CREATE TRIGGER history_undigested AFTER DELETE ON repo_digests WHEN EXISTS (SELECT 1 FROM images WHERE id = OLD.image_id) BEGIN
  INSERT INTO history (at, event, owner, pid, detail, reference, image_id)
  SELECT coalesce(a.at, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')), 'untagged', a.owner, a.pid, a.detail, OLD.reference, (SELECT image_id FROM images WHERE id = OLD.image_id)
  FROM (SELECT 1) LEFT JOIN acting AS a ON a.one = 1;
END;

CREATE TRIGGER history_unpacked AFTER INSERT ON manifest_trees WHEN NEW.position = 0 BEGIN
  INSERT INTO history (at, event, owner, pid, detail, image_id)
  SELECT coalesce(a.at, strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')), 'unpacked', l.owner, l.pid, a.detail, (SELECT i.image_id FROM manifests AS m JOIN images AS i ON i.id = m.image_id WHERE m.id = NEW.manifest_id)
  FROM (SELECT 1) LEFT JOIN acting AS a ON a.one = 1 LEFT JOIN leases AS l ON l.id = (SELECT k.lease_id FROM lease_trees AS k JOIN leases AS o ON o.id = k.lease_id WHERE k.tree_id = NEW.tree_id AND o.status = 'complete' LIMIT 1);
END;

CREATE TRIGGER blob_sources_sound BEFORE INSERT ON blob_sources
WHEN NOT EXISTS (SELECT 1 FROM blobs WHERE id = NEW.blob_id)
BEGIN SELECT RAISE(ABORT, 'ullage: where a blob came from is known of blobs that are here'); END;

CREATE TRIGGER blob_sources_immutable BEFORE UPDATE ON blob_sources
WHEN NEW.blob_id IS NOT OLD.blob_id
BEGIN SELECT RAISE(ABORT, 'ullage: where a blob came from is said of that blob'); END;

CREATE TRIGGER blob_sources_gone AFTER DELETE ON blobs BEGIN
  DELETE FROM blob_sources WHERE blob_id = OLD.id;
END;

CREATE TRIGGER access_sound BEFORE INSERT ON access
WHEN NOT EXISTS (SELECT 1 FROM images WHERE id = NEW.image_id)
BEGIN SELECT RAISE(ABORT, 'ullage: access is to images that are here'); END;

CREATE TRIGGER access_immutable BEFORE UPDATE ON access
WHEN NEW.image_id IS NOT OLD.image_id OR NEW.repo IS NOT OLD.repo OR NEW.credential IS NOT OLD.credential
BEGIN SELECT RAISE(ABORT, 'ullage: access is given or taken away, and not passed on'); END;

CREATE TRIGGER access_trimmed AFTER INSERT ON access BEGIN
  DELETE FROM access WHERE image_id = NEW.image_id AND repo = NEW.repo AND credential IN (
    SELECT credential FROM access WHERE image_id = NEW.image_id AND repo = NEW.repo
     ORDER BY verified_at DESC, credential LIMIT -1 OFFSET 64);
END;

CREATE TRIGGER access_gone AFTER DELETE ON images BEGIN
  DELETE FROM access WHERE image_id = OLD.id;
END;

CREATE TRIGGER history_numbered BEFORE INSERT ON history
WHEN NEW.id > 0 AND NEW.id <> coalesce((SELECT max(id) FROM history), 0) + 1
BEGIN SELECT RAISE(ABORT, 'ullage: ids are given by the database'); END;

CREATE TRIGGER history_immutable BEFORE UPDATE ON history
WHEN 1
BEGIN SELECT RAISE(ABORT, 'ullage: what happened stays as it was; it may be deleted'); END;

CREATE TRIGGER history_trimmed AFTER INSERT ON history BEGIN
  DELETE FROM history WHERE id IN (SELECT id FROM history ORDER BY id LIMIT 2)
    AND (id <= NEW.id - 10000 OR at < strftime('%Y-%m-%dT%H:%M:%f000Z', NEW.at, '-365 days'));
END;

CREATE VIEW storage_usage AS
-- Where the bytes are: one row, at no cost. used + reserved + available = max, unless the limit was lowered below use.
SELECT max_bytes,
       blob_bytes + tree_bytes + registered_bytes AS used_bytes,
       reserved_bytes,
       max(0, max_bytes - blob_bytes - tree_bytes - registered_bytes - reserved_bytes) AS available_bytes,
       image_count, blob_count, blob_bytes, tree_count, tree_bytes, tree_inodes,
       registered_bytes, doomed_bytes, logical_bytes
FROM store;

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
  FROM images AS i);

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
  UNION ALL SELECT 'size of image ' || id, size, (SELECT coalesce(i.registered_bytes, 0) + coalesce((
    SELECT sum(b.size) FROM blobs AS b WHERE b.id IN (
      SELECT e.blob_id FROM manifests AS m CROSS JOIN manifest_blobs AS e ON e.manifest_id = m.id
      WHERE m.image_id = i.id AND m.complete = 1)), 0)
    FROM images AS i WHERE i.id = images.id) FROM images
  UNION ALL SELECT 'referenced of ' || digest, referenced, EXISTS (SELECT 1 FROM manifest_blobs WHERE blob_id = blobs.id) FROM blobs
  UNION ALL SELECT 'referenced of tree ' || chain_id, referenced, EXISTS (SELECT 1 FROM manifest_trees WHERE tree_id = trees.id) FROM trees)
WHERE counter <> actual;

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
UNION ALL SELECT 'I7', 'counter ' || name, counter, actual FROM accounting_drift;

CREATE VIEW image_listing AS
-- The images, for people; times are UTC. space_by_image says what each of them takes alone.
SELECT i.id, coalesce((SELECT group_concat(reference, ' ') FROM (SELECT reference FROM repo_tags WHERE image_id = i.id ORDER BY reference)), '<none>') AS repo_tags, substr(i.image_id, instr(i.image_id, ':') + 1, 12) AS image,
       CASE WHEN i.size < 1000 THEN i.size || ' B' WHEN i.size < 1000000 THEN round(i.size / 1e3, 1) || ' kB'
       WHEN i.size < 1000000000 THEN round(i.size / 1e6, 1) || ' MB' ELSE round(i.size / 1e9, 2) || ' GB' END AS human_size, i.platform, i.pinned,
       strftime('%Y-%m-%d %H:%M:%S', i.pulled_at) AS pulled, strftime('%Y-%m-%d %H:%M:%S', i.last_used_at) AS last_used,
       i.size, i.pulled_at, i.last_used_at, i.image_id, (SELECT group_concat(reference, ' ') FROM (SELECT reference FROM repo_digests WHERE image_id = i.id ORDER BY reference)) AS repo_digests, i.uid, i.username
FROM images AS i;

CREATE VIEW space_by_image AS
-- What each image takes, for people, the largest first: shared with others, and what removing it would free.
SELECT s.id, coalesce((SELECT group_concat(reference, ' ') FROM (SELECT reference FROM repo_tags WHERE image_id = i.id ORDER BY reference)), '<none>') AS repo_tags, CASE WHEN s.size + s.tree_bytes < 1000 THEN s.size + s.tree_bytes || ' B' WHEN s.size + s.tree_bytes < 1000000 THEN round(s.size + s.tree_bytes / 1e3, 1) || ' kB'
       WHEN s.size + s.tree_bytes < 1000000000 THEN round(s.size + s.tree_bytes / 1e6, 1) || ' MB' ELSE round(s.size + s.tree_bytes / 1e9, 2) || ' GB' END AS takes,
       CASE WHEN s.shared_bytes < 1000 THEN s.shared_bytes || ' B' WHEN s.shared_bytes < 1000000 THEN round(s.shared_bytes / 1e3, 1) || ' kB'
       WHEN s.shared_bytes < 1000000000 THEN round(s.shared_bytes / 1e6, 1) || ' MB' ELSE round(s.shared_bytes / 1e9, 2) || ' GB' END AS shared, CASE WHEN s.exclusive_bytes < 1000 THEN s.exclusive_bytes || ' B' WHEN s.exclusive_bytes < 1000000 THEN round(s.exclusive_bytes / 1e3, 1) || ' kB'
       WHEN s.exclusive_bytes < 1000000000 THEN round(s.exclusive_bytes / 1e6, 1) || ' MB' ELSE round(s.exclusive_bytes / 1e9, 2) || ' GB' END AS frees,
       strftime('%Y-%m-%d %H:%M:%S', i.last_used_at) AS last_used, i.pinned, s.size, s.tree_bytes, s.shared_bytes, s.exclusive_bytes, s.image_id
FROM image_storage AS s JOIN images AS i ON i.id = s.id ORDER BY s.exclusive_bytes DESC, s.id;

CREATE VIEW storage_summary AS
-- Where the bytes are, for people. The figures are those of storage_usage.
SELECT name, CASE WHEN bytes < 1000 THEN bytes || ' B' WHEN bytes < 1000000 THEN round(bytes / 1e3, 1) || ' kB'
       WHEN bytes < 1000000000 THEN round(bytes / 1e6, 1) || ' MB' ELSE round(bytes / 1e9, 2) || ' GB' END AS human_size, bytes, what FROM (
  SELECT 1 AS line, 'limit' AS name, max_bytes AS bytes, 'used and reserved never grow past it' AS what FROM storage_usage
  UNION ALL SELECT 2, 'used', used_bytes, image_count || ' images, ' || blob_count || ' blobs, ' || tree_count || ' trees' FROM storage_usage
  UNION ALL SELECT 3, 'reserved', reserved_bytes, 'by pulls, running or interrupted' FROM storage_usage
  UNION ALL SELECT 4, 'available', available_bytes, 'for what is to come' FROM storage_usage
  UNION ALL SELECT 5, 'blobs', blob_bytes, 'of the used: content, each once' FROM storage_usage
  UNION ALL SELECT 6, 'trees', tree_bytes, 'of the used: unpacked layers' FROM storage_usage
  UNION ALL SELECT 7, 'registered', registered_bytes, 'of the used: kept elsewhere by a host' FROM storage_usage
  UNION ALL SELECT 8, 'doomed', doomed_bytes, 'beside all that, about to be unlinked' FROM storage_usage
  UNION ALL SELECT 9, 'unshared', logical_bytes, 'what the images would take without sharing' FROM storage_usage)
ORDER BY line;

CREATE VIEW reclaimable AS
-- What collection would free: blobs and trees that nothing names, and what is on its way for nobody.
SELECT kind, digest, CASE WHEN bytes < 1000 THEN bytes || ' B' WHEN bytes < 1000000 THEN round(bytes / 1e3, 1) || ' kB'
       WHEN bytes < 1000000000 THEN round(bytes / 1e6, 1) || ' MB' ELSE round(bytes / 1e9, 2) || ' GB' END AS human_size, bytes, since FROM (
  SELECT 'blob' AS kind, b.digest AS digest, b.size AS bytes, b.created_at AS since FROM blobs AS b
   WHERE b.referenced = 0 AND NOT EXISTS (SELECT 1 FROM lease_blobs AS l WHERE l.blob_id = b.id)
  UNION ALL
  SELECT 'partial', digest, reserved_bytes, created_at FROM ingests WHERE lease_id IS NULL
  UNION ALL
  SELECT CASE t.state WHEN 'ready' THEN 'tree' ELSE 'doomed tree' END, t.chain_id, t.space_bytes, t.created_at FROM trees AS t
   WHERE t.referenced = 0 AND NOT EXISTS (SELECT 1 FROM lease_trees AS l WHERE l.tree_id = t.id)
  UNION ALL
  SELECT 'partial tree', chain_id, reserved_bytes, created_at FROM tree_ingests WHERE lease_id IS NULL);

CREATE VIEW in_flight AS
-- What is being pulled right now, blob by blob, and unpacked, tree by tree; and what a later pull can go on with.
SELECT reference, status, kind, percent, CASE WHEN received_bytes < 1000 THEN received_bytes || ' B' WHEN received_bytes < 1000000 THEN round(received_bytes / 1e3, 1) || ' kB'
       WHEN received_bytes < 1000000000 THEN round(received_bytes / 1e6, 1) || ' MB' ELSE round(received_bytes / 1e9, 2) || ' GB' END AS received, CASE WHEN coalesce(size, reserved_bytes) < 1000 THEN coalesce(size, reserved_bytes) || ' B' WHEN coalesce(size, reserved_bytes) < 1000000 THEN round(coalesce(size, reserved_bytes) / 1e3, 1) || ' kB'
       WHEN coalesce(size, reserved_bytes) < 1000000000 THEN round(coalesce(size, reserved_bytes) / 1e6, 1) || ' MB' ELSE round(coalesce(size, reserved_bytes) / 1e9, 2) || ' GB' END AS human_size,
       strftime('%Y-%m-%d %H:%M:%S', since) AS started, digest, received_bytes, size, reserved_bytes, owner, pid, since FROM (
  SELECT coalesce(l.reference, '(nobody: resumable)') AS reference, l.status AS status, 'blob' AS kind, g.digest AS digest,
         g.received_bytes AS received_bytes, g.size AS size,
         CASE WHEN g.size > 0 THEN 100 * g.received_bytes / g.size ELSE 100 END AS percent,
         g.reserved_bytes AS reserved_bytes, l.owner AS owner, l.pid AS pid, g.created_at AS since
    FROM ingests AS g LEFT JOIN leases AS l ON l.id = g.lease_id
  UNION ALL
  SELECT coalesce(l.reference, '(nobody: to be removed)'), l.status, 'tree', g.chain_id, NULL, NULL, NULL,
         g.reserved_bytes, l.owner, l.pid, g.created_at
    FROM tree_ingests AS g LEFT JOIN leases AS l ON l.id = g.lease_id);

CREATE VIEW held AS
-- Who holds which image, since when.
SELECT i.id, (SELECT group_concat(reference, ' ') FROM (SELECT reference FROM repo_tags WHERE image_id = i.id ORDER BY reference)) AS repo_tags,
       l.owner || ' (pid ' || l.pid || ')' AS holder, strftime('%Y-%m-%d %H:%M:%S', l.created_at) AS started,
       i.image_id, l.owner, l.pid, l.created_at AS since
FROM lease_images AS h JOIN leases AS l ON l.id = h.lease_id JOIN images AS i ON i.id = h.image_id;

CREATE VIEW history_listing AS
-- What happened, newest first, for people; times are UTC. The table history has the same as it was written.
SELECT h.id, strftime('%Y-%m-%d %H:%M:%S', h.at) AS time, h.event, h.reference, substr(h.image_id, instr(h.image_id, ':') + 1, 12) AS image, substr(h.previous_image_id, instr(h.previous_image_id, ':') + 1, 12) AS before,
       CASE WHEN h.received_bytes < 1000 THEN h.received_bytes || ' B' WHEN h.received_bytes < 1000000 THEN round(h.received_bytes / 1e3, 1) || ' kB'
       WHEN h.received_bytes < 1000000000 THEN round(h.received_bytes / 1e6, 1) || ' MB' ELSE round(h.received_bytes / 1e9, 2) || ' GB' END AS received, h.hosts, CASE WHEN h.freed_bytes < 1000 THEN h.freed_bytes || ' B' WHEN h.freed_bytes < 1000000 THEN round(h.freed_bytes / 1e3, 1) || ' kB'
       WHEN h.freed_bytes < 1000000000 THEN round(h.freed_bytes / 1e6, 1) || ' MB' ELSE round(h.freed_bytes / 1e9, 2) || ' GB' END AS freed,
       coalesce(h.owner || ' (pid ' || h.pid || ')', 'sqlite3 shell') AS who, h.detail
FROM history AS h ORDER BY h.id DESC;

CREATE VIEW image_sources AS
-- Which hosts each image came from, and how much of it. What was here before it came from wherever that had come from.
SELECT i.id, coalesce((SELECT group_concat(reference, ' ') FROM (SELECT reference FROM repo_tags WHERE image_id = i.id ORDER BY reference)), '<none>') AS repo_tags, s.host, s.blob_count, CASE WHEN s.bytes < 1000 THEN s.bytes || ' B' WHEN s.bytes < 1000000 THEN round(s.bytes / 1e3, 1) || ' kB'
       WHEN s.bytes < 1000000000 THEN round(s.bytes / 1e6, 1) || ' MB' ELSE round(s.bytes / 1e9, 2) || ' GB' END AS human_size, s.bytes, i.image_id
FROM images AS i JOIN (
  SELECT m.image_id AS image_id, o.host AS host, count(DISTINCT b.id) AS blob_count, sum(b.size) AS bytes
    FROM (SELECT DISTINCT n.image_id AS image_id, e.blob_id AS blob_id FROM manifests AS n JOIN manifest_blobs AS e ON e.manifest_id = n.id) AS m
    JOIN blobs AS b ON b.id = m.blob_id JOIN blob_sources AS o ON o.blob_id = b.id
   GROUP BY m.image_id, o.host) AS s ON s.image_id = i.id;
