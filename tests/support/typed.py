"""
What somebody types at a store in the sqlite3 shell, and what the store answers: one line a statement.

Every trigger and every named constraint of the schema has a statement here that it alone refuses, or whose effect is
its alone; `test_shell` types them, and takes each rule away to see that it was that one. Words in braces are those of
`populated`.
"""

# ruff: noqa: E501 -- a table reads by its lines

from __future__ import annotations

from dataclasses import dataclass

ALLOWED = ""
STORE, EMPTY, BARE = "a populated store", "a store without its row", "a store without triggers"


@dataclass(frozen=True, slots=True)
class Typed:
    """
    ``sql`` is typed after ``given``, and ``says`` is the answer. ``rule`` is what it proves, ``why`` says it in words.

    ``gives`` is a query and what it says afterwards, where the views alone would not show that the rule is gone.
    """

    rule: str
    why: str
    sql: str
    says: str = ALLOWED
    given: tuple[str, ...] = ()
    at: str = STORE
    gives: tuple[str, str] | None = None


_NEW_LEASE = "INSERT INTO leases ({0}token, purpose, owner, pid, created_at) VALUES ({1}'{{token}}', 'pull', 'typed', 1, '{{now}}')"
_NEW_IMAGE = (
    "INSERT{2} INTO images ({0}image_id, size, registered_bytes, spec_image_name, pulled_at, last_used_at)"
    " VALUES ({1}'{{new}}', {3}, 500, 'typed', '{{now}}', '{{now}}')"
)
_NEW_INGEST = (
    "INSERT INTO ingests ({0}digest, size, lease_id, reserved_bytes, created_at)"
    " VALUES ({1}'{{new}}', 500, {{live}}, 500, '{{now}}')"
)
_NEW_TAG = (
    "INSERT INTO repo_tags ({0}reference, image_id, manifest_id, digest, updated_at)"
    " SELECT {1}'docker.io/library/typed:1', image_id, id, digest, created_at FROM manifests WHERE id = {{manifest}}"
)
_NEW_DIGEST = (
    "INSERT INTO repo_digests ({0}reference, image_id, manifest_id, digest, updated_at)"
    " SELECT {1}'docker.io/library/typed@' || digest, image_id, id, digest, created_at FROM manifests WHERE id = {{manifest}}"
)
_ARRIVED = ("UPDATE ingests SET state = 'arrived' WHERE digest = '{all}'",)
_PUBLISH = "INSERT{2} INTO blobs ({0}digest, size, created_at) SELECT {1}digest, size, created_at FROM ingests WHERE digest = '{{all}}'"
_COMPLETES = ("UPDATE leases SET status = 'complete' WHERE id = {live}",)
_NEW_MANIFEST = (
    "INSERT INTO manifests ({0}digest, image_id, media_type, created_at)"
    " SELECT {1}'{{kept_digest}}', id, 'x', '{{now}}' FROM images WHERE id = {{image}}"
)
_MADE_IMAGE = (
    "INSERT INTO images (image_id, spec_image_name, pulled_at, last_used_at)"
    " VALUES ('{kept_digest}', 'typed', '{now}', '{now}')"
)
_MADE_MANIFEST = (
    "INSERT INTO manifests (digest, image_id, media_type, created_at)"
    " SELECT image_id, id, 'x', '{now}' FROM images WHERE image_id = '{kept_digest}'"
)
_EDGE = "INSERT INTO manifest_blobs SELECT id, {0}, {{kept}}, '{1}', 'x' FROM manifests WHERE digest = '{{kept_digest}}'"
_MADE = (*_COMPLETES, _MADE_IMAGE, _MADE_MANIFEST, _EDGE.format(0, "manifest"), _EDGE.format(1, "config"))
_COMPLETED = "UPDATE manifests SET complete = 1 WHERE digest = '{kept_digest}'"
_MORE_ROOM = "UPDATE store SET max_bytes = max_bytes + 1000000"
_NUMBERS = "ids are given by the database, each once"
_LAST = ("id, ", "9223372036854775807, ")
_NEGATIVE = ("id, ", "-1, ")
_NO_TIME = "'2026-02-30T00:00:00.000000Z'"
_COUNTED = "counters are kept by triggers; accounting_drift shows where they are wrong, ullage check --repair recounts"
_NEEDS = "a reference needs an image, a complete manifest of it, and a digest by which that is found"
_KEEPS = "what a lease keeps goes with the lease"
_HOLDS = "what a lease holds goes with the lease"
_EDGES = (
    "an edge is made by a pull that completes and keeps its blob; it needs the next position, and a manifest that is"
    " not complete"
)
_MANIFESTS = (
    "a manifest is made by a pull that completes and keeps its bytes; it needs its image, and is complete when its"
    " edges are here"
)
_NEW_TREE = (
    "INSERT{2} INTO trees ({0}chain_id, diff_id, space_bytes, inodes, created_at)"
    " SELECT {1}chain_id, chain_id, 4096, 1, created_at FROM tree_ingests WHERE chain_id = '{{arriving}}'"
)
_TREE_ARRIVED = ("UPDATE tree_ingests SET state = 'arrived' WHERE chain_id = '{arriving}'",)
_FROM_ITS_INGEST = (
    "a tree row comes from an ingest whose owner says that it arrived, and takes no more than was reserved"
)
_NEW_TREE_INGEST = (
    "INSERT INTO tree_ingests ({0}chain_id, lease_id, reserved_bytes, reserved_inodes, created_at)"
    " VALUES ({1}'{{new}}', {{live}}, 500, 1, '{{now}}')"
)
_STACK = "INSERT INTO manifest_trees VALUES ({{manifest}}, 7, {{{0}}})"
_STACKS = (
    "a manifest stacks on a tree when whoever unpacks it keeps that and completes; it needs to be complete, and the"
    " position free"
)
_LINE = (
    "SELECT event || ' ' || reference || coalesce(owner, ' by nobody') FROM history ORDER BY id DESC LIMIT 1"
)
_ACTING = "INSERT INTO acting (at, event, detail, owner, pid) VALUES ('{now}', 'evicted', 'age', 'me', 7)"
_ACCESS = "INSERT INTO access VALUES ({{image}}, 'example.com/typed', '" + "f" * 64 + "', {0})"
_HAPPENED = "INSERT INTO history (at, event) VALUES ({0}, 'repaired')"
_MOVED = (
    "UPDATE repo_tags SET image_id = {held}, manifest_id = {held_manifest}, digest = (SELECT digest FROM manifests"
    " WHERE id = {held_manifest}) WHERE reference = '{tag}'"
)
_NEW_STORE = "INSERT INTO store ({0}max_bytes) VALUES ({1}0)"
_UUID, _CREATED = "'00000000-0000-0000-0000-000000000000'", "'2026-01-01T00:00:00.000000Z'"

