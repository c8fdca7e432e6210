"""
docs/sqlite.md: the diagram is current, every table and view is explained, and each query of the cookbook answers what
it says, in the real shell, against a store that is being written to.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.diagram import drawn, in_the_page
from support.images import ImageBuilder, noise
from support.registry import FaultRegistry, reset, stall, truncate
from support.store import check_root, query
from ullage import ImageService, RegistryClient, RegistryUnavailable

PAGE = (Path(__file__).parent.parent.parent / "docs" / "sqlite.md").read_text()
COOKBOOK = dict(
    re.findall(
        r"^### ([^\n]+)\n(?:[^#`][^\n]*\n|\n)*```sql\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL
    )
)
LABEL = {"org.opencontainers.image.source": "https://example.com/app"}

needs_shell = pytest.mark.skipif(shutil.which("sqlite3") is None, reason="apt install sqlite3")


# ---------------------------------------------------------------------- the page


def test_the_diagram_is_that_of_the_schema():
    """
    When this fails on purpose: ``PYTHONPATH=tests python -m support.diagram``.
    """
    assert in_the_page() == drawn()


def test_every_table_and_every_view_is_explained(root):
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE, flags=re.MULTILINE)
    there = {
        name
        for (name,) in query(
            root,
            "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')"
            " AND name NOT GLOB 'sqlite_*' AND name <> 'alembic_version'",
        )
    }

    assert [name for name, _ in rows] == list(dict(rows))
    assert set(dict(rows)) == there


def test_every_view_is_one_that_the_queries_know(root):
    from ullage.schema import metadata  # noqa: PLC0415 -- of this test alone

    for (name,) in query(root, "SELECT name FROM sqlite_schema WHERE type = 'view'"):
        columns = [row[0] for row in query(root, "SELECT name FROM pragma_table_info(?)", name)]
        assert columns == [column.name for column in metadata.tables[name].columns], name


def test_the_schema_that_the_shell_prints_explains_itself(root):
    """
    Every table and every view says in its first line what it is.
    """
    for name, sql in query(
        root, "SELECT name, sql FROM sqlite_schema WHERE type IN ('table', 'view') AND sql IS NOT NULL"
    ):
        if name not in ("alembic_version", "sqlite_sequence"):
            assert sql.split("\n")[1].strip().startswith("-- "), name


# ---------------------------------------------------------------------- the cookbook


class Kitchen:
    """
    A store with something for every question, a pull under way, somebody holding, and writers at work.
    """

    def __init__(self, root, registry):
        self.root = root
        self.host = registry.host
        now = datetime.now(UTC)
        self._clock_at = now - timedelta(days=40)
        self._closing = ExitStack()
        self.service = self._closing.enter_context(
            ImageService.open(
                root,
                registry=RegistryClient(plain_http=True, backoff_seconds=0.001),
                clock=lambda: self._clock_at,
            )
        )
        base = noise(9_000, "base")
        self.alpine = self._pull(
            ImageBuilder(registry, "alpine").layer({"base": base}).config(Cmd=["sh"], User="1000"), "3.20"
        )
        self.service.pin_image("alpine:3.20")
        self.old = self._pull(ImageBuilder(registry, "old").noise_layer(4_000, "old"), "1")
        self._clock_at = now
        common = {"common": noise(20_000, "common")}
        app = ImageBuilder(registry, "app").layer({"base": base}).layer(common)
        self.first = self._pull(app.config(Env=["JAVA_HOME=/jdk"], Labels=LABEL), "1")
        app2 = ImageBuilder(registry, "app").layer({"base": base}).layer(common).noise_layer(1_000, "two")
        self.second = self._pull(app2, "2")
        self.service.tag_image("app:1", "app:latest")
        self.service.tag_image("app:2", "app:latest", move=True)
        self._pull(ImageBuilder(registry, "nameless").noise_layer(500, "nameless"), "1")
        for name in self.service.image_status("nameless:1").repo_tags:
            self.service.untag_image(name)
        for name in self.service.list_images()[-1].repo_digests:
            self.service.untag_image(name)
        self._pull(ImageBuilder(registry, "gone").noise_layer(700, "gone"), "1")
        self.service.remove_image("gone:1")
        self._leave_a_partial(registry)
        self._closing.enter_context(self.service.hold("app:2"))
        self._start_pull(registry)
        self._start_writing()

    def _pull(self, builder, tag):
        image = builder.push(tag)
        self.service.pull_image(image.reference)
        self.service.tag_image(image.reference, f"{image.repo}:{tag}")
        self.service.untag_image(image.reference)
        return image

    def _leave_a_partial(self, registry):
        image = ImageBuilder(registry, "partial").noise_layer(300_000, "partial").push("1")
        (self.partial,) = image.layers
        pattern = f"*/blobs/{self.partial.digest}"
        registry.inject(pattern, reset(), times=100)
        registry.inject(pattern, truncate(after=200_000), times=1)
        with pytest.raises(RegistryUnavailable):
            self.service.pull_image(image.reference)

    def _start_pull(self, registry):
        image = ImageBuilder(registry, "moving").noise_layer(200_000, "moving").push("1")
        self.moving = image
        fault = registry.inject(f"*/blobs/{image.layers[0].digest}", stall(after=100_000))
        pull = threading.Thread(target=self.service.pull_image, args=(image.reference,))
        pull.start()
        fault.wait_reached()

        def end():
            fault.release()
            pull.join()

        self._closing.callback(end)

    def _start_writing(self):
        over = threading.Event()
        self.writes = 0

        def write():
            # Not as fast as it goes: the history keeps ten thousand lines, and the questions are about older ones.
            while not over.wait(0.01):
                self.service.register_image("busy:1", size=1)
                self.service.remove_image("busy:1")
                self.writes += 1

        writer = threading.Thread(target=write)
        writer.start()
        while not self.writes:
            over.wait(0.01)

        def end():
            over.set()
            writer.join()

        self._closing.callback(end)

    def ask(self, title):
        """
        What the shell answers: a list of rows by their columns.
        """
        done = subprocess.run(
            ["sqlite3", "-readonly", "-json", "-bail", self.root / "ullage.db", COOKBOOK[title]],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), title
        rows = json.loads(done.stdout or "[]")
        return [row for row in rows if "busy" not in json.dumps(row)]

    def close(self):
        self._closing.close()


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    root = tmp_path_factory.mktemp("kitchen") / "store"
    with FaultRegistry() as registry:
        kitchen = Kitchen(root, registry)
        yield kitchen
        kitchen.close()
    check_root(root)


def _tags(rows):
    return [row["repo_tags"] for row in rows]


APP2 = "docker.io/library/app:2 docker.io/library/app:latest"
ALPINE = "docker.io/library/alpine:3.20"


def _same(kitchen, rows):
    assert rows == []


def _here(kitchen, rows):
    assert {ALPINE, "docker.io/library/app:1", APP2, "<none>"} <= set(_tags(rows))
    assert re.fullmatch(r"\d+(\.\d)? kB", rows[0]["human_size"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", rows[0]["pulled"])


def _where(kitchen, rows):
    assert [row["name"] for row in rows][:4] == ["limit", "used", "reserved", "available"]
    assert rows[0]["human_size"] == "10.74 GB"


def _takes(kitchen, rows):
    frees = [row["frees"] for row in rows]
    assert "docker.io/library/old:1" in _tags(rows)[:2], "it shares nothing"
    assert all(re.fullmatch(r"\d+(\.\d)? k?B", each) for each in frees)


def _alone(kitchen, rows):
    (row,) = rows
    assert row["exclusive_bytes"] == kitchen.alpine.size - kitchen.alpine.layers[0].size


def _together(kitchen, rows):
    (row,) = rows
    both = {blob.digest: blob.size for blob in (*kitchen.first.blobs, *kitchen.second.blobs)}
    del both[kitchen.alpine.layers[0].digest]
    assert row["frees"] == sum(both.values())


def _holds(kitchen, rows):
    (row,) = rows
    assert row["repo_tags"] == APP2
    assert "(pid " in row["holder"]


def _moving(kitchen, rows):
    assert {row["reference"] for row in rows} == {kitchen.moving.reference}
    assert {row["kind"] for row in rows} == {"blob"}
    assert "200.7 kB" in {row["human_size"] for row in rows} or len(rows) >= 1


def _resumable(kitchen, rows):
    (row,) = rows
    assert row["digest"] == kitchen.partial.digest


def _garbage(kitchen, rows):
    assert kitchen.partial.digest in {row["digest"] for row in rows if row["kind"] == "partial"}


def _shared(kitchen, rows):
    assert [(row["digest"], row["images"]) for row in rows] == [
        (kitchen.alpine.layers[0].digest, 3),
        (kitchen.first.layers[1].digest, 2),
    ]


def _saves(kitchen, rows):
    (row,) = rows
    base, common = kitchen.alpine.layers[0].size, kitchen.first.layers[1].size
    assert abs(row["saved_bytes"] - (2 * base + common)) <= 1, "but for what is being written"


def _unused(kitchen, rows):
    assert _tags(rows) == ["docker.io/library/old:1"], "alpine is pinned"


def _variable(kitchen, rows):
    assert rows == [{"repo_tags": "docker.io/library/app:1", "value": "JAVA_HOME=/jdk"}]


def _label(kitchen, rows):
    assert rows == [{"repo_tags": "docker.io/library/app:1", "source": "https://example.com/app"}]


def _runs(kitchen, rows):
    assert [(row["cmd"], str(row["user"])) for row in rows] == [('["sh"]', "1000")]


def _been(kitchen, rows):
    moved, tagged = rows
    assert (moved["event"], tagged["event"]) == ("moved", "tagged")
    assert moved["image"] == kitchen.second.image_id[7:19]
    assert moved["before"] == tagged["image"] == kitchen.first.image_id[7:19]


def _removed(kitchen, rows):
    (row,) = rows
    assert (row["event"], row["reference"]) == ("removed", "docker.io/library/gone:1")
    assert "(pid " in row["who"]


def _week(kitchen, rows):
    (row,) = rows
    assert row["hosts"] == kitchen.host
    assert row["pulls"] == 4


def _from(kitchen, rows):
    (row,) = rows
    assert (row["host"], row["blob_count"]) == (kitchen.host, 3)


def _nameless(kitchen, rows):
    assert len(rows) == 1


def _synonyms(kitchen, rows):
    assert [set(row["tags"].split()) for row in rows] == [set(APP2.split())]


def _needs(kitchen, rows):
    assert {row["repo_tags"] for row in rows} == {"docker.io/library/app:1", APP2}
    assert {row["role"] for row in rows} == {"layer"}


def _failed(kitchen, rows):
    (row,) = rows
    assert row["reference"] == f"{kitchen.host}/partial:1"
    assert row["how"].startswith("pull: RegistryUnavailable: ")
    assert row["times"] == 1


def _platforms(kitchen, rows):
    assert {row["platform"]: row["images"] for row in rows}["linux/amd64"] == 5


ANSWERS = {
    "What is here?": _here,
    "Where are the bytes?": _where,
    "What takes the space?": _takes,
    "What would removing an image free?": _alone,
    "What would removing several images together free?": _together,
    "Who holds what?": _holds,
    "What is being pulled right now?": _moving,
    "What can a later pull go on with?": _resumable,
    "What would `ullage gc` free?": _garbage,
    "Which layers are shared by most images?": _shared,
    "What does sharing save?": _saves,
    "Which images were not used for 30 days?": _unused,
    "Which images set an environment variable, and to what?": _variable,
    "Which images have a label?": _label,
    "What does an image run, and as whom?": _runs,
    "Where has a tag been?": _been,
    "Who removed what, and why?": _removed,
    "What failed, how often, and when last?": _failed,
    "How much came from which registry in the last week?": _week,
    "Where did an image come from?": _from,
    "Which images have no name?": _nameless,
    "Which tags denote the same image?": _synonyms,
    "Which images need a certain blob?": _needs,
    "Which platforms are here?": _platforms,
    "Is anything wrong?": _same,
}


def test_every_recipe_has_an_answer_to_be_held_against():
    assert list(COOKBOOK) == list(ANSWERS)
    assert len(COOKBOOK) >= 20


@needs_shell
@pytest.mark.parametrize("title", ANSWERS)
def test_a_recipe_answers_what_it_says_while_others_write(title, kitchen):
    ANSWERS[title](kitchen, kitchen.ask(title))
