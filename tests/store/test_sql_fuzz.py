"""
A fuzzer types at the schema, and an oracle in Python looks on; then at schemas of which each lacks one trigger.

``ULLAGE_FUZZ_STATEMENTS`` says how much is typed (3,000 without it); every mutant gets a fiftieth of that.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing

import pytest

from support.oracle import Oracle, copy_of, table_of, triggers_of, weakened
from support.populated import populated
from support.registry import FaultRegistry
from support.sqlfuzz import Outcome, Typist, fuzz
from support.typed import EFFECTS, GUARDS

STATEMENTS = int(os.environ.get("ULLAGE_FUZZ_STATEMENTS", "3000"))
#: After so many a store is worn out: what could be removed is gone.
PER_STORE = 200
PER_MUTANT = max(PER_STORE, STATEMENTS // 50)
#: Of the mutants that the fuzzer finds in CI's time; in an hour it finds more, and never those that take a forger.
FOUND_AT_LEAST = 35
SEEDS = range(max(1, STATEMENTS // PER_STORE))

pytestmark = pytest.mark.timeout(120 + STATEMENTS // 50)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """
    The database of a populated store, in memory, to be copied.
    """
    root = tmp_path_factory.mktemp("fuzz") / "store"
    with (
        FaultRegistry() as registry,
        populated(root, registry),
        closing(sqlite3.connect(root / "ullage.db")) as source,
    ):
        copy = copy_of(source)
    yield copy
    copy.close()


def _copy(pristine, seed):
    """
    With foreign keys and recursive triggers off and on, seed by seed.
    """
    return copy_of(pristine, foreign_keys=bool(seed & 1), recursive=bool(seed & 2))


def test_a_populated_store_has_nothing_wrong_with_it(pristine):
    oracle = Oracle()
    oracle.capture(pristine)

    assert oracle.complaints(pristine) == []


def test_nothing_that_is_typed_makes_a_store_wrong(pristine):
    outcomes = []
    for seed in SEEDS:
        with closing(_copy(pristine, seed)) as connection:
            outcome = fuzz(connection, seed, PER_STORE)
        assert outcome.complaints == [], f"seed {seed}, {outcome}"
        assert outcome.strange == set(), "every refusal says why"
        outcomes.append(outcome)

    typed, accepted = sum(each.statements for each in outcomes), sum(each.accepted for each in outcomes)
    sentences = set().union(*(each.sentences for each in outcomes))
    print(f"\n{typed} statements, {accepted} accepted, {len(sentences)} different reasons, nothing wrong")
    # Neither of the two may be all there is: then the fuzzer would be no test.
    assert typed * 0.1 < accepted < typed * 0.9
    assert len(sentences) > 25


def test_the_same_seed_types_the_same(pristine):
    runs = []
    for _ in range(2):
        with closing(_copy(pristine, 0)) as connection:
            runs.append(fuzz(connection, 7, 100).typed)

    assert runs[0] == runs[1]


def test_a_typist_does_not_say_what_became_of_a_file_or_of_a_lock(pristine):
    said = re.compile(
        r"'(filled|arrived|swept|discarded|complete)'|ledger = ledger \+ 1\b|ended_token = (excluded\.)?token"
    )
    typist = Typist(1, pristine)

    assert [sql for sql in (typist.statement() for _ in range(2_000)) if said.search(sql)] == []


@pytest.fixture(scope="module")
def mutants(pristine):
    """
    For each trigger what the fuzzer made of a schema without it.
    """
    return {trigger: _mutant(pristine, trigger) for trigger in triggers_of(pristine)}


def _mutant(pristine, trigger) -> Outcome:
    outcome, table = Outcome(), table_of(pristine, trigger)
    for seed in range(PER_MUTANT // PER_STORE):
        with closing(_copy(pristine, seed)) as connection:
            weakened(connection, trigger)
            outcome = fuzz(connection, seed, PER_STORE, focus=table)
        if outcome.complaints:
            break
    return outcome


def test_without_a_trigger_the_fuzzer_or_a_directed_statement_fails(mutants):
    """
    That the directed statements do fail, each by its trigger alone, is in `test_shell`.
    """
    found = {trigger for trigger, outcome in mutants.items() if outcome.complaints}
    directed = {typed.rule for typed in (*GUARDS, *EFFECTS)}

    print(
        f"\n{len(found)} of {len(mutants)} mutants found by the fuzzer alone; not: {sorted(set(mutants) - found)}"
    )
    assert set(mutants) <= found | directed
    assert len(found) >= FOUND_AT_LEAST