# One line a statement, however long.
# fmt: off
GUARDS = (
    Typed("store_stays", "there is a store row", "DELETE FROM store", "the store row cannot be deleted"),
    Typed("store_is_one", "REPLACE brings no second row with counters at zero", "REPLACE INTO store (one, uuid, created_at, max_bytes) SELECT one, uuid, created_at, 1 << 60 FROM store", "the store row exists"),
    Typed("store_starts_empty", "a store counts from zero", _NEW_STORE.format("uuid, created_at, blob_bytes, ", f"{_UUID}, {_CREATED}, 5, "), "a store starts with nothing in it", at=EMPTY),
    Typed("store_identity", "a store is the same store tomorrow", f"UPDATE store SET uuid = {_UUID}", "a store keeps its identity"),
    Typed("store_ledger", "counters are not typed", "UPDATE store SET blob_bytes = 0", _COUNTED),
    Typed("store_ledger", "nor set to their default by a NULL that OR REPLACE swallows", "UPDATE OR REPLACE store SET reserved_bytes = NULL", _COUNTED),
    Typed("store_ledger", "nor with the ledger swallowed too", "UPDATE OR REPLACE store SET blob_bytes = 5, ledger = NULL", _COUNTED),
    Typed("store_ledger", "nor by way of a rowid alias and another table", "UPDATE store SET blob_bytes = b.size FROM blobs AS b WHERE store.rowid = 1", _COUNTED),
    Typed("store_is_one", "nor does an upsert", "INSERT INTO store (one, uuid, created_at, max_bytes) SELECT one, uuid, created_at, 0 FROM store WHERE 1 ON CONFLICT (one) DO UPDATE SET blob_bytes = 0", "the store row exists"),
    Typed("store_counters", "not even a forger counts below zero", "UPDATE store SET doomed_bytes = -1, ledger = ledger + 1", "counters do not go below zero; accounting_drift shows where they are wrong, ullage check --repair recounts"),
    Typed("store_counters", "and what a statement may IGNORE does not happen by half", "UPDATE OR IGNORE blobs SET state = 'ready' WHERE id = {doomed}", "counters do not go below zero; accounting_drift shows where they are wrong, ullage check --repair recounts", given=("UPDATE store SET doomed_bytes = 0, ledger = ledger + 1",)),
    Typed("store_limit", "a registered image fits under the limit", _NEW_IMAGE.format("", "", "", 500), "storage limit exceeded", given=("UPDATE store SET max_bytes = 0",)),
    Typed("store_limit", "so does a reservation", "INSERT INTO ingests (digest, size, lease_id, reserved_bytes, created_at) VALUES ('{new}', 50000, {live}, 50000, '{now}')", "storage limit exceeded"),
    Typed("store_limit", "so does a partial blob that is gone on with", "UPDATE ingests SET lease_id = {live}, reserved_bytes = size WHERE digest = '{partial}'", "storage limit exceeded"),
    Typed("store_limit", "so does a doomed blob that is taken back", "UPDATE OR IGNORE blobs SET state = 'ready' WHERE id = {doomed}", "storage limit exceeded", given=("UPDATE store SET max_bytes = 0",)),
    Typed("store_limit", "and not row by row up to where it breaks", "INSERT OR FAIL INTO ingests (digest, size, lease_id, reserved_bytes, created_at) VALUES ('{new}', 15000, {live}, 15000, '{now}'), ('{newer}', 15000, {live}, 15000, '{now}')", "storage limit exceeded"),
    Typed("blobs_are_new", "a row is not replaced by its id, though the numbers were wound back", _PUBLISH.format("id, ", "1, ", " OR REPLACE"), "that blob is here", given=(*_ARRIVED, "DELETE FROM sqlite_sequence")),
    Typed("blobs_numbered", "the last id there is would be the last blob", _PUBLISH.format(*_LAST, ""), _NUMBERS, given=_ARRIVED),
    Typed("blobs_come_from_ingests", "what is received is not verified, and not in place", _PUBLISH.format("", "", ""), "a blob row comes from an ingest whose owner says that it arrived"),
    Typed("blobs_come_from_ingests", "a blob does not come from nowhere", "INSERT INTO blobs (digest, size, created_at) VALUES ('{new}', 0, '{now}')", "a blob row comes from an ingest whose owner says that it arrived"),
    Typed("blobs_come_from_ingests", "nor from a partial blob that nobody fetches", "INSERT OR REPLACE INTO blobs (digest, size, created_at) SELECT digest, size, created_at FROM ingests WHERE digest = '{partial}'", "a blob row comes from an ingest whose owner says that it arrived"),
    Typed("blobs_start_ready", "nothing names a blob before it is there", "INSERT INTO blobs (digest, size, referenced, created_at) SELECT digest, size, 1, created_at FROM ingests WHERE digest = '{all}'", "a new blob is ready, and named by nothing yet", given=_ARRIVED),
    Typed("blobs_immutable", "a blob has its size", "UPDATE blobs SET size = size + 1 WHERE id = {garbage}", "a blob is immutable"),
    Typed("blobs_immutable", "and its digest", "UPDATE OR REPLACE blobs SET digest = (SELECT digest FROM blobs WHERE id = {leased}) WHERE id = {garbage}", "a blob is immutable"),
    Typed("blobs_immutable", "and its id, whatever that is called", "UPDATE OR REPLACE blobs SET _rowid_ = {leased} WHERE id = {garbage}", "a blob is immutable"),
    Typed("blobs_referenced", "what images name is not shown as named by nothing", "UPDATE blobs SET referenced = 0 WHERE id = {leased}", "whether a blob is referenced is for its manifests to say"),
    Typed("blobs_referenced", "nor by a NULL that becomes 0", "UPDATE OR REPLACE blobs SET referenced = NULL", "whether a blob is referenced is for its manifests to say"),
    Typed("blobs_in_use", "a blob that an image names is not doomed", "UPDATE blobs SET state = 'doomed'", "the blob is in use"),
    Typed("blobs_in_use", "nor one that a live lease keeps", "UPDATE OR IGNORE blobs SET state = 'doomed' WHERE id = {kept}", "the blob is in use"),
    Typed("blobs_in_use", "nor by a NULL, which is no state", "UPDATE OR REPLACE blobs SET state = NULL WHERE id = {leased}", "the blob is in use"),
    Typed("blobs_step_by_step", "a file goes after its row was doomed", "UPDATE blobs SET state = 'swept' WHERE id = {garbage}", "only a doomed blob is swept, by whoever removes its file"),
    Typed("blobs_stay", "a row does not leave its file behind", "DELETE FROM blobs WHERE id = {doomed}", "a blob row goes with its file: set state to doomed, and ullage gc removes both"),
    Typed("images_are_new", "an image is not replaced past its delete triggers", "REPLACE INTO images (image_id, size, registered_bytes, spec_image_name, pulled_at, last_used_at) SELECT image_id, 0, 0, 'typed', pulled_at, last_used_at FROM images WHERE id = {image}", "that image is here"),
    Typed("images_numbered", "the last id there is would be the last image", _NEW_IMAGE.format(*_LAST, "", 500), _NUMBERS),
    Typed("images_numbered", "nor is an id given twice", _NEW_IMAGE.format("rowid, ", "{nameless}, ", " OR REPLACE", 500), _NUMBERS, given=("DELETE FROM images WHERE id = {nameless}",)),
    Typed("images_have_content", "no half of an image", "INSERT INTO images (image_id, spec_image_name, pulled_at, last_used_at) SELECT digest, 'typed', '{now}', '{now}' FROM blobs WHERE id = {kept}", "an image is made by a pull that completes and keeps its content, or of what is registered for it"),
    Typed("images_start_small", "what is registered is what it takes", _NEW_IMAGE.format("", "", "", 5), "a new image has the size of what is registered for it"),
    Typed("images_start_small", "and a NULL that becomes 0 is not", _NEW_IMAGE.format("", "", " OR REPLACE", "NULL"), "a new image has the size of what is registered for it"),
    Typed("images_immutable", "what is registered stays registered", "UPDATE images SET registered_bytes = NULL WHERE id = {registered}", "an image keeps its identity, and what its config says"),
    Typed("images_immutable", "an image is of the platform that its config says", "UPDATE images SET platform = 'plan9/mips' WHERE id = {image}", "an image keeps its identity, and what its config says"),
    Typed("images_immutable", "and has its id", "UPDATE OR REPLACE images SET oid = {image} WHERE id = {held}", "an image keeps its identity, and what its config says"),
    Typed("images_size", "an image has the size of its blobs", "UPDATE images SET size = 1 WHERE id = {image}", "the size of an image is that of its blobs"),
    Typed("images_size", "and no NULL", "UPDATE OR REPLACE images SET size = NULL WHERE id = {image}", "the size of an image is that of its blobs"),
    Typed("images_held", "an image that somebody holds is not removed", "DELETE FROM images WHERE id = {held}", "the image is held; the view held says by whom"),
    Typed("images_held", "not even among others", "DELETE FROM images", "the image is held; the view held says by whom"),
    Typed("manifests_are_new", "a manifest is not replaced past its delete triggers", "REPLACE INTO manifests (digest, image_id, media_type, created_at) SELECT digest, image_id, media_type, created_at FROM manifests WHERE id = {manifest}", "that manifest is here", given=(*_COMPLETES, "INSERT INTO lease_blobs SELECT {live}, b.id FROM blobs AS b JOIN manifests AS m USING (digest) WHERE m.id = {manifest}")),
    Typed("manifests_numbered", "the last id there is would be the last manifest", _NEW_MANIFEST.format(*_LAST), _NUMBERS, given=_COMPLETES),
    Typed("manifests_need_an_image", "no half of a manifest", _NEW_MANIFEST.format("", ""), _MANIFESTS),
    Typed("manifests_need_an_image", "its bytes are here", "INSERT INTO manifests (digest, image_id, media_type, created_at) VALUES ('{new}', {image}, 'x', '{now}')", _MANIFESTS, given=_COMPLETES),
    Typed("manifests_immutable", "a manifest stays with its image", "UPDATE manifests SET image_id = {held} WHERE id = {manifest}", "a manifest is immutable"),
    Typed("manifests_immutable", "and complete", "UPDATE OR REPLACE manifests SET complete = NULL WHERE id = {manifest}", "a manifest is immutable"),
    Typed("manifests_whole", "a manifest without edges is not complete", "UPDATE manifests SET complete = 1 WHERE digest = '{kept_digest}'", "a complete manifest has itself and its config among its blobs, and one of the two names its image", given=(*_COMPLETES, _NEW_MANIFEST.format("", ""))),
    Typed("manifests_whole", "nor is one whose config is another image's", "UPDATE manifests SET complete = 1 WHERE digest = '{kept_digest}'", "a complete manifest has itself and its config among its blobs, and one of the two names its image", given=(*_COMPLETES, _NEW_MANIFEST.format("", ""), _EDGE.format(0, "manifest"), _EDGE.format(1, "config"))),
    Typed("manifests_stay", "references and edges do not lose their manifest", "DELETE FROM manifests WHERE id = {manifest}", "a manifest goes with its image"),
    Typed("manifest_blobs_sound", "no edge to hang garbage on an image", "INSERT INTO manifest_blobs SELECT {manifest}, max(position) + 1, {kept}, 'index', 'x' FROM manifest_blobs WHERE manifest_id = {manifest}", _EDGES),
    Typed("manifest_blobs_sound", "no edge to a blob that nobody keeps", "INSERT INTO manifest_blobs SELECT {manifest}, max(position) + 1, {garbage}, 'index', 'x' FROM manifest_blobs WHERE manifest_id = {manifest}", _EDGES, given=_COMPLETES),
    Typed("manifest_blobs_sound", "no layer for a manifest that is complete", "INSERT INTO manifest_blobs SELECT {manifest}, max(position) + 1, {kept}, 'layer', 'x' FROM manifest_blobs WHERE manifest_id = {manifest}", _EDGES, given=_COMPLETES),
    Typed("manifest_blobs_sound", "no position after which there is no next", "INSERT INTO manifest_blobs VALUES ({manifest}, 9223372036854775807, {kept}, 'index', 'x')", _EDGES, given=_COMPLETES),
    Typed("manifest_blobs_sound", "no edge in the place of another", "REPLACE INTO manifest_blobs VALUES ({manifest}, 0, {kept}, 'index', 'x')", _EDGES, given=_COMPLETES),
    Typed("manifest_blobs_immutable", "an edge leads where it led", "UPDATE manifest_blobs SET blob_id = {garbage} WHERE manifest_id = {manifest} AND role = 'layer'", "edges are immutable"),
    Typed("manifest_blobs_stay", "an image does not lose a layer", "DELETE FROM manifest_blobs WHERE manifest_id = {manifest} AND role = 'layer'", "edges go with their manifest"),
    Typed("repo_tags_sound", "a tag does not lead to a manifest of another image", "INSERT INTO repo_tags (reference, image_id, manifest_id, digest, updated_at) SELECT 'docker.io/library/typed:1', {held}, id, digest, created_at FROM manifests WHERE id = {manifest}", _NEEDS),
    Typed("repo_tags_sound", "nor to nothing, though REPLACE takes the old one away", "REPLACE INTO repo_tags (reference, image_id, updated_at) SELECT reference, image_id, updated_at FROM repo_tags WHERE reference = '{tag}'", _NEEDS),
    Typed("repo_tags_sound", "nor to an image that is not here", "INSERT INTO repo_tags (reference, image_id, updated_at) VALUES ('docker.io/library/typed:1', 999, '{now}')", _NEEDS),
    Typed("repo_tags_stay_sound", "a tag is not moved to a manifest of another image", "UPDATE repo_tags SET image_id = {held} WHERE reference = '{tag}'", _NEEDS),
    Typed("repo_tags_stay_sound", "not by an upsert either", "INSERT INTO repo_tags (reference, image_id, manifest_id, digest, updated_at) SELECT reference, image_id, manifest_id, digest, updated_at FROM repo_tags WHERE reference = '{tag}' ON CONFLICT (reference) DO UPDATE SET manifest_id = {held_manifest}", _NEEDS),
    Typed("repo_tags_numbered", "the last id there is would be the last tag", _NEW_TAG.format(*_LAST), _NUMBERS),
    Typed("repo_tags_keep_their_ids", "nor does an UPDATE get there", "UPDATE repo_tags SET rowid = 9223372036854775807 WHERE reference = '{tag}'", "a reference keeps its row"),
    Typed("repo_digests_sound", "a digest leads to what has that digest", "INSERT INTO repo_digests (reference, image_id, manifest_id, digest, updated_at) SELECT 'docker.io/library/typed@' || '{new}', image_id, id, '{new}', created_at FROM manifests WHERE id = {manifest}", _NEEDS),
    Typed("repo_digests_stay_sound", "and goes on to", "UPDATE repo_digests SET manifest_id = {held_manifest}, image_id = {held} WHERE manifest_id = {manifest}", _NEEDS),
    Typed("repo_digests_numbered", "the last id there is would be the last digest", _NEW_DIGEST.format(*_LAST), _NUMBERS),
    Typed("repo_digests_keep_their_ids", "nor does an UPDATE get there", "UPDATE repo_digests SET oid = 9223372036854775807 WHERE manifest_id = {held_manifest}", "a reference keeps its row"),
    Typed("leases_are_new", "a live lease is not replaced by another of its name", "REPLACE INTO leases (token, purpose, owner, pid, created_at) SELECT token, 'hold', 'typed', 1, created_at FROM leases WHERE id = {live}", "that lease is here"),
    Typed("leases_start_at_work", "no lease is over before it starts", "INSERT INTO leases (token, purpose, owner, pid, created_at, ended_token) VALUES ('{token}', 'pull', 'typed', 1, '{now}', '{token}')", "a lease starts with its work before it"),
    Typed("leases_start_at_work", "nor completes at once", "INSERT INTO leases (token, purpose, status, owner, pid, created_at) VALUES ('{token}', 'pull', 'complete', 'typed', 1, '{now}')", "a lease starts with its work before it"),
    Typed("leases_numbered", "the last id there is would be the last lease", _NEW_LEASE.format(*_LAST), _NUMBERS),
    Typed("leases_immutable", "a lease has its token, and so its lock", "UPDATE leases SET token = '{token}' WHERE id = {live}", "a lease keeps its identity"),
    Typed("leases_immutable", "and its id, that its ingests know", "UPDATE OR REPLACE leases SET rowid = 77 WHERE id = {live}", "a lease keeps its identity"),
    Typed("leases_immutable", "and its owner", "UPDATE leases SET pid = 1, owner = 'somebody else' WHERE id = {live}", "a lease keeps its identity"),
    Typed("leases_stay", "a live pull keeps its lease", "DELETE FROM leases WHERE id = {live}", "a lease ends when its owner lets go of its lock; ullage gc ends those whose owners are dead"),
    Typed("leases_stay", "so do all", "DELETE FROM leases", "a lease ends when its owner lets go of its lock; ullage gc ends those whose owners are dead"),
    Typed("lease_blobs_sound", "what is kept is here", "INSERT INTO lease_blobs VALUES ({live}, {doomed})", "a lease keeps blobs that are ready"),
    Typed("lease_blobs_sound", "and kept by somebody", "INSERT OR REPLACE INTO lease_blobs VALUES (999, {garbage})", "a lease keeps blobs that are ready"),
    Typed("lease_blobs_immutable", "nothing else is kept instead", "UPDATE lease_blobs SET blob_id = {garbage} WHERE blob_id = {kept}", _KEEPS),
    Typed("lease_blobs_stay", "a live lease keeps what it keeps", "DELETE FROM lease_blobs WHERE lease_id = {live}", _KEEPS),
    Typed("lease_images_sound", "what is held is here", "INSERT INTO lease_images VALUES ({hold}, 999)", "a lease holds images that are here"),
    Typed("lease_images_immutable", "nothing else is held instead", "UPDATE lease_images SET image_id = {image}", _HOLDS),
    Typed("lease_images_stay", "a hold holds", "DELETE FROM lease_images", _HOLDS),
    Typed("ingests_are_new", "a live ingest is not replaced", "REPLACE INTO ingests (digest, size, lease_id, reserved_bytes, created_at) SELECT digest, size, lease_id, reserved_bytes, created_at FROM ingests WHERE digest = '{some}'", "that blob is here or on its way"),
    Typed("ingests_are_new", "what is here is not fetched", "INSERT INTO ingests (digest, size, lease_id, reserved_bytes, created_at) SELECT digest, size, {live}, size, created_at FROM blobs WHERE id = {doomed}", "that blob is here or on its way", given=(_MORE_ROOM,)),
    Typed("ingests_numbered", "the last id there is would be the last ingest", _NEW_INGEST.format(*_LAST), _NUMBERS),
    Typed("ingests_need_a_lease", "room is reserved for somebody", "INSERT INTO ingests (digest, size, reserved_bytes, created_at) VALUES ('{new}', 500, 0, '{now}')", "an ingest starts empty and needs a lease"),
    Typed("ingests_need_a_lease", "who is here", "INSERT INTO ingests (digest, size, lease_id, reserved_bytes, created_at) VALUES ('{new}', 500, 999, 500, '{now}')", "an ingest starts empty and needs a lease"),
    Typed("ingests_immutable", "an ingest is of its digest", "UPDATE ingests SET digest = '{new}' WHERE digest = '{some}'", "an ingest keeps its identity"),
    Typed("ingests_immutable", "and of its size: so much is reserved", "UPDATE ingests SET size = 150000, reserved_bytes = 150000 WHERE digest = '{some}'", "an ingest keeps its identity"),
    Typed("ingests_owner", "a live pull keeps its ingests", "UPDATE ingests SET lease_id = {dead} WHERE digest = '{some}'", "an ingest belongs to its lease for as long as that lives"),
    Typed("ingests_owner", "and what they reserve", "UPDATE ingests SET lease_id = NULL, reserved_bytes = received_bytes", "an ingest belongs to its lease for as long as that lives"),
    Typed("ingests_owner", "nobody takes over who is not here", "UPDATE ingests SET lease_id = 999, reserved_bytes = size WHERE digest = '{partial}'", "an ingest belongs to its lease for as long as that lives", given=(_MORE_ROOM,)),
    Typed("ingests_at_rest", "a partial blob is charged for what is on disk", "UPDATE ingests SET received_bytes = 0, reserved_bytes = 0 WHERE digest = '{partial}'", "a partial blob that nobody fetches does not change"),
    Typed("ingests_at_rest", "NULL or not", "UPDATE OR REPLACE ingests SET received_bytes = NULL, reserved_bytes = 0 WHERE digest = '{partial}'", "a partial blob that nobody fetches does not change"),
    Typed("ingests_at_rest", "taken over or not", "UPDATE ingests SET lease_id = {live}, reserved_bytes = size, received_bytes = 0 WHERE digest = '{partial}'", "a partial blob that nobody fetches does not change", given=(_MORE_ROOM,)),
    Typed("ingests_in_use", "what somebody fetches is not thrown away", "UPDATE ingests SET state = 'discarded' WHERE digest = '{some}'", "only a partial blob that nobody owns is discarded, by whoever removes its file"),
    Typed("ingests_arrive_whole", "nothing arrives by half", "UPDATE ingests SET state = 'arrived' WHERE digest = '{some}'", "an ingest has arrived when its owner says so and all its bytes are here"),
    Typed("history_numbered", "the last id there is would be the last deed", "INSERT INTO history (id, at, event) VALUES (9223372036854775807, '{now}', 'pulled')", "ids are given by the database"),
    Typed("history_numbered", "nor is a line replaced", "REPLACE INTO history (id, at, event) VALUES (1, '{now}', 'pulled')", "ids are given by the database"),
    Typed("history_immutable", "what happened, happened", "UPDATE history SET owner = 'somebody else', event = 'removed'", "what happened stays as it was; it may be deleted"),
    Typed("blob_sources_sound", "nothing came from anywhere that is not here", "INSERT OR REPLACE INTO blob_sources VALUES (999, 'example.com')", "where a blob came from is known of blobs that are here"),
    Typed("blob_sources_immutable", "nor is it said of another blob", "UPDATE blob_sources SET blob_id = {kept} WHERE blob_id = {leased}", "where a blob came from is said of that blob"),
    Typed("access_sound", "nobody has access to what is not here", "INSERT OR REPLACE INTO access VALUES (999, 'example.com/app', '', '{now}')", "access is to images that are here"),
    Typed("access_immutable", "what one may, another may not", "UPDATE OR REPLACE access SET image_id = {held} WHERE image_id = {image}", "access is given or taken away, and not passed on"),
    Typed("access_immutable", "nor from elsewhere", "UPDATE access SET repo = 'example.com/other'", "access is given or taken away, and not passed on"),
    Typed("access_immutable", "nor is it everybody's by the way", "UPDATE access SET credential = hex(zeroblob(32))", "access is given or taken away, and not passed on"),
    Typed("ingests_stay", "a live reservation stays, and so does a partial blob", "DELETE FROM ingests", "an ingest ends with its lease, or is discarded by ullage gc with its file"),
    Typed("store_ledger", "nor those of trees", "UPDATE store SET tree_inodes = 0, reserved_inodes = 0", _COUNTED),
    Typed("store_limit", "so does what a tree grows by", "UPDATE tree_ingests SET reserved_bytes = reserved_bytes + 50000 WHERE chain_id = '{growing}'", "storage limit exceeded"),
    Typed("store_limit", "and a doomed tree that is taken back", "UPDATE OR IGNORE trees SET state = 'ready' WHERE id = {tree_doomed}", "storage limit exceeded", given=("UPDATE store SET max_bytes = 400000",)),
    Typed("store_inodes", "files without a byte in them do not fill a disk either", "UPDATE tree_ingests SET reserved_inodes = reserved_inodes + 5000 WHERE chain_id = '{growing}'", "storage limit exceeded by inodes"),
    Typed("store_inodes", "nor at once", "INSERT OR IGNORE INTO tree_ingests (chain_id, lease_id, reserved_inodes, created_at) VALUES ('{new}', {live}, 5000, '{now}')", "storage limit exceeded by inodes"),
    Typed("trees_are_new", "a row is not replaced by its id, though the numbers were wound back", _NEW_TREE.format("id, ", "1, ", " OR REPLACE"), "that tree is here", given=(*_TREE_ARRIVED, "DELETE FROM sqlite_sequence")),
    Typed("trees_numbered", "the last id there is would be the last tree", _NEW_TREE.format(*_LAST, ""), _NUMBERS, given=_TREE_ARRIVED),
    Typed("trees_come_from_ingests", "a tree that is being made is not there", _NEW_TREE.format("", "", ""), _FROM_ITS_INGEST),
    Typed("trees_come_from_ingests", "it takes no more than it reserved", _NEW_TREE.format("", "", "").replace("4096", "409600"), _FROM_ITS_INGEST, given=_TREE_ARRIVED),
    Typed("trees_come_from_ingests", "nor more inodes", _NEW_TREE.format("", "", "").replace(" 1,", " 100,"), _FROM_ITS_INGEST, given=_TREE_ARRIVED),
    Typed("trees_come_from_ingests", "and does not come from what a dead owner left", "INSERT OR REPLACE INTO trees (chain_id, diff_id, space_bytes, inodes, created_at) SELECT chain_id, chain_id, 0, 0, created_at FROM tree_ingests WHERE chain_id = '{half}'", _FROM_ITS_INGEST),
    Typed("trees_start_ready", "nothing stacks on a tree before it is there", _NEW_TREE.format("referenced, ", "1, ", ""), "a new tree is ready, and named by nothing yet", given=_TREE_ARRIVED),
    Typed("trees_immutable", "a tree takes what it takes", "UPDATE trees SET space_bytes = 0 WHERE id = {tree_garbage}", "a tree is immutable"),
    Typed("trees_immutable", "and is of its chain", "UPDATE OR REPLACE trees SET chain_id = (SELECT chain_id FROM trees WHERE id = {tree}) WHERE id = {tree_garbage}", "a tree is immutable"),
    Typed("trees_immutable", "and has its id, whatever that is called", "UPDATE OR REPLACE trees SET oid = {tree} WHERE id = {tree_garbage}", "a tree is immutable"),
    Typed("trees_referenced", "what an image stacks on is not shown as garbage", "UPDATE trees SET referenced = 0 WHERE id = {tree}", "whether a tree is referenced is for its manifests to say"),
    Typed("trees_referenced", "nor by a NULL that becomes 0", "UPDATE OR REPLACE trees SET referenced = NULL", "whether a tree is referenced is for its manifests to say"),
    Typed("trees_in_use", "a tree that an image stacks on is not doomed", "UPDATE trees SET state = 'doomed'", "the tree is in use"),
    Typed("trees_in_use", "nor one that a live lease keeps", "UPDATE OR IGNORE trees SET state = 'doomed' WHERE id = {tree_kept}", "the tree is in use"),
    Typed("trees_in_use", "nor by a NULL, which is no state", "UPDATE OR REPLACE trees SET state = NULL WHERE id = {tree}", "the tree is in use"),
    Typed("trees_step_by_step", "a directory goes after its row was doomed", "UPDATE trees SET state = 'swept' WHERE id = {tree_garbage}", "only a doomed tree is swept, by whoever removes its directory"),
    Typed("trees_stay", "a row does not leave its directory behind", "DELETE FROM trees WHERE id = {tree_doomed}", "a tree row goes with its directory: set state to doomed, and ullage gc removes both"),
    Typed("manifest_trees_sound", "no tree is hung on an image by hand", _STACK.format("tree_kept"), _STACKS),
    Typed("manifest_trees_sound", "nor one that nobody keeps", _STACK.format("tree_garbage"), _STACKS, given=_COMPLETES),
    Typed("manifest_trees_sound", "nor in the place of another", "REPLACE INTO manifest_trees VALUES ({manifest}, 0, {tree_kept})", _STACKS, given=_COMPLETES),
    Typed("manifest_trees_sound", "nor on a manifest that is not here", "INSERT INTO manifest_trees VALUES (999, 0, {tree_kept})", _STACKS, given=_COMPLETES),
    Typed("manifest_trees_immutable", "an image stacks on what it was unpacked to", "UPDATE manifest_trees SET tree_id = {tree_garbage} WHERE manifest_id = {manifest}", "what a manifest stacks on does not change"),
    Typed("manifest_trees_stay", "an image that somebody has mounted keeps its trees", "DELETE FROM manifest_trees", "an image that is held keeps its trees; the view held says by whom"),
    Typed("lease_trees_sound", "what is kept is here", "INSERT INTO lease_trees VALUES ({live}, {tree_doomed})", "a lease keeps trees that are ready"),
    Typed("lease_trees_sound", "and kept by somebody", "INSERT OR REPLACE INTO lease_trees VALUES (999, {tree_garbage})", "a lease keeps trees that are ready"),
    Typed("lease_trees_immutable", "nothing else is kept instead", "UPDATE lease_trees SET tree_id = {tree_garbage}", _KEEPS),
    Typed("lease_trees_stay", "a live lease keeps what it keeps", "DELETE FROM lease_trees", _KEEPS),
    Typed("tree_ingests_are_new", "a live ingest is not replaced", "REPLACE INTO tree_ingests (chain_id, lease_id, created_at) SELECT chain_id, lease_id, created_at FROM tree_ingests WHERE chain_id = '{growing}'", "that tree is here or on its way"),
    Typed("tree_ingests_are_new", "what is here is not made again", "INSERT INTO tree_ingests (chain_id, lease_id, created_at) SELECT chain_id, {live}, created_at FROM trees WHERE id = {tree_doomed}", "that tree is here or on its way"),
    Typed("tree_ingests_numbered", "the last id there is would be the last tree", _NEW_TREE_INGEST.format(*_LAST), _NUMBERS),
    Typed("tree_ingests_need_a_lease", "a tree is made by somebody", "INSERT INTO tree_ingests (chain_id, created_at) VALUES ('{new}', '{now}')", "a tree is made for a lease"),
    Typed("tree_ingests_need_a_lease", "who is here", "INSERT INTO tree_ingests (chain_id, lease_id, created_at) VALUES ('{new}', 999, '{now}')", "a tree is made for a lease"),
    Typed("tree_ingests_need_a_lease", "and is not there at once", "INSERT INTO tree_ingests (chain_id, lease_id, state, created_at) VALUES ('{new}', {live}, 'arrived', '{now}')", "a tree is made for a lease"),
    Typed("tree_ingests_immutable", "an ingest is of its chain", "UPDATE tree_ingests SET chain_id = '{new}' WHERE chain_id = '{growing}'", "an ingest keeps its identity"),
    Typed("tree_ingests_owner", "who makes a tree goes on with it", "UPDATE tree_ingests SET lease_id = NULL WHERE chain_id = '{growing}'", "a tree is made by one lease, for as long as that lives"),
    Typed("tree_ingests_owner", "and nobody else, not even with what the dead left", "UPDATE tree_ingests SET lease_id = {live} WHERE chain_id = '{half}'", "a tree is made by one lease, for as long as that lives"),
    Typed("tree_ingests_grow", "what is written stays reserved", "UPDATE tree_ingests SET reserved_bytes = 0 WHERE chain_id = '{growing}'", "what is reserved for a tree grows until that is filled, and is given back with its directory"),
    Typed("tree_ingests_grow", "inodes as well, NULL or not", "UPDATE OR REPLACE tree_ingests SET reserved_inodes = NULL WHERE chain_id = '{growing}'", "what is reserved for a tree grows until that is filled, and is given back with its directory"),
    Typed("tree_ingests_grow", "and what nobody makes does not grow", "UPDATE tree_ingests SET reserved_bytes = reserved_bytes + 1 WHERE chain_id = '{half}'", "what is reserved for a tree grows until that is filled, and is given back with its directory"),
    Typed("tree_ingests_in_use", "what somebody makes is not thrown away", "UPDATE tree_ingests SET state = 'discarded' WHERE chain_id = '{growing}'", "only what nobody makes is discarded, by whoever removes its directory"),
    Typed("tree_ingests_arrive", "what a dead owner left is not filled, and gives nothing back", "UPDATE tree_ingests SET state = 'filled', reserved_bytes = 0 WHERE chain_id = '{half}'", "a tree is filled, and has arrived, when its owner says so"),
    Typed("tree_ingests_arrive", "what a dead owner left does not arrive", "UPDATE tree_ingests SET state = 'arrived' WHERE chain_id = '{half}'", "a tree is filled, and has arrived, when its owner says so"),
    Typed("tree_ingests_stay", "a live reservation stays, and so does what a dead owner left", "DELETE FROM tree_ingests", "half a tree goes with its directory; ullage gc removes both when its owner is dead"),
)

