"""The journal names the rows that were in flight when a process ended."""

import json
from pathlib import Path

import pytest

from infra.storage import storage_path
from labeling.execution.journal import (
    MAX_LONE_DEATHS,
    MAX_LONE_ORPHANS,
    Journal,
    JournalFile,
    journal_path,
    read_journal,
)
from tests.factories import SHARD, key


@pytest.fixture
def path(tmp_path):
    return journal_path(storage_path(tmp_path), "captions", SHARD)


def begin(path, run="run"):
    return Journal.begin(path, run)


def test_a_new_journal_has_no_suspect(path):
    journal = begin(path)
    assert (journal.attempts, journal.done, journal.suspects) == (1, 0, set())
    assert not journal.is_suspect(key(1))
    assert journal.quarantine_cause(key(1)) is None


def test_attempts_are_counted_by_run(path):
    assert [begin(path).attempts, begin(path).attempts, begin(path).attempts] == [1, 2, 3]
    assert begin(path, "the next run").attempts == 1


def test_rows_in_flight_at_the_death_of_the_supervisor_are_suspects(path):
    begin(path).note_in_flight([key(1), key(2)], done=5)
    again = begin(path)
    assert [again.is_suspect(key(n)) for n in (1, 2, 3)] == [True, True, False]
    assert again.quarantine_cause(key(1)) is None
    assert (again.in_flight, again.done) == ([], 0)


def test_rows_that_are_done_are_not_suspects(path):
    journal = begin(path)
    journal.note_in_flight([key(1), key(2)], done=0)
    journal.note_in_flight([], done=2)
    assert begin(path).suspects == set()


def test_a_row_that_dies_alone_too_often_is_quarantined_with_the_cause(path):
    journal = begin(path)
    for death in range(1, MAX_LONE_DEATHS + 1):
        assert journal.quarantine_cause(key(1)) is None
        journal.note_in_flight([key(1)], done=0)
        journal.note_death(f"killed by SIGSEGV, {death}")
    assert journal.quarantine_cause(key(1)) == f"killed by SIGSEGV, {MAX_LONE_DEATHS}"
    assert begin(path, "another run").quarantine_cause(key(1)) == f"killed by SIGSEGV, {MAX_LONE_DEATHS}"


def test_a_row_that_crashes_alone_after_it_was_suspect_is_quarantined_at_once(path):
    journal = begin(path)
    journal.note_in_flight([key(1), key(2)], done=0)
    journal.note_death("killed by SIGSEGV", crashed_or_hung=True)
    assert journal.quarantine_cause(key(1)) is None
    journal.note_in_flight([key(1)], done=0)
    journal.note_death("killed by SIGSEGV", crashed_or_hung=True)
    assert journal.quarantine_cause(key(1)) == "killed by SIGSEGV"
    assert journal.quarantine_cause(key(2)) is None


def test_one_crash_alone_is_not_enough(path):
    journal = begin(path)
    journal.note_in_flight([key(1)], done=0)
    journal.note_death("no answer within 600 s", crashed_or_hung=True)
    assert journal.quarantine_cause(key(1)) is None


def test_rows_that_die_together_are_never_quarantined_for_it(path):
    journal = begin(path)
    for _ in range(10):
        journal.note_in_flight([key(1), key(2)], done=0)
        journal.note_death("killed by SIGKILL")
    assert journal.is_suspect(key(1))
    assert journal.quarantine_cause(key(1)) is journal.quarantine_cause(key(2)) is None


def test_deaths_together_with_the_supervisor_quarantine_a_row_later(path):
    assert MAX_LONE_ORPHANS > MAX_LONE_DEATHS
    for _ in range(MAX_LONE_ORPHANS):
        assert begin(path).quarantine_cause(key(1)) is None
        journal = begin(path)
        journal.note_in_flight([key(1)], done=0)
    assert begin(path).quarantine_cause(key(1)) == "its supervisor died"


def test_a_death_is_on_disk_before_the_next_batch(path):
    journal = begin(path)
    journal.note_in_flight([key(1)], done=3)
    assert read_journal(path).in_flight == [key(1).hex()]
    journal.note_death("exit code 3")
    kept = read_journal(path)
    assert (kept.in_flight, kept.lone_deaths, kept.done) == ([], {key(1).hex(): 1}, 3)


def test_the_file_is_always_complete(path):
    begin(path).note_in_flight([key(n) for n in range(1000)], done=0)
    folder = Path(path.path).parent
    assert [p.name for p in folder.iterdir()] == [path.name]
    assert len(json.loads((folder / path.name).read_text())["in_flight"]) == 1000


@pytest.mark.parametrize(
    "ruins",
    ["", "{", '{"run": "run", "attem', "\x00" * 64, "[]", "null", "[" * 10**5, '{"done": "x"}', '{"suspects": {}}'],
)
def test_a_damaged_journal_is_replaced_by_a_new_one(path, ruins, caplog):
    begin(path)
    Path(path.path).write_text(ruins)
    journal = begin(path)
    assert (journal.attempts, journal.suspects) == (1, set())
    assert str(path) in caplog.text


def test_a_finished_shard_has_no_journal(path):
    journal = begin(path)
    journal.remove()
    assert read_journal(path) == JournalFile()
    journal.remove()
    assert begin(path).attempts == 1
