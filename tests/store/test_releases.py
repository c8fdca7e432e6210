"""
Two releases with one root: the earlier one looks and writes as far as the later one allows, and knows when to stop.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from support.content import content_of
from support.images import ImageBuilder
from support.registry import stall
from support.store import check_root, query
from support.tomorrow import NEXT_LEVEL, NEXT_REVISION, Tomorrow
from support.worker import Refused, Worker, run_python
from ullage import ImageService, SchemaTooNew, SchemaTooOld, SimulatedRegistry, releases
from ullage.schema import HEAD_REVISION, LEVEL


def simulated(root, **options):
    return ImageService.open(root, registry=SimulatedRegistry(), **options)


@pytest.fixture
def stocked(root):
    with simulated(root) as store:
        store.pull_image("nginx")
    return root


@pytest.fixture(scope="module")
def upgraded(template, tmp_path_factory):
    """
    A store that a later release upgraded.
    """
    folder = tmp_path_factory.mktemp("later")
    root = shutil.copytree(template, folder / "store")
    with simulated(root) as store:
        store.pull_image("nginx")
    Tomorrow(folder / "release").open(root)
    return root


@pytest.fixture
def later_store(upgraded, tmp_path):
    """
    Such a store, as its release lets this one do more or less with it.
    """

    def copy(*, min_reader=NEXT_LEVEL, min_writer=NEXT_LEVEL):
        root = shutil.copytree(upgraded, tmp_path / "later")
        with closing(sqlite3.connect(root / "ullage.db")) as shell, shell:
            shell.execute("UPDATE store SET min_reader = ?, min_writer = ?", [min_reader, min_writer])
        return root

    return copy


def test_a_later_store_may_be_looked_at_where_its_release_says_so(later_store):
    stocked = later_store(min_reader=LEVEL)

    with pytest.raises(SchemaTooNew, match="may only look") as raised:
        ImageService.open(stocked)
    assert raised.value.revision == NEXT_REVISION
    assert "read-only" in raised.value.hint
    with ImageService.open(stocked, read_only=True) as store:
        assert store.image_status("nginx") is not None
        assert store.check(digests=True) == []
        assert [each.level for each in store.doctor() if each.subject == "schema"] == ["warn"]


def test_a_later_store_is_not_even_looked_at_where_its_release_says_so(later_store):
    stocked = later_store()
    before = content_of(stocked)

    for read_only in (False, True):
        with pytest.raises(SchemaTooNew) as raised:
            ImageService.open(stocked, read_only=read_only)
        assert raised.value.revision == NEXT_REVISION
        assert "read-only" not in raised.value.hint

    assert content_of(stocked) == before


def test_a_later_store_is_written_to_where_its_release_says_so(later_store):
    stocked = later_store(min_reader=1, min_writer=1)

    with simulated(stocked) as store:
        store.pull_image("redis")

    assert query(stocked, "SELECT version_num FROM alembic_version") == [(NEXT_REVISION,)]
    check_root(stocked)


def test_whoever_has_the_store_open_stops_writing_after_a_later_release_upgraded_it(stocked, tmp_path):
    with simulated(stocked) as store:
        Tomorrow(tmp_path / "next", min_reader=LEVEL).open(stocked)
        before = content_of(stocked)

        for write in (
            lambda: store.pull_image("redis"),
            lambda: store.remove_image("nginx"),
            lambda: store.set_max_storage(1 << 30),
            store.collect,
        ):
            with pytest.raises(SchemaTooNew) as raised:
                write()
            assert raised.value.revision == NEXT_REVISION
        assert store.pull_image("nginx").repo_tags, "known, and the note of its use can wait"
        assert store.image_count() == 1
        assert content_of(stocked) == before


def test_what_reads_and_makes_no_sense_any_more_says_why(stocked, tmp_path):
    later = Tomorrow(tmp_path / "next", upgrade='op.execute("DROP VIEW image_storage")')
    with simulated(stocked) as store:
        later.open(stocked)

        with pytest.raises(SchemaTooNew):
            store.image_storage()


def test_a_look_up_that_makes_no_sense_any_more_says_why(stocked):
    """
    Those of every day go past SQLAlchemy, and know it all the same.
    """
    with simulated(stocked) as store:
        assert store.image_status("nginx") is not None
        with closing(sqlite3.connect(stocked / "ullage.db", isolation_level=None)) as shell:
            shell.execute("UPDATE store SET min_reader = ?, min_writer = ?", [NEXT_LEVEL, NEXT_LEVEL])
            shell.execute("ALTER TABLE images RENAME COLUMN username TO user_name")
            shell.execute(f"PRAGMA user_version = {NEXT_LEVEL}")
            for look in (lambda: store.image_status("nginx"), store.list_images):
                with pytest.raises(SchemaTooNew):
                    look()
            shell.execute("ALTER TABLE images RENAME COLUMN user_name TO username")


def test_a_pull_under_way_ends_when_a_later_release_upgrades_the_store(root, registry, tmp_path):
    """
    Nothing of it is lost but time: what it had received is found by the later release.
    """
    image = ImageBuilder(registry, "app").noise_layer(200_000).push("1")
    stalled = registry.inject(f"*/blobs/{image.layers[0].digest}", stall(after=100_000), times=1)
    with Worker(root) as worker:
        worker.send("pull_image", image.reference)
        stalled.wait_reached()
        Tomorrow(tmp_path / "next").open(root)
        stalled.release()

        with pytest.raises(Refused) as refused:
            worker.answer()

    assert refused.value.kind == "SchemaTooNew"
    assert refused.value.facts["revision"] == NEXT_REVISION
    registry.heal()
    Tomorrow(tmp_path / "again").run(
        "with ImageService.open(sys.argv[1], registry=RegistryClient(plain_http=True)) as store:\n"
        "    store.pull_image(sys.argv[2])\n    assert store.check(digests=True) == []\n    store.collect()",
        root,
        image.reference,
    )
    check_root(root)


def test_the_later_release_takes_its_store_back_and_the_earlier_one_goes_on(stocked, tmp_path):
    before = content_of(stocked)
    later = Tomorrow(tmp_path / "next")
    later.open(stocked)
    (stocked / "dreams" / "deep").mkdir(parents=True)
    with closing(sqlite3.connect(stocked / "ullage.db")) as shell, shell:
        shell.execute("INSERT INTO wishes (wish) VALUES ('more room')")
    with simulated_later(later, stocked) as worker:
        said = later.run("releases.back(Path(sys.argv[1]), sys.argv[2])", stocked, HEAD_REVISION, fails=True)
        assert "DowngradeLoses" in said
        assert "1 wishes" in said
        assert (stocked / "dreams").exists()
        later.run(
            "assert releases.back(Path(sys.argv[1]), sys.argv[2], accept_losses=True)[1]",
            stocked,
            HEAD_REVISION,
        )

        with pytest.raises(Refused) as refused:
            worker.call("register_image", "late:1", size=1)
    assert refused.value.kind == "SchemaTooOld"
    assert not (stocked / "dreams").exists()
    assert content_of(stocked) == before
    with simulated(stocked) as store:
        store.pull_image("redis")
    check_root(stocked)


def simulated_later(later, root):
    """
    A process of the later release that has the store open.
    """
    return _LaterWorker(later, root)


class _LaterWorker(Worker):
    def __init__(self, later, root):
        self._later = later
        super().__init__(root)

    def _environment(self):
        return self._later.environment


def test_levels_are_what_two_releases_compare(later_store):
    said = releases.current(later_store(min_reader=LEVEL))

    assert (said.revision, said.level, said.head) == (NEXT_REVISION, NEXT_LEVEL, HEAD_REVISION)
    assert (said.may_read, said.may_write, said.pending) == (True, False, ())


def test_an_upgrade_by_a_later_release_is_not_this_ones_to_undo(later_store):
    stocked = later_store(min_reader=1, min_writer=1)

    for change in (releases.forward, releases.back):
        with pytest.raises(SchemaTooNew):
            change(stocked, HEAD_REVISION)
    assert releases.check(stocked) == []


def test_a_store_taken_back_while_it_is_open_is_not_written_to(root, tmp_path):
    """
    By the shell's own hand, for there may be no earlier revision.
    """
    with simulated(root) as store:
        query(root, f"PRAGMA user_version = {LEVEL - 1}")
        with pytest.raises(SchemaTooOld, match="while it was open"):
            store.pull_image("nginx")
        query(root, f"PRAGMA user_version = {LEVEL}")
        store.pull_image("nginx")


def test_this_release_starts_nothing_that_it_need_not(stocked):
    shutil.rmtree(stocked / "trash")

    said = run_python(
        "import sys\nfrom pathlib import Path\nfrom ullage import releases\n"
        "print(releases.current(Path(sys.argv[1])).revision, 'alembic' in sys.modules)",
        stocked,
    )

    assert said.split() == [HEAD_REVISION, "False"]
    assert not (stocked / "trash").exists()