EFFECTS = (
    Typed("blobs_published", "an owner publishes what arrived: the reservation becomes the blob", _PUBLISH.format("", "", ""), given=_ARRIVED),
    Typed("blobs_published", "and a limit that was lowered meanwhile is no obstacle", _PUBLISH.format("", "", ""), given=(*_ARRIVED, "UPDATE store SET max_bytes = 0")),
    Typed("blobs_doomed", "garbage may be doomed", "UPDATE blobs SET state = 'doomed' WHERE id = {garbage}"),
    Typed("blobs_taken_back", "and taken back while there is room", "UPDATE blobs SET state = 'ready' WHERE id = {doomed}"),
    Typed("blobs_swept", "whoever removes its file ends the row", "UPDATE blobs SET state = 'swept' WHERE id = {doomed}", gives=("SELECT count(*) FROM blobs WHERE id = {doomed}", "0")),
    Typed("blobs_gone", "and its bytes are no longer on disk", "UPDATE blobs SET state = 'swept' WHERE id = {doomed}"),
    Typed("images_counted", "an image may be registered by hand, and is charged", _NEW_IMAGE.format("", "", "", 500)),
    Typed("images_gone", "an image may be removed by hand, with all that hangs on it", "DELETE FROM images WHERE id = {image}"),
    Typed("images_gone", "a registered one, with the room that it took", "DELETE FROM images WHERE id = {registered}"),
    Typed("images_resized", "what an image takes is in the sum", _COMPLETED, given=_MADE),
    Typed("manifests_completed", "an image takes what its blobs take", _COMPLETED, given=_MADE),
    Typed("manifests_gone", "edges go with their manifest", "DELETE FROM images WHERE id = {nameless}"),
    Typed("manifest_blobs_added", "a pull adds the index that it came by, and that is no garbage then", "INSERT INTO manifest_blobs SELECT {manifest}, max(position) + 1, {kept}, 'index', 'x' FROM manifest_blobs WHERE manifest_id = {manifest}", given=_COMPLETES),
    Typed("manifest_blobs_gone", "and is, when nothing names it any more", "DELETE FROM images WHERE id = {nameless}"),
    Typed("leases_ended", "whoever has the lock ends the lease", "UPDATE leases SET ended_token = token WHERE id = {dead}", gives=("SELECT count(*) FROM leases WHERE id = {dead}", "0")),
    Typed("leases_gone", "and what it fetched is a partial blob, charged", "UPDATE leases SET ended_token = token WHERE id = {dead}", gives=("SELECT count(*) FROM ingests WHERE lease_id IS NULL", "2")),
    Typed("ingests_reserved", "room may be reserved by hand, for a lease", _NEW_INGEST.format("", "")),
    Typed("ingests_resized", "whoever goes on with a partial blob reserves the rest", "UPDATE ingests SET lease_id = {live}, reserved_bytes = size WHERE digest = '{partial}'", given=(_MORE_ROOM,)),
    Typed("ingests_discarded", "whoever removes its file ends the row", "UPDATE ingests SET state = 'discarded' WHERE digest = '{partial}'", gives=("SELECT count(*) FROM ingests WHERE digest = '{partial}'", "0")),
    Typed("ingests_gone", "and its room is free", "UPDATE ingests SET state = 'discarded' WHERE digest = '{partial}'"),
    Typed("trees_published", "an owner publishes what arrived: the reservation becomes the tree", _NEW_TREE.format("", "", ""), given=_TREE_ARRIVED),
    Typed("trees_published", "and a limit that was lowered meanwhile is no obstacle", _NEW_TREE.format("", "", ""), given=(*_TREE_ARRIVED, "UPDATE store SET max_bytes = 0")),
    Typed("trees_doomed", "a tree that nothing stacks on may be doomed", "UPDATE trees SET state = 'doomed' WHERE id = {tree_garbage}"),
    Typed("trees_taken_back", "and taken back while there is room", "UPDATE trees SET state = 'ready' WHERE id = {tree_doomed}", given=(_MORE_ROOM,)),
    Typed("trees_swept", "whoever removes its directory ends the row", "UPDATE trees SET state = 'swept' WHERE id = {tree_doomed}", gives=("SELECT count(*) FROM trees WHERE id = {tree_doomed}", "0")),
    Typed("trees_gone", "and its bytes are no longer on disk", "UPDATE trees SET state = 'swept' WHERE id = {tree_doomed}"),
    Typed("manifest_trees_added", "whoever unpacks says what an image stacks on", _STACK.format("tree_kept"), given=_COMPLETES),
    Typed("manifest_trees_gone", "an image may lose its trees, which its blobs can make again", "DELETE FROM manifest_trees WHERE manifest_id = {manifest}"),
    Typed("manifests_gone", "and loses them when it goes", "DELETE FROM images WHERE id = {image}", gives=("SELECT count(*) FROM manifest_trees WHERE manifest_id = {manifest}", "0")),
    Typed("leases_gone", "what a dead owner half made is nobody's", "UPDATE leases SET ended_token = token WHERE id = {dead}", gives=("SELECT count(*) FROM tree_ingests WHERE lease_id IS NULL", "2")),
    Typed("tree_ingests_reserved", "room for a tree may be reserved by hand, for a lease", _NEW_TREE_INGEST.format("", "")),
    Typed("tree_ingests_resized", "and grow", "UPDATE tree_ingests SET reserved_bytes = reserved_bytes + 1, reserved_inodes = reserved_inodes + 1 WHERE chain_id = '{growing}'"),
    Typed("tree_ingests_resized", "until all is written, and the rest is given back", "UPDATE tree_ingests SET state = 'filled', reserved_bytes = 4096, reserved_inodes = 1 WHERE chain_id = '{growing}'"),
    Typed("tree_ingests_discarded", "whoever removes its directory ends the row", "UPDATE tree_ingests SET state = 'discarded' WHERE chain_id = '{half}'", gives=("SELECT count(*) FROM tree_ingests WHERE chain_id = '{half}'", "0")),
    Typed("tree_ingests_gone", "and its room is free", "UPDATE tree_ingests SET state = 'discarded' WHERE chain_id = '{half}'"),
    Typed("history_registered", "what is registered by hand is on record", _NEW_IMAGE.format("", "", "", 500), gives=(_LINE, "registered typed by nobody")),
    Typed("history_removed", "what is removed by hand is on record, with all its names", "DELETE FROM images WHERE id = {image}", gives=("SELECT event || ' ' || (length(reference) - length(replace(reference, ' ', ''))) || coalesce(owner, ' by nobody') FROM history ORDER BY id DESC LIMIT 1", "removed 2 by nobody")),
    Typed("history_removed", "and who did it, when they say so", "DELETE FROM images WHERE id = {nameless}", given=(_ACTING,), gives=("SELECT event || ' ' || owner || pid || detail FROM history ORDER BY id DESC LIMIT 1", "evicted me7age")),
    Typed("history_tagged", "a tag that is added by hand is on record", _NEW_TAG.format("", ""), gives=(_LINE, "tagged docker.io/library/typed:1 by nobody")),
    Typed("history_moved", "a tag that is moved by hand is on record, with what it denoted", _MOVED, gives=("SELECT event || (SELECT id FROM images AS i WHERE i.image_id = h.image_id) || ' ' || (SELECT id FROM images AS i WHERE i.image_id = h.previous_image_id) FROM history AS h ORDER BY id DESC LIMIT 1", "moved2 1")),
    Typed("history_untagged", "a tag that is taken away by hand is on record", "DELETE FROM repo_tags WHERE reference = 'docker.io/library/app:mine'", gives=(_LINE, "untagged docker.io/library/app:mine by nobody")),
    Typed("history_undigested", "so is a digest", "DELETE FROM repo_digests WHERE manifest_id = {held_manifest}", gives=("SELECT event FROM history ORDER BY id DESC LIMIT 1", "untagged")),
    Typed("history_unpacked", "what is unpacked is on record", "INSERT INTO manifest_trees SELECT id, 0, {tree_kept} FROM manifests WHERE image_id = {nameless}", given=_COMPLETES, gives=("SELECT h.event || h.owner || (i.id = {nameless}) FROM history AS h JOIN images AS i USING (image_id) ORDER BY h.id DESC LIMIT 1", "unpackedalive1")),
    Typed("history_trimmed", "the record is so long and no longer", _HAPPENED.format("'{now}'"), given=("INSERT INTO history (at, event) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10100) SELECT '{now}', 'repaired' FROM n",), gives=("SELECT count(*) FROM history", "10000")),
    Typed("history_trimmed", "nor does it go back further than a year", _HAPPENED.format("strftime('%Y-%m-%dT%H:%M:%f000Z', '{now}', '+366 days')"), gives=("SELECT min(id) FROM history", "3")),
    Typed("access_gone", "who might use an image goes with it", "DELETE FROM images WHERE id = {image}", gives=("SELECT count(*) FROM access WHERE image_id = {image}", "0")),
    Typed("access_trimmed", "passwords come and go, and the record does not grow without end", _ACCESS.format("'{now}'"), given=("INSERT INTO access WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 80) SELECT {image}, 'example.com/typed', printf('%064x', i), '2026-01-01T00:00:00.000000Z' FROM n",), gives=("SELECT count(*) || max(credential) FROM access WHERE repo = 'example.com/typed'", "64" + "f" * 64)),
    Typed("blob_sources_gone", "where a blob came from goes with it", "UPDATE blobs SET state = 'swept' WHERE id = {doomed}", gives=("SELECT count(*) FROM blob_sources WHERE blob_id = {doomed}", "0")),
)

