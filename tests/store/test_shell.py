"""
Hostile hands in the sqlite3 shell: what they type at a populated store, and what it says to that.

The table is `support.typed`. It is typed into the real shell, with foreign keys off and on and recursive triggers off
and on; and each rule is taken out of the schema in turn, to see that it was that one which held.
"""

# ruff: noqa: E501, ISC004 -- SQL reads by its lines, and is put together from pieces

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import threading
from contextlib import closing
from itertools import product
from typing import NamedTuple

import pytest

from support.images import ImageBuilder
from support.oracle import Oracle, constraints_of, copy_of, triggers_of, weakened
from support.populated import populated
from support.registry import FaultRegistry, stall
from support.store import check_root, query, snapshot
from support.typed import BARE, CHECKS, EFFECTS, EMPTY, FOREIGN_KEYS, FREEDOMS, GUARDS, KEYS, STORE, TYPED
from ullage.digest import digest_of

needs_shell = pytest.mark.skipif(
    shutil.which("sqlite3") is None, reason="there is no sqlite3 shell on this machine"
)

#: (foreign_keys, recursive_triggers)
MODES = tuple(product((0, 1), (0, 1)))
SAID_BY_SQLITE = {*CHECKS, *KEYS, *FOREIGN_KEYS}


class Answer(NamedTuple):
    """
    Of the shell to one statement: its error, the hash of all content before and after, and what the queries gave.
    """

    said: str
    before: str
    after: str
    wrong: str
    protected: str
    gives: str


class Bench(NamedTuple):
    """
    A populated store with its owners alive, copies to type at, and the names of what is in it.
    """

    root: object
    names: dict[str, str]
    copies: dict[str, object]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """
    The populated store. The copies are as it was when its owners were at work.
    """
    folder = tmp_path_factory.mktemp("shell")
    root = folder / "store"
    with FaultRegistry() as registry, populated(root, registry) as names:
        copies = {STORE: folder / "store.db", EMPTY: folder / "empty.db", BARE: folder / "bare.db"}
        for copy in copies.values():
            query(root, "VACUUM INTO ?", str(copy))
        with closing(sqlite3.connect(copies[EMPTY], isolation_level=None)) as connection:
            _empty(connection)
        with closing(sqlite3.connect(copies[BARE], isolation_level=None)) as connection:
            _strip(connection)
        yield Bench(root, names, copies)
    check_root(root)


