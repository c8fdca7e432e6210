"""
Each method of the repository layer is exactly one transaction, and says of which kind.

Counted from outside: SQLite itself reports every statement that is run on the connections of the store.
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from support.images import ImageBuilder
from support.store import snapshot
from ullage import Digest, EvictionPolicy, ImageSpec, PullFailed, PullPolicy, Reference, SimulatedRegistry
from ullage.digest import digest_of
from ullage.repository import Edge, ImageRepository, Naming, NewImage, NewTree, Owner, RestoredName
from ullage.revision import GUARD, guard


@dataclass
class Transaction:
    """
    What ran between a BEGIN and its end.
    """

    kind: str
    statements: list[str] = field(default_factory=list)
    end: str = ""
    guarded: bool = False


class Trace:
    """
    Statements as SQLite ran them. ``transactions`` makes sense of them.

    For each statement of a trigger SQLite reports the one that fired it once more: repetitions are left out.
    """

    def __init__(self):
        self.lines = []

    def __call__(self, statement):
        line = " ".join(statement.split())
        if not line.startswith("--") and line not in self.lines[-1:]:
            self.lines.append(line)

    def clear(self):
        self.lines.clear()

    @property
    def transactions(self):
        found, current = [], None
        for line in self.lines:
            if line.startswith("BEGIN"):
                assert current is None, "a transaction in a transaction"
                current = Transaction({"BEGIN": "read", "BEGIN IMMEDIATE": "write"}[line])
            elif line in ("COMMIT", "ROLLBACK"):
                assert current is not None
                current.end = line
                found.append(current)
                current = None
            elif current is not None:
                if line == GUARD:
                    # The first thing in every write, and of one row; a read is asked that only when it fails.
                    assert (current.kind, current.statements) == ("write", []), "the guard, late"
                    current.guarded = True
                else:
                    current.statements.append(line)
            else:
                assert line.startswith("PRAGMA"), f"outside of any transaction: {line}"
        assert current is None, "a transaction that nobody ended"
        return found


@pytest.fixture
def trace(monkeypatch):
    trace = Trace()
    connect = sqlite3.connect

    def traced(*arguments, **named):
        connection = connect(*arguments, **named)
        connection.set_trace_callback(trace)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    return trace


@pytest.fixture
def kinds(trace):
    """
    The kinds of the transactions since the trace was cleared.
    """
    return lambda: [each.kind for each in trace.transactions]


@pytest.fixture
def image(registry):
    return ImageBuilder(registry, "app").layer({"etc/a": b"a"}).push("1", "2", "3")


# ---------------------------------------------------------------------- the methods of the repository layer

SPEC = ImageSpec("elsewhere", "1")
NAMED = SPEC.normalised()
TOKEN = "0123456789abcdef" * 2
OWNER = Owner(TOKEN, "the test", 1)
CONTENT = {name: digest_of(name.encode()) for name in ("manifest", "config", "layer")}
WANTED = {digest: len(name) for name, digest in CONTENT.items()}
NEW_IMAGE = NewImage(
    image_id=CONTENT["config"],
    manifest_digest=CONTENT["manifest"],
    media_type="application/vnd.oci.image.manifest.v1+json",
    edges=tuple(Edge(digest, len(name), name, f"application/{name}") for name, digest in CONTENT.items()),
)
NAMING = Naming("app", "1", "", "example.com/app", "example.com/app:1", CONTENT["manifest"], None)

RESTORED = RestoredName("docker.io/library/x:1", True, CONTENT["manifest"], CONTENT["manifest"], None)


class NoFiles:
    """
    What admission asks of the files, where there are none.
    """

    def is_here(self, digest, size):
        return True

    def discard(self, digests):
        pass

    def free_bytes(self):
        return 1 << 50


def nothing(*_arguments):
    pass


def admitted(repository):
    repository.admit(OWNER, "example.com/app:1", WANTED, NoFiles())


def completed(repository):
    admitted(repository)
    return repository.complete(TOKEN, sorted(WANTED), NEW_IMAGE, NAMING)


def registered(repository):
    return repository.register(
        SPEC, image_id=digest_of(b"elsewhere"), digest=Digest("sha256:" + "0" * 64), size=10
    )


CHAIN = [digest_of(b"chain")]
TREES = [NewTree(CHAIN[0], CHAIN[0], 10, 1, rootless=False, forgiven=0)]


def unpacking(repository):
    completed(repository)
    repository.begin_unpacking(OWNER, 1)


def claimed(repository):
    unpacking(repository)
    repository.claim_trees(TOKEN, CHAIN, nothing)


def filled(repository):
    claimed(repository)
    repository.fill_tree(TOKEN, CHAIN[0], 10, 1)


def published(repository):
    filled(repository)
    repository.publish_trees(TOKEN, TREES)


def stacked(repository):
    published(repository)
    repository.finish_unpacking(TOKEN, CONTENT["manifest"], CHAIN)


# The method, what has to be before, what it is called with, and how many statements it may take.
METHODS = {
    "find": (completed, lambda r: r.find("example.com/app:1"), 1),
    "all": (completed, lambda r: r.all(), 1),
    "known": (completed, lambda r: r.known(Reference.parse("example.com/app:1")), 1),
    "content_of": (completed, lambda r: r.content_of("example.com/app:1"), 3),
    "config_of": (completed, lambda r: r.config_of(1), 1),
    "register": (nothing, registered, 9),
    "tag": (completed, lambda r: r.tag(1, Reference.parse("mine:1")), 8),
    "untag": (completed, lambda r: r.untag(Reference.parse("example.com/app:1")), 4),
    "pin": (completed, lambda r: r.pin(1, pinned=True), 4),
    "remove": (completed, lambda r: r.remove(1), 7),
    "touch": (completed, lambda r: r.touch(1), 1),
    "ready": (completed, lambda r: r.ready(CONTENT["layer"]), 1),
    "adopt": (completed, lambda r: r.adopt(NAMING, asked=None), 9),
    "admit": (nothing, admitted, 8),
    "rehearse": (nothing, lambda r: r.rehearse(OWNER, "x/y:1", WANTED, NoFiles()), 8),
    "claim": (admitted, lambda r: r.claim(TOKEN, WANTED, NoFiles()), 5),
    "publish": (admitted, lambda r: r.publish(TOKEN, sorted(WANTED)), 3),
    "complete": (admitted, lambda r: r.complete(TOKEN, sorted(WANTED), NEW_IMAGE, NAMING), 19),
    "stack_of": (completed, lambda r: r.stack_of(1), 7),
    "lacks_trees": (completed, lambda r: r.lacks_trees(1), 4),
    "begin_unpacking": (completed, lambda r: r.begin_unpacking(OWNER, 1), 9),
    "finish_unpacking": (published, lambda r: r.finish_unpacking(TOKEN, CONTENT["manifest"], CHAIN), 14),
    "claim_trees": (unpacking, lambda r: r.claim_trees(TOKEN, CHAIN, nothing), 6),
    "reserve_tree": (claimed, lambda r: r.reserve_tree(TOKEN, CHAIN[0], 10, 1), 1),
    "fill_tree": (claimed, lambda r: r.fill_tree(TOKEN, CHAIN[0], 10, 1), 1),
    "begin_trees_anew": (filled, lambda r: r.begin_trees_anew(TOKEN, CHAIN), 3),
    "make_room_for_tree": (
        claimed,
        lambda r: r.make_room_for_tree(TOKEN, CHAIN[0], 10, 1, discard=nothing, evict=True, spare=()),
        2,
    ),
    "show_unpacking": (unpacking, lambda r: r.show_unpacking(TOKEN), 1),
    "publish_trees": (filled, lambda r: r.publish_trees(TOKEN, TREES), 4),
    "tree_owner": (claimed, lambda r: r.tree_owner(CHAIN[0]), 1),
    "trees_of": (claimed, lambda r: r.trees_of(TOKEN), 1),
    "half_trees": (claimed, lambda r: r.half_trees(), 1),
    "doomed_trees": (stacked, lambda r: r.doomed_trees(10), 1),
    "sweep_trees": (lambda r: (stacked(r), r.remove(1)), lambda r: r.sweep_trees(nothing, 10), 2),
    "discard_half_tree": (claimed, lambda r: r.discard_half_tree(CHAIN[0], nothing), 1),
    "tree_rows": (stacked, lambda r: r.tree_rows(after=0, limit=10), 1),
    "tree_still_ready": (stacked, lambda r: r.tree_still_ready(1), 1),
    "explained_trees": (stacked, lambda r: r.explained_trees(CHAIN, ingests_only=False), 1),
    "forget_tree": (stacked, lambda r: r.forget_tree(1), 2),
    "remove_stray_tree": (stacked, lambda r: r.remove_stray_tree(CHAIN, nothing, ingests_only=False), 1),
    "tokens": (admitted, lambda r: r.tokens(), 1),
    "ingests_of": (admitted, lambda r: r.ingests_of(TOKEN), 1),
    "awaited": (admitted, lambda r: r.awaited(sorted(WANTED)), 1),
    "progress": (admitted, lambda r: r.progress(TOKEN, {CONTENT["layer"]: 1}), 1),
    "end": (admitted, lambda r: r.end(TOKEN, dict.fromkeys(WANTED, 0)), 6),
    "may_be_left": (completed, lambda r: r.may_be_left(), 1),
    "let_go": (completed, lambda r: r.let_go("f" * 32), 1),
    "hold": (completed, lambda r: r.hold(Owner("f" * 32, "the test", 1), 1), 3),
    "is_repo": (completed, lambda r: r.is_repo("example.com/app"), 1),
    "repos": (completed, lambda r: r.repos(), 2),
    "repos_with": (completed, lambda r: r.repos_with("example.com", CONTENT["layer"]), 1),
    "tags_of": (completed, lambda r: r.tags_of("example.com/app"), 1),
    "tagged": (completed, lambda r: r.tagged("example.com/app:1"), 1),
    "content_in": (completed, lambda r: r.content_in("example.com/app", CONTENT["layer"]), 1),
    "referrers_of": (completed, lambda r: r.referrers_of("example.com/app", CONTENT["layer"]), 1),
    "content": (completed, lambda r: r.content(), 1),
    "restore_names": (completed, lambda r: r.restore_names([RESTORED]), 8),
    "history": (completed, lambda r: r.history("example.com/app:1"), 2),
    "sources": (completed, lambda r: r.sources(1), 2),
    "note_failure": (nothing, lambda r: r.note_failure("pull", PullFailed("no"), reference="a/b:1"), 1),
    "layout_mark": (completed, lambda r: r.layout_mark(), 1),
    "layout_state": (completed, lambda r: r.layout_state(), 1),
    "layout_entries": (completed, lambda r: r.layout_entries(), 4),
    "usage": (completed, lambda r: r.usage(), 1),
    "on_disk": (completed, lambda r: r.on_disk(1), 2),
    "image_storage": (completed, lambda r: r.image_storage(1), 1),
    "view": (completed, lambda r: r.view("problems"), 1),
    "min_free": (nothing, lambda r: r.min_free(), 1),
    "doomed": (completed, lambda r: r.doomed(10), 1),
    "set_limits": (nothing, lambda r: r.set_limits(max_bytes=10), 2),
    "sweep": (lambda r: (completed(r), r.remove(1)), lambda r: r.sweep(nothing, 10), 2),
    "collect": (completed, lambda r: r.collect(EvictionPolicy(), nothing), 7),
    "lower": (completed, lambda r: r.lower(1 << 40, nothing), 6),
    "damage": (completed, lambda r: r.damage(thorough=True), 1),
    "row_problems": (completed, lambda r: r.row_problems(), 2),
    "blob_rows": (completed, lambda r: r.blob_rows(after=0, limit=10), 1),
    "still_ready": (completed, lambda r: r.still_ready(1), 1),
    "sources_of": (completed, lambda r: r.sources_of(1), 3),
    "explained": (completed, lambda r: r.explained(sorted(WANTED), ingests_only=False), 1),
    "resumable": (completed, lambda r: r.resumable(), 1),
    "resumable_bytes": (completed, lambda r: r.resumable_bytes(CONTENT["layer"]), 1),
    "note_verified": (completed, lambda r: r.note_verified([1]), 1),
    "doom_one": (nothing, lambda r: r.doom_one(1), 1),
    "replace_file": (completed, lambda r: r.replace_file(1, nothing), 3),
    "remove_stray": (completed, lambda r: r.remove_stray([CONTENT["layer"]], nothing, ingests_only=False), 1),
    "is_torn": (completed, lambda r: r.is_torn(CONTENT["layer"], 1, lambda: 1), 1),
    "discard_partial": (completed, lambda r: r.discard_partial(CONTENT["layer"], nothing), 1),
    "access_to": (completed, lambda r: r.access_to(1), 3),
    "grant": (completed, lambda r: r.grant(1, "example.com/app", "a" * 64), 2),
    "repair_rows": (completed, lambda r: r.repair_rows(), 46),
}


@pytest.fixture
def repository(trace, tmp_path, template, root):
    """
    The repository layer alone: what is no file is no file.
    """
    from ullage.database import Database  # noqa: PLC0415 -- after the trace is in its place

    database = Database(root / "ullage.db", gate=root / "gate", guard=guard)
    yield ImageRepository(database)
    database.close()


def test_every_method_is_counted():
    public = {name for name in dir(ImageRepository) if not name.startswith("_")}

    assert public == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_exactly_one_transaction_of_the_kind_that_it_says(name, repository, trace):
    before, call, most = METHODS[name]
    before(repository)
    trace.clear()

    call(repository)

    (transaction,) = trace.transactions
    says = re.search(r"One (read|write)\b", getattr(ImageRepository, name).__doc__)
    assert says is not None, "it does not say what it is"
    assert transaction.kind == says[1]
    assert transaction.end == ("ROLLBACK" if name == "rehearse" else "COMMIT")
    assert transaction.guarded == (transaction.kind == "write"), "old and new releases may share a root"
    assert 1 <= len(transaction.statements) <= most, transaction.statements


@pytest.mark.parametrize("name", METHODS)
def test_what_changes_the_index_changes_its_mark(name, repository):
    """
    The mark costs a look-up, and stands for the layout state, which costs a look at each name.
    """
    before, call, _ = METHODS[name]
    before(repository)
    mark, state = repository.layout_state()
    assert mark == repository.layout_mark()

    call(repository)

    assert repository.layout_state() == (mark, state) or repository.layout_mark() != mark


def test_a_refused_method_is_one_transaction_rolled_back(repository, trace):
    repository.set_limits(max_bytes=9)
    trace.clear()

    with pytest.raises(Exception, match="storage limit exceeded"):
        registered(repository)

    (transaction,) = trace.transactions
    assert (transaction.kind, transaction.end) == ("write", "ROLLBACK")


def test_the_statements_of_a_pull_do_not_grow_with_its_layers(repository, trace):
    """
    One statement has them all: three blobs or three hundred.
    """
    counts = []
    for layers in (1, 300):
        digests = {digest_of(f"{layers} {number}".encode()): 1 for number in range(layers)}
        wanted = WANTED | digests
        token = f"{layers:032x}"
        trace.clear()
        repository.admit(Owner(token, "the test", 1), "x/y:1", wanted, NoFiles())
        repository.end(token, dict.fromkeys(wanted, 0))
        counts.append(sum(len(each.statements) for each in trace.transactions))

    assert counts[0] == counts[1]


# ---------------------------------------------------------------------- opening


def test_opening_a_store_at_head_is_one_small_query(open_store, root, trace):
    """
    And what recovery asks, which is not about the schema.
    """
    open_store()

    first = trace.transactions[0]
    assert (first.kind, first.end, len(first.statements)) == ("read", "COMMIT", 1)
    assert not any(
        word in line
        for each in trace.transactions[1:]
        for line in each.statements
        for word in ("alembic_version", "sqlite_schema", "application_id")
    )


# ---------------------------------------------------------------------- the verbs of the service


class Clock:
    def __init__(self):
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def traced_store(trace, open_store, clock):
    """
    A store whose statements are counted, opened before.
    """
    store = open_store(clock=clock)
    trace.clear()
    return store


def test_a_pull_of_a_known_name_is_one_read_when_it_was_used_a_moment_ago(
    traced_store, image, trace, kinds, clock
):
    traced_store.pull_image(image.reference)
    clock.now += timedelta(seconds=59)
    trace.clear()

    traced_store.pull_image(image.reference)

    assert kinds() == ["read"]
    assert len(trace.transactions[0].statements) == 1


def test_a_pull_of_a_known_name_notes_its_use_once_a_minute(traced_store, image, trace, kinds, clock):
    traced_store.pull_image(image.reference)
    clock.now += timedelta(minutes=1)
    trace.clear()

    status = traced_store.pull_image(image.reference)

    assert status.last_used_at == clock.now
    assert kinds() == ["read", "write", "read"]
    assert any("synchronous = NORMAL" in line for line in trace.lines), "it costs no fsync"
    trace.clear()
    traced_store.pull_image(image.reference)
    assert kinds() == ["read"]


def test_always_of_what_did_not_move_writes_nothing(traced_store, image, trace, kinds):
    traced_store.pull_image(image.reference)
    trace.clear()

    traced_store.pull_image(image.reference, policy=PullPolicy.ALWAYS)

    assert set(kinds()) == {"read"}


def test_another_tag_of_an_image_that_is_here_is_one_write(traced_store, image, trace, kinds):
    traced_store.pull_image(image.reference)
    trace.clear()

    traced_store.pull_image(f"{image.name}:2")

    assert kinds().count("write") == 1
    assert kinds()[-1] == "write"


def test_a_pull_of_bytes_is_two_writes(traced_store, image, trace, kinds):
    traced_store.pull_image(image.reference)

    writes = [each for each in trace.transactions if each.kind == "write"]
    assert len(writes) == 2
    assert any("INSERT INTO leases" in line for line in writes[0].statements)
    assert any("INSERT INTO images" in line for line in writes[1].statements)
    assert len(trace.transactions) < 10


def test_a_refused_pull_is_one_write_rolled_back(traced_store, image, trace, root):
    traced_store.set_max_storage(1)
    before = snapshot(root)
    trace.clear()

    with pytest.raises(Exception, match="storage limit exceeded"):
        traced_store.pull_image(image.reference)

    first, *others = (each for each in trace.transactions if each.kind == "write")
    assert first.end == "ROLLBACK"
    inserts = [line for each in others for line in each.statements if line.startswith("INSERT")]
    assert [line.split()[2] for line in inserts] == ["history"]  # that it failed
    assert snapshot(root) == before


def test_a_registered_image_is_one_write(traced_store, trace, kinds):
    traced_store.register_image("elsewhere:1", size=10)

    assert kinds() == ["write"]


def test_a_simulated_pull_is_one_read_and_one_write(trace, open_store, kinds):
    store = open_store(registry=SimulatedRegistry())
    trace.clear()

    store.pull_image("nginx")

    assert kinds() == ["read", "write"]


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        (lambda s, i: s.image_status(i.reference), ["read"]),
        (lambda s, i: s.image_status_by_ref(i.reference), ["read"]),
        (lambda s, i: s.list_images(), ["read"]),
        (lambda s, i: s.image_count(), ["read"]),
        (lambda s, i: s.usage(), ["read"]),
        (lambda s, i: s.manifest(i.reference), ["read"]),
        (lambda s, i: s.tag_image(i.reference, "mine:1"), ["write"]),
        (lambda s, i: s.untag_image(i.reference), ["write"]),
        (lambda s, i: s.pin_image(i.reference), ["write"]),
        (lambda s, i: s.set_max_storage(1 << 30), ["write"]),
    ],
    ids=["status", "by ref", "list", "count", "usage", "manifest", "tag", "untag", "pin", "limit"],
)
def test_a_verb_is_one_transaction(verb, expected, traced_store, image, trace, kinds):
    traced_store.pull_image(image.reference)
    trace.clear()

    verb(traced_store, image)

    assert kinds() == expected


def test_looking_at_an_image_costs_the_same_however_many_there_are(traced_store, trace):
    """
    By an index, never by reading the table: SQLite's own plan says so.
    """
    traced_store.register_image("elsewhere:1", size=10)
    trace.clear()
    traced_store.image_status("elsewhere:1")
    (lookup,) = trace.transactions[0].statements

    with traced_store._database.read() as connection:
        plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {lookup}")]

    assert plan
    assert not [step for step in plan if step.startswith("SCAN")], plan


def test_opening_a_store_at_head_writes_nothing(trace, open_store, kinds):
    open_store().close()
    trace.clear()

    open_store()

    assert "write" not in kinds()