# What a person may do. Nothing is left wrong by it.
FREEDOMS = (
    Typed("store_limit", "a limit below what is used removes nothing", "UPDATE store SET max_bytes = 0"),
    Typed("images_immutable", "pinning and use are a person's to write", "UPDATE images SET pinned = 1 - pinned, last_used_at = '{now}'"),
    Typed("repo_tags_sound", "a tag may be added by hand", _NEW_TAG.format("", "")),
    Typed("repo_digests_sound", "and a digest, of the manifest or of the index that it came by", "INSERT INTO repo_digests (reference, image_id, manifest_id, digest, updated_at) SELECT 'docker.io/library/typed@' || b.digest, m.image_id, m.id, b.digest, '{now}' FROM manifests AS m, blobs AS b WHERE m.id = {held_manifest} AND b.id = {index}"),
    Typed("repo_tags_stay_sound", "a tag may be moved", "UPDATE repo_tags SET image_id = {held}, manifest_id = {held_manifest}, digest = (SELECT digest FROM manifests WHERE id = {held_manifest}) WHERE reference = '{tag}'"),
    Typed("repo_tags_sound", "and taken away", "DELETE FROM repo_tags"),
    Typed("lease_images_sound", "a hold may hold one more", "INSERT INTO lease_images VALUES ({hold}, {image})"),
    Typed("lease_blobs_sound", "a lease may keep one more", "INSERT OR REPLACE INTO lease_blobs VALUES ({live}, {garbage})"),
    Typed("lease_trees_sound", "or a tree", "INSERT OR REPLACE INTO lease_trees VALUES ({live}, {tree_garbage})"),
    Typed("access_sound", "access may be given by hand", _ACCESS.format("'{now}'")),
    Typed("access_immutable", "and taken away", "DELETE FROM access"),
    Typed("history_immutable", "history may be cut", "DELETE FROM history"),
    Typed("blob_sources_immutable", "whoever knows better may say so", "UPDATE blob_sources SET host = 'mirror.example.com'"),
    Typed("leases_numbered", "an id of -1 by hand does not stop every id to come", _NEW_LEASE.format("", ""), given=(_NEW_LEASE.format(*_NEGATIVE).replace("INSERT", "INSERT OR IGNORE"),)),
)