def _empty(connection):
    (text,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'store_stays'").fetchone()
    connection.execute("DROP TRIGGER store_stays")
    connection.execute("DELETE FROM store")
    connection.execute(text)


def _strip(connection):
    for trigger in triggers_of(connection):
        connection.execute(f"DROP TRIGGER {trigger}")


@pytest.fixture(scope="module")
def answers(bench):
    """
    What the shell answered to every statement of the table, in every mode: one process for each mode.
    """
    return {mode: _type_all(bench, *mode) for mode in MODES}


def _type_all(bench, foreign_keys, recursive):
    lines, line_of = [], {}
    for number, typed in enumerate(TYPED):
        lines += [
            f".open --deserialize {bench.copies[typed.at]}",
            f"PRAGMA foreign_keys = {foreign_keys}; PRAGMA recursive_triggers = {recursive};",
            *(f"{given.format_map(bench.names)};" for given in typed.given),
            f".print -- {number} before",
            ".sha3sum",
            f"{typed.sql.format_map(bench.names)};",
            f".print -- {number} after",
            ".sha3sum",
            f".print -- {number} wrong",
            "SELECT * FROM accounting_drift; SELECT * FROM problems;" if typed.at == STORE else "",
            f".print -- {number} protected",
            _protected(bench.names) if typed.at == STORE else "",
            f".print -- {number} gives",
            f"{typed.gives[0].format_map(bench.names)};" if typed.gives else "",
        ]
        line_of[number] = (
            next(i for i in range(len(lines), 0, -1) if lines[i - 1].endswith(f"{number} after")) - 1
        )
    done = subprocess.run(
        ["sqlite3", "-batch", ":memory:"], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    errors = {
        int(line): text
        for line, text in re.findall(r"near line (\d+): (.*?)(?: \(\d+\))?$", done.stderr, flags=re.MULTILINE)
    }
    unforeseen = {line: text for line, text in errors.items() if line not in line_of.values()}
    assert unforeseen == {}, "what is given is accepted, and every view is readable"
    parts = re.split(r"^-- (\d+) (\w+)$", done.stdout, flags=re.MULTILINE)
    found = {
        (int(n), part): text.strip()
        for n, part, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }
    return [
        Answer(
            errors.get(line_of[number], ""),
            *(found[number, part] for part in ("before", "after", "wrong", "protected", "gives")),
        )
        for number in range(len(TYPED))
    ]


def _protected(names):
    live = names["live"]
    return (
        f"SELECT id, token, purpose, reference, owner, pid, created_at, ended_token FROM leases WHERE id = {live};"
        f" SELECT id, digest, size, lease_id, reserved_bytes, state FROM ingests WHERE lease_id = {live};"
        f" SELECT b.digest, b.size, b.state FROM lease_blobs AS k JOIN blobs AS b ON b.id = k.blob_id"
        f" WHERE lease_id = {live} AND b.id IN ({names['kept']}, {names['leased']});"
        f" SELECT i.image_id, i.size FROM lease_images AS h JOIN images AS i ON i.id = h.image_id"
        f" WHERE i.id = {names['held']};"
        f" SELECT t.* FROM lease_trees AS k JOIN trees AS t ON t.id = k.tree_id"
        f" WHERE lease_id = {live} AND t.id = {names['tree_kept']};"
        f" SELECT * FROM manifest_trees WHERE tree_id = {names['tree_held']};"
        f" SELECT id, chain_id, lease_id, state FROM tree_ingests WHERE lease_id = {live};"
    )


def _named(number_and_typed):
    number, typed = number_and_typed
    return f"{typed.rule}-{number}"


@needs_shell
@pytest.mark.parametrize("number_and_typed", list(enumerate(TYPED)), ids=_named)
def test_the_shell_is_answered_with_a_reason_and_nothing_is_left_wrong(number_and_typed, answers):
    number, typed = number_and_typed
    prefix = "" if typed in SAID_BY_SQLITE or not typed.says else "ullage: "
    for mode in MODES:
        if typed in FOREIGN_KEYS and not mode[0]:
            continue
        answer = answers[mode][number]
        assert answer.said == prefix + typed.says, f"{typed.why} {mode}"
        # What is given may be the half of something that a later statement would make whole.
        assert answer.wrong == "" or (typed.says and typed.given), mode
        if typed.says:
            assert answer.after == answer.before, "a refusal changes nothing"
        if typed in FREEDOMS:
            assert answer.protected == answers[mode][0].protected, (
                "what is allowed takes nothing from a live owner"
            )
        if typed.gives:
            assert answer.gives == typed.gives[1], mode


@needs_shell
def test_what_is_protected_is_there_to_be_taken(answers):
    """
    Else the comparison above would compare nothing with nothing.
    """
    assert len(answers[0, 0][0].protected.splitlines()) == 1 + 3 + 2 + 1 + 1 + 1 + 2


def test_every_trigger_and_every_named_constraint_has_its_statement(bench):
    with closing(sqlite3.connect(bench.copies[STORE])) as connection:
        rules = {*triggers_of(connection), *constraints_of(connection)}

    assert {typed.rule for typed in TYPED} == rules


def test_every_rule_says_what_it_proves():
    assert all(typed.why for typed in TYPED)
    assert len({(typed.sql, typed.given, typed.at) for typed in GUARDS}) == len(GUARDS)


def _typed_without(bench, typed, rule=None, *, foreign_keys=False):
    with closing(sqlite3.connect(bench.copies[typed.at])) as source:
        connection = copy_of(source, foreign_keys=foreign_keys)
    for given in typed.given:
        connection.execute(given.format_map(bench.names))
    if rule is not None:
        weakened(connection, rule)
    try:
        connection.execute(typed.sql.format_map(bench.names))
    except sqlite3.Error as error:
        return connection, str(error)
    return connection, ""


def _rules_of(*tables):
    return sorted({typed.rule for table in tables for typed in table})


@pytest.mark.parametrize("rule", _rules_of(GUARDS, CHECKS))
def test_a_statement_that_one_rule_refuses_is_accepted_without_it(rule, bench):
    said = []
    for typed in (*GUARDS, *CHECKS):
        if typed.rule == rule:
            connection, answer = _typed_without(bench, typed, rule)
            connection.close()
            said.append(answer)

    assert "" in said, f"others refuse all of them: {said}"


@pytest.mark.parametrize("rule", _rules_of(EFFECTS))
def test_an_effect_is_missed_when_its_trigger_is_gone(rule, bench):
    for typed in EFFECTS:
        if typed.rule != rule:
            continue
        connection, answer = _typed_without(bench, typed, rule)
        with closing(connection):
            judge = Oracle()
            judge.capture(connection)
            wrong = judge.complaints(connection)
            if typed.gives is not None:
                (given,) = connection.execute(typed.gives[0].format_map(bench.names)).fetchone()
                wrong += [] if str(given) == typed.gives[1] else [given]
        assert answer or wrong, typed.why


@pytest.mark.parametrize("rule", _rules_of(FOREIGN_KEYS))
def test_a_foreign_key_that_is_off_refuses_nothing(rule, bench):
    """
    That is the shell's default, and why triggers say the same.
    """
    for typed in FOREIGN_KEYS:
        if typed.rule == rule:
            for foreign_keys in (False, True):
                connection, answer = _typed_without(bench, typed, foreign_keys=foreign_keys)
                connection.close()
                assert bool(answer) is foreign_keys


@needs_shell
def test_everything_refused_may_be_typed_at_a_store_at_work_and_changes_nothing(bench):
    """
    At the very database, beside owners who hold their locks. After it they end well: `bench` sees to that.
    """
    before = snapshot(bench.root)
    script = "\n".join(
        f"{typed.sql.format_map(bench.names)};"
        for typed in (*GUARDS, *CHECKS, *KEYS)
        if typed.at == STORE and not typed.given
    )

    done = subprocess.run(
        ["sqlite3", "-batch", str(bench.root / "ullage.db")],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )

    assert len(done.stderr.splitlines()) == len(script.splitlines())
    assert snapshot(bench.root) == before


@needs_shell
def test_a_pull_under_way_does_not_notice_what_is_typed(registry, store, root, wait_until):
    image = ImageBuilder(registry, "app").noise_layer(300_000).push("1")
    (layer,) = image.layers
    fault = registry.inject(f"*/blobs/{layer.digest}", stall(after=100_000))
    pulled = []
    pull = threading.Thread(target=lambda: pulled.append(store.pull_image(image.reference)))
    pull.start()
    wait_until(lambda: query(root, "SELECT 1 FROM ingests WHERE digest = ?", layer.digest))
    ((live, now),) = query(root, "SELECT id, created_at FROM leases")
    names = {"live": live, "some": layer.digest, "now": now, "token": "0" * 32, "new": digest_of(b"new")}

    script = "\n".join(f"{sql};" for sql in _typed_with(names))
    done = subprocess.run(
        ["sqlite3", "-batch", str(root / "ullage.db")],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    fault.release()
    pull.join()

    refusals = re.findall(r"(ullage: |constraint failed)", done.stderr)
    assert len(refusals) == len(script.splitlines()) > 15
    assert [each.image_id for each in pulled] == [image.image_id]
    assert store.usage().used_bytes == image.size


def _typed_with(names):
    """
    The refused statements that speak of these names alone. (This pull found nothing here that it would keep.)
    """
    for typed in (*GUARDS, *CHECKS):
        words = set(re.findall(r"{(\w+)}", typed.sql))
        of_a_pull = words & {"live", "some"} or typed.rule in ("leases_stay", "ingests_stay")
        if (
            typed.at == STORE
            and not typed.given
            and words <= set(names)
            and of_a_pull
            and typed.rule not in ("store_limit", "store_inodes", "lease_blobs_stay")
        ):
            yield typed.sql.format_map(names)


# ---------------------------------------------------------------------- what the rules cost


def _make_images(connection, names, count):
    """
    So many images, each of a blob of its own and of one that all of them share, made as their pull would.
    """
    edge = "INSERT INTO manifest_blobs SELECT id, ?2, (SELECT id FROM blobs WHERE digest = ?3), ?4, 'x' FROM manifests WHERE digest = ?1"
    connection.execute(_format("UPDATE leases SET status = 'complete' WHERE id = {live}", names))
    connection.execute("UPDATE store SET max_bytes = 1 << 50")
    (shared,) = connection.execute(_format("SELECT digest FROM blobs WHERE id = {leased}", names)).fetchone()
    for number in range(count):
        digest = digest_of(f"image {number}".encode())
        connection.execute(
            _format(
                "INSERT INTO ingests (digest, size, lease_id, reserved_bytes, created_at) VALUES (?, 9, {live}, 9, '{now}')",
                names,
            ),
            (digest,),
        )
        for sql in (
            "UPDATE ingests SET received_bytes = size, state = 'arrived' WHERE digest = ?",
            "INSERT INTO blobs (digest, size, created_at) SELECT digest, size, created_at FROM ingests WHERE digest = ?",
            _format(
                "INSERT INTO images (image_id, spec_image_name, pulled_at, last_used_at) VALUES (?, 'x', '{now}', '{now}')",
                names,
            ),
            "INSERT INTO manifests (digest, image_id, media_type, created_at)"
            " SELECT image_id, id, 'x', pulled_at FROM images WHERE image_id = ?",
        ):
            connection.execute(sql, (digest,))
        for position, (blob, role) in enumerate(
            ((digest, "manifest"), (digest, "config"), (shared, "layer"))
        ):
            connection.execute(edge, (digest, position, blob, role))
        connection.execute("UPDATE manifests SET complete = 1 WHERE digest = ?", (digest,))
        connection.execute(
            "INSERT INTO repo_tags (reference, image_id, manifest_id, digest, updated_at)"
            " SELECT 'docker.io/library/many:' || id, image_id, id, digest, created_at FROM manifests WHERE digest = ?",
            (digest,),
        )


def _format(sql, names):
    return sql.format_map(names)


def _steps(connection, sql):
    """
    What the statement costs, in steps of SQLite's virtual machine: the same on every machine.
    """
    steps = 0

    def step():
        nonlocal steps
        steps += 1

    connection.set_progress_handler(step, 1)
    connection.execute(sql).fetchall()
    connection.set_progress_handler(None, 1)
    return steps


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO manifest_blobs SELECT max(manifest_id), 3, {leased}, 'index', 'x' FROM manifest_blobs",
        "DELETE FROM images WHERE id = (SELECT max(id) FROM images)",
        "SELECT * FROM image_storage WHERE id = (SELECT max(id) FROM images)",
        "SELECT * FROM image_listing WHERE id = (SELECT max(id) FROM images)",
        "SELECT * FROM storage_usage",
        "SELECT * FROM reclaimable WHERE digest = '{partial}'",
        "UPDATE blobs SET state = 'doomed' WHERE id = {garbage}",
        "INSERT INTO ingests (digest, size, lease_id, reserved_bytes, created_at) VALUES ('{new}', 5, {live}, 5, '{now}')",
    ],
)
def test_the_cost_of_a_statement_does_not_grow_with_the_images_that_share_a_layer(sql, bench):
    """
    With foreign keys, which look through the tables that point at what goes.
    """
    costs = []
    for count in (20, 400):
        with closing(sqlite3.connect(bench.copies[STORE])) as source:
            connection = copy_of(source, foreign_keys=True)
        with closing(connection):
            _make_images(connection, bench.names, count)
            costs.append(_steps(connection, _format(sql, bench.names)))

    assert costs[1] < costs[0] * 1.2 + 50, costs