CHECKS = (
    Typed("ck_store_one", "one row", _NEW_STORE.format("one, uuid, created_at, ", f"2, {_UUID}, {_CREATED}, "), "CHECK constraint failed: ck_store_one", at=EMPTY),
    Typed("ck_store_uuid", "a UUID", _NEW_STORE.format("uuid, created_at, ", f"'x', {_CREATED}, "), "CHECK constraint failed: ck_store_uuid", at=EMPTY),
    Typed("ck_store_created_at", "a time", _NEW_STORE.format("uuid, created_at, ", f"{_UUID}, {_NO_TIME}, "), "CHECK constraint failed: ck_store_created_at", at=EMPTY),
    Typed("ck_store_max_bytes", "a limit far from the end of the integers", "UPDATE store SET max_bytes = -1", "CHECK constraint failed: ck_store_max_bytes"),
    Typed("ck_store_min_free_bytes", "and a floor", "UPDATE store SET min_free_bytes = 1 << 61", "CHECK constraint failed: ck_store_min_free_bytes"),
    Typed("ck_images_id", "an id of -1 looks like none to a trigger", _NEW_IMAGE.format(*_NEGATIVE, "", 500), "CHECK constraint failed: ck_images_id"),
    Typed("ck_images_image_id", "an image id is a digest", _NEW_IMAGE.format("", "", "", 500).replace("{new}", "sha256:beef"), "CHECK constraint failed: ck_images_image_id"),
    Typed("ck_images_size", "no image takes less than nothing", "UPDATE images SET size = -1", "CHECK constraint failed: ck_images_size", at=BARE),
    Typed("ck_images_registered_bytes", "nor more than a pebibyte", "UPDATE images SET registered_bytes = 1 << 51 WHERE id = {registered}", "CHECK constraint failed: ck_images_registered_bytes", at=BARE),
    Typed("ck_images_user", "a user is a number or a name", "INSERT INTO images (image_id, size, registered_bytes, uid, username, spec_image_name, pulled_at, last_used_at) VALUES ('{new}', 5, 5, 0, 'root', 'typed', '{now}', '{now}')", "CHECK constraint failed: ck_images_user"),
    Typed("ck_images_spec", "what was typed is printable", "UPDATE images SET spec_tag = 'a' || char(0) || 'b'", "CHECK constraint failed: ck_images_spec"),
    Typed("ck_images_pinned", "pinned or not", "UPDATE images SET pinned = 2", "CHECK constraint failed: ck_images_pinned"),
    Typed("ck_images_pulled_at", "a time", f"UPDATE images SET pulled_at = {_NO_TIME}", "CHECK constraint failed: ck_images_pulled_at"),
    Typed("ck_images_last_used_at", "a time, and nothing behind it", "UPDATE images SET last_used_at = last_used_at || char(0)", "CHECK constraint failed: ck_images_last_used_at"),
    Typed("ck_manifests_id", "no id of -1", _NEW_MANIFEST.format(*_NEGATIVE), "CHECK constraint failed: ck_manifests_id", given=_COMPLETES),
    Typed("ck_manifests_digest", "a digest", "UPDATE manifests SET digest = upper(digest)", "CHECK constraint failed: ck_manifests_digest", at=BARE),
    Typed("ck_manifests_complete", "complete or not", "UPDATE manifests SET complete = 2", "CHECK constraint failed: ck_manifests_complete", at=BARE),
    Typed("ck_manifests_created_at", "a time", f"UPDATE manifests SET created_at = {_NO_TIME}", "CHECK constraint failed: ck_manifests_created_at"),
    Typed("ck_blobs_id", "no id of -1", _PUBLISH.format(*_NEGATIVE, ""), "CHECK constraint failed: ck_blobs_id", given=_ARRIVED),
    Typed("ck_blobs_digest", "a digest, and no NUL behind it", "UPDATE blobs SET digest = digest || char(0)", "CHECK constraint failed: ck_blobs_digest", at=BARE),
    Typed("ck_blobs_size", "no negative bytes", "UPDATE blobs SET size = -1", "CHECK constraint failed: ck_blobs_size", at=BARE),
    Typed("ck_blobs_state", "one of the states", "UPDATE blobs SET state = 'lost' WHERE id = {garbage}", "CHECK constraint failed: ck_blobs_state"),
    Typed("ck_blobs_referenced", "named or not", "UPDATE blobs SET referenced = 2", "CHECK constraint failed: ck_blobs_referenced", at=BARE),
    Typed("ck_blobs_created_at", "a time", f"UPDATE blobs SET created_at = {_NO_TIME}", "CHECK constraint failed: ck_blobs_created_at"),
    Typed("ck_blobs_verified_at", "a time", "UPDATE blobs SET verified_at = 'today'", "CHECK constraint failed: ck_blobs_verified_at"),
    Typed("ck_manifest_blobs_position", "positions start at 0", "UPDATE manifest_blobs SET position = -1 WHERE manifest_id = {manifest} AND position = 0", "CHECK constraint failed: ck_manifest_blobs_position", at=BARE),
    Typed("ck_manifest_blobs_role", "one of the roles", "UPDATE manifest_blobs SET role = 'friend'", "CHECK constraint failed: ck_manifest_blobs_role", at=BARE),
    Typed("ck_repo_tags_id", "no id of -1", _NEW_TAG.format(*_NEGATIVE), "CHECK constraint failed: ck_repo_tags_id"),
    Typed("ck_repo_tags_reference", "a name, a tag, and nothing that nobody sees", "UPDATE repo_tags SET reference = reference || char(0)", "CHECK constraint failed: ck_repo_tags_reference"),
    Typed("ck_repo_tags_digest", "a digest", "UPDATE repo_tags SET digest = 'x' WHERE image_id = {registered}", "CHECK constraint failed: ck_repo_tags_digest"),
    Typed("ck_repo_tags_updated_at", "a time", f"UPDATE repo_tags SET updated_at = {_NO_TIME}", "CHECK constraint failed: ck_repo_tags_updated_at"),
    Typed("ck_repo_digests_id", "no id of -1", _NEW_DIGEST.format(*_NEGATIVE), "CHECK constraint failed: ck_repo_digests_id"),
    Typed("ck_repo_digests_reference", "a name and its own digest", "UPDATE repo_digests SET reference = 'docker.io/library/typed@{new}' WHERE manifest_id = {held_manifest}", "CHECK constraint failed: ck_repo_digests_reference"),
    Typed("ck_repo_digests_digest", "a digest", "UPDATE repo_digests SET reference = 'docker.io/x@y', digest = 'y' WHERE manifest_id = {held_manifest}", "CHECK constraint failed: ck_repo_digests_digest", at=BARE),
    Typed("ck_repo_digests_updated_at", "a time", f"UPDATE repo_digests SET updated_at = {_NO_TIME}", "CHECK constraint failed: ck_repo_digests_updated_at"),
    Typed("ck_leases_id", "no id of -1", _NEW_LEASE.format(*_NEGATIVE), "CHECK constraint failed: ck_leases_id"),
    Typed("ck_leases_token", "a token is the name of a file, and no NUL in it", _NEW_LEASE.format("", "").replace("'{token}'", "'{token}' || char(0)"), "CHECK constraint failed: ck_leases_token"),
    Typed("ck_leases_purpose", "a pull or a hold", _NEW_LEASE.format("", "").replace("'pull'", "'fun'"), "CHECK constraint failed: ck_leases_purpose"),
    Typed("ck_leases_status", "one of CRI's", "UPDATE leases SET status = 'lost'", "CHECK constraint failed: ck_leases_status"),
    Typed("ck_leases_ended_token", "who ends a lease knows its token", "UPDATE leases SET ended_token = 'x' WHERE id = {live}", "CHECK constraint failed: ck_leases_ended_token"),
    Typed("ck_leases_created_at", "a time", f"UPDATE leases SET created_at = {_NO_TIME}", "CHECK constraint failed: ck_leases_created_at", at=BARE),
    Typed("ck_ingests_id", "no id of -1", _NEW_INGEST.format(*_NEGATIVE), "CHECK constraint failed: ck_ingests_id"),
    Typed("ck_ingests_digest", "a digest is the name of a file, and no NUL in it", _NEW_INGEST.format("", "").replace("'{new}'", "'{new}' || char(0)"), "CHECK constraint failed: ck_ingests_digest"),
    Typed("ck_ingests_size", "not more than a pebibyte", "UPDATE ingests SET size = 1 << 51, reserved_bytes = 1 << 51 WHERE digest = '{some}'", "CHECK constraint failed: ck_ingests_size", at=BARE),
    Typed("ck_ingests_received_bytes", "not more is received than there is", "UPDATE ingests SET received_bytes = size + 1 WHERE digest = '{some}'", "CHECK constraint failed: ck_ingests_received_bytes"),
    Typed("ck_ingests_reserved_bytes", "a live pull has room for what it fetches", "UPDATE ingests SET reserved_bytes = 0 WHERE digest = '{some}'", "CHECK constraint failed: ck_ingests_reserved_bytes"),
    Typed("ck_ingests_state", "one of the states", "UPDATE ingests SET state = 'lost'", "CHECK constraint failed: ck_ingests_state"),
    Typed("ck_ingests_created_at", "a time", f"UPDATE ingests SET created_at = {_NO_TIME}", "CHECK constraint failed: ck_ingests_created_at"),
    Typed("ck_trees_id", "no id of -1", _NEW_TREE.format(*_NEGATIVE, ""), "CHECK constraint failed: ck_trees_id", given=_TREE_ARRIVED),
    Typed("ck_trees_chain_id", "a chain id is the name of a directory, and no NUL in it", "UPDATE trees SET chain_id = chain_id || char(0)", "CHECK constraint failed: ck_trees_chain_id", at=BARE),
    Typed("ck_trees_diff_id", "a digest", _NEW_TREE.format("", "", "").replace("chain_id, chain_id", "chain_id, 'x'"), "CHECK constraint failed: ck_trees_diff_id", given=_TREE_ARRIVED),
    Typed("ck_trees_space_bytes", "no negative bytes", _NEW_TREE.format("", "", "").replace("4096", "-1"), "CHECK constraint failed: ck_trees_space_bytes", given=_TREE_ARRIVED),
    Typed("ck_trees_inodes", "no negative inodes", _NEW_TREE.format("", "", "").replace(" 1,", " -1,"), "CHECK constraint failed: ck_trees_inodes", given=_TREE_ARRIVED),
    Typed("ck_trees_rootless", "rootless or not", _NEW_TREE.format("rootless, ", "2, ", ""), "CHECK constraint failed: ck_trees_rootless", given=_TREE_ARRIVED),
    Typed("ck_trees_forgiven", "not less than nothing", _NEW_TREE.format("forgiven, ", "-1, ", ""), "CHECK constraint failed: ck_trees_forgiven", given=_TREE_ARRIVED),
    Typed("ck_trees_state", "one of the states", "UPDATE trees SET state = 'lost' WHERE id = {tree_garbage}", "CHECK constraint failed: ck_trees_state"),
    Typed("ck_trees_referenced", "named or not", "UPDATE trees SET referenced = 2", "CHECK constraint failed: ck_trees_referenced", at=BARE),
    Typed("ck_trees_created_at", "a time", f"UPDATE trees SET created_at = {_NO_TIME}", "CHECK constraint failed: ck_trees_created_at"),
    Typed("ck_manifest_trees_position", "positions start at 0", _STACK.format("tree_kept").replace("7", "-7"), "CHECK constraint failed: ck_manifest_trees_position", given=_COMPLETES),
    Typed("ck_tree_ingests_id", "no id of -1", _NEW_TREE_INGEST.format(*_NEGATIVE), "CHECK constraint failed: ck_tree_ingests_id"),
    Typed("ck_tree_ingests_chain_id", "a chain id is the name of a directory, and no NUL in it", _NEW_TREE_INGEST.format("", "").replace("'{new}'", "'{new}' || char(0)"), "CHECK constraint failed: ck_tree_ingests_chain_id"),
    Typed("ck_tree_ingests_reserved_bytes", "nothing is reserved below zero", _NEW_TREE_INGEST.format("", "").replace("500", "-500"), "CHECK constraint failed: ck_tree_ingests_reserved_bytes"),
    Typed("ck_tree_ingests_reserved_inodes", "nor inodes", _NEW_TREE_INGEST.format("", "").replace(" 1,", " -1,"), "CHECK constraint failed: ck_tree_ingests_reserved_inodes"),
    Typed("ck_tree_ingests_state", "one of the states", "UPDATE tree_ingests SET state = 'lost'", "CHECK constraint failed: ck_tree_ingests_state"),
    Typed("ck_tree_ingests_created_at", "a time", f"UPDATE tree_ingests SET created_at = {_NO_TIME}", "CHECK constraint failed: ck_tree_ingests_created_at"),
    Typed("ck_history_id", "no id of -1", "INSERT INTO history (id, at, event) VALUES (-1, '{now}', 'pulled')", "CHECK constraint failed: ck_history_id"),
    Typed("ck_history_at", "a time", _HAPPENED.format(_NO_TIME), "CHECK constraint failed: ck_history_at"),
    Typed("ck_history_event", "one of those that there are", "INSERT INTO history (at, event) VALUES ('{now}', 'fun')", "CHECK constraint failed: ck_history_event"),
    Typed("ck_access_credential", "a hash, or nothing", _ACCESS.format("'{now}'").replace("f" * 64, "secret"), "CHECK constraint failed: ck_access_credential"),
    Typed("ck_access_verified_at", "a time", _ACCESS.format(_NO_TIME), "CHECK constraint failed: ck_access_verified_at"),
    Typed("ck_acting_one", "one acts at a time", _ACTING.replace("(at", "(one, at").replace("('{now}'", "(2, '{now}'"), "CHECK constraint failed: ck_acting_one"),
    Typed("ck_acting_at", "what would not go into the history", _ACTING.replace("'{now}'", _NO_TIME), "CHECK constraint failed: ck_acting_at"),
    Typed("ck_acting_event", "is not said either", _ACTING.replace("'evicted'", "'fun'"), "CHECK constraint failed: ck_acting_event"),
)

_UNIQUE = "UNIQUE constraint failed: "
KEYS = (
    Typed("pk_history", "one line of an id", "INSERT INTO history SELECT * FROM history", f"{_UNIQUE}history.id", at=BARE),
    Typed("pk_acting", "one acts at a time", "INSERT INTO acting (one, at, owner, pid) VALUES (1, '{now}', 'he', 1), (1, '{now}', 'she', 2)", f"{_UNIQUE}acting.one"),
    Typed("pk_blob_sources", "a blob came from one host", "INSERT INTO blob_sources SELECT blob_id, 'example.com' FROM blob_sources", f"{_UNIQUE}blob_sources.blob_id"),
    Typed("pk_access", "recorded once", "INSERT INTO access SELECT * FROM access", f"{_UNIQUE}access.image_id, access.repo, access.credential"),
    Typed("pk_store", "one row", "INSERT INTO store SELECT * FROM store", f"{_UNIQUE}store.one", at=BARE),
    Typed("pk_manifest_blobs", "one edge at a position", "INSERT INTO manifest_blobs VALUES ({manifest}, 0, {kept}, 'layer', 'x')", f"{_UNIQUE}manifest_blobs.manifest_id, manifest_blobs.position", at=BARE),
    Typed("pk_lease_blobs", "kept once", "INSERT INTO lease_blobs VALUES ({live}, {kept})", f"{_UNIQUE}lease_blobs.lease_id, lease_blobs.blob_id"),
    Typed("pk_lease_images", "held once", "INSERT INTO lease_images VALUES ({hold}, {held})", f"{_UNIQUE}lease_images.lease_id, lease_images.image_id"),
    Typed("uq_images_image_id", "one image of an id", "INSERT INTO images (image_id, spec_image_name, pulled_at, last_used_at) SELECT image_id, 'x', pulled_at, last_used_at FROM images", f"{_UNIQUE}images.image_id", at=BARE),
    Typed("uq_manifests_digest", "one manifest of a digest", "INSERT INTO manifests (digest, image_id, media_type, created_at) SELECT digest, image_id, 'x', created_at FROM manifests", f"{_UNIQUE}manifests.digest", at=BARE),
    Typed("uq_blobs_digest", "one blob of a digest", "INSERT INTO blobs (digest, size, created_at) SELECT digest, size, created_at FROM blobs", f"{_UNIQUE}blobs.digest", at=BARE),
    Typed("uq_repo_tags_reference", "a tag denotes one image", "INSERT INTO repo_tags (reference, image_id, manifest_id, digest, updated_at) SELECT '{tag}', image_id, id, digest, created_at FROM manifests WHERE id = {held_manifest}", f"{_UNIQUE}repo_tags.reference"),
    Typed("uq_repo_digests_reference", "so does a digest", "INSERT INTO repo_digests (reference, image_id, manifest_id, digest, updated_at) SELECT reference, image_id, manifest_id, digest, updated_at FROM repo_digests", f"{_UNIQUE}repo_digests.reference"),
    Typed("uq_leases_token", "one lease of a lock", "INSERT INTO leases (token, purpose, owner, pid, created_at) SELECT token, purpose, owner, pid, created_at FROM leases", f"{_UNIQUE}leases.token", at=BARE),
    Typed("uq_ingests_digest", "a blob is fetched once", "INSERT INTO ingests (digest, size, lease_id, reserved_bytes, created_at) SELECT digest, size, {live}, size, created_at FROM ingests", f"{_UNIQUE}ingests.digest", at=BARE),
    Typed("pk_manifest_trees", "one tree at a position", "INSERT INTO manifest_trees VALUES ({manifest}, 0, {tree_kept})", f"{_UNIQUE}manifest_trees.manifest_id, manifest_trees.position", at=BARE),
    Typed("pk_lease_trees", "kept once", "INSERT INTO lease_trees VALUES ({live}, {tree_kept})", f"{_UNIQUE}lease_trees.lease_id, lease_trees.tree_id"),
    Typed("uq_trees_chain_id", "one tree of a chain", "INSERT INTO trees (chain_id, diff_id, space_bytes, inodes, created_at) SELECT chain_id, diff_id, 0, 0, created_at FROM trees", f"{_UNIQUE}trees.chain_id", at=BARE),
    Typed("uq_tree_ingests_chain_id", "a tree is made once", "INSERT INTO tree_ingests (chain_id, lease_id, created_at) SELECT chain_id, lease_id, created_at FROM tree_ingests", f"{_UNIQUE}tree_ingests.chain_id", at=BARE),
)

_NOWHERE = "FOREIGN KEY constraint failed"
# Our own connections have these beside the triggers: what a migration rebuilds is checked by them.
FOREIGN_KEYS = (
    Typed("fk_access_image_id_images", "to an image", "UPDATE access SET image_id = 999 WHERE image_id = {image}", _NOWHERE, at=BARE),
    Typed("fk_blob_sources_blob_id_blobs", "of a blob", "UPDATE blob_sources SET blob_id = 999 WHERE blob_id = {leased}", _NOWHERE, at=BARE),
    Typed("fk_manifests_image_id_images", "of an image", "UPDATE manifests SET image_id = 999 WHERE id = {manifest}", _NOWHERE, at=BARE),
    Typed("fk_manifest_blobs_manifest_id_manifests", "of a manifest", "UPDATE manifest_blobs SET manifest_id = 999 WHERE manifest_id = {manifest}", _NOWHERE, at=BARE),
    Typed("fk_manifest_blobs_blob_id_blobs", "to a blob", "UPDATE manifest_blobs SET blob_id = 999 WHERE manifest_id = {manifest}", _NOWHERE, at=BARE),
    Typed("fk_repo_tags_image_id_images", "to an image", "UPDATE repo_tags SET image_id = 999 WHERE reference = '{tag}'", _NOWHERE, at=BARE),
    Typed("fk_repo_tags_manifest_id_manifests", "by a manifest", "UPDATE repo_tags SET manifest_id = 999 WHERE reference = '{tag}'", _NOWHERE, at=BARE),
    Typed("fk_repo_digests_image_id_images", "to an image", "UPDATE repo_digests SET image_id = 999", _NOWHERE, at=BARE),
    Typed("fk_repo_digests_manifest_id_manifests", "by a manifest", "UPDATE repo_digests SET manifest_id = 999", _NOWHERE, at=BARE),
    Typed("fk_lease_blobs_lease_id_leases", "by a lease", "UPDATE lease_blobs SET lease_id = 999", _NOWHERE, at=BARE),
    Typed("fk_lease_blobs_blob_id_blobs", "of a blob", "UPDATE lease_blobs SET blob_id = 999 WHERE blob_id = {kept}", _NOWHERE, at=BARE),
    Typed("fk_lease_images_lease_id_leases", "by a lease", "UPDATE lease_images SET lease_id = 999", _NOWHERE, at=BARE),
    Typed("fk_lease_images_image_id_images", "of an image", "UPDATE lease_images SET image_id = 999", _NOWHERE, at=BARE),
    Typed("fk_ingests_lease_id_leases", "for a lease", "UPDATE ingests SET lease_id = 999 WHERE digest = '{some}'", _NOWHERE, at=BARE),
    Typed("fk_manifest_trees_manifest_id_manifests", "of a manifest", "UPDATE manifest_trees SET manifest_id = 999 WHERE manifest_id = {manifest}", _NOWHERE, at=BARE),
    Typed("fk_manifest_trees_tree_id_trees", "on a tree", "UPDATE manifest_trees SET tree_id = 999 WHERE manifest_id = {manifest}", _NOWHERE, at=BARE),
    Typed("fk_lease_trees_lease_id_leases", "by a lease", "UPDATE lease_trees SET lease_id = 999", _NOWHERE, at=BARE),
    Typed("fk_lease_trees_tree_id_trees", "of a tree", "UPDATE lease_trees SET tree_id = 999 WHERE tree_id = {tree_kept}", _NOWHERE, at=BARE),
    Typed("fk_tree_ingests_lease_id_leases", "for a lease", "UPDATE tree_ingests SET lease_id = 999 WHERE chain_id = '{growing}'", _NOWHERE, at=BARE),
)
# fmt: on

TYPED = (*GUARDS, *EFFECTS, *FREEDOMS, *CHECKS, *KEYS, *FOREIGN_KEYS)
