"""Progress is counted from files, and shown as a bar or as lines."""

import io
import logging
import sys
import threading

import pytest

from labeling.execution import progress
from labeling.execution.journal import Journal, journal_path
from labeling.execution.progress import Progress, ProgressCounter, show_progress
from labeling.sdd.schema import Caption
from labeling.sdd.shards import ShardStore
from tests.factories import key, refused
from tests.processes import PATIENCE_S

SHARDS = ["shard-00000", "shard-00001", "shard-00002"]


def write(store, shard, count):
    rows = [Caption(key=key(n), caption="a dog") for n in range(1, count)]
    store.write_outcomes("captions", shard, [*rows, refused(count)], Caption, "stamp")


def test_finished_and_begun_shards_count(tmp_path):
    store = ShardStore(str(tmp_path))
    count = ProgressCounter(store, "captions", SHARDS).count
    assert count().done == 0
    write(store, SHARDS[0], 5)
    assert count().done == 5
    journal = Journal.begin(journal_path(store.root, "captions", SHARDS[1]), "run")
    assert count().done == 5
    journal.note_in_flight([key(9)], done=3)
    assert count().done == 8
    write(store, SHARDS[1], 6)
    assert count().done == 11
    journal.remove()
    assert count().done == ProgressCounter(ShardStore(str(tmp_path)), "captions", SHARDS).count().done == 11


def test_other_layers_and_shards_do_not_count(tmp_path):
    store = ShardStore(str(tmp_path))
    write(store, SHARDS[0], 5)
    assert ProgressCounter(store, "nouns", SHARDS).count().done == 0
    assert ProgressCounter(store, "captions", SHARDS[1:]).count().done == 0


class Stepping:
    """Progress that rises by one a look, and says when it has been looked at often enough."""

    def __init__(self, enough, loading=0):
        self.value, self.enough, self.reached = 0, enough, threading.Event()
        self.loading = loading

    def __call__(self):
        self.value += 1
        if self.value > self.enough:
            self.reached.set()
        return Progress(self.value, self.loading)


def test_lines_are_logged_where_there_is_no_terminal(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.001)
    caplog.set_level(logging.INFO, "labeling.execution.progress")
    count = Stepping(enough=4)
    with show_progress("captions", 1000, count):
        assert count.reached.wait(PATIENCE_S)
    assert caplog.messages[0].startswith("captions: 2 of 1000 images, ")
    assert "/s, " in caplog.messages[0]
    assert caplog.messages[0].endswith(" s left")


def test_a_network_that_loads_is_named(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 0.001)
    caplog.set_level(logging.INFO, "labeling.execution.progress")
    for loading in (1, 2):
        count = Stepping(enough=2, loading=loading)
        with show_progress("captions", 10, count):
            assert count.reached.wait(PATIENCE_S)
    assert any(text.endswith(", 1 worker loading") for text in caplog.messages)
    assert any(text.endswith(", 2 workers loading") for text in caplog.messages)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_is_drawn_on_a_terminal_and_ends_at_the_count(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "BAR_INTERVAL_S", 0.001)
    count = Stepping(enough=4, loading=1)
    with show_progress("captions", 1000, count):
        assert count.reached.wait(PATIENCE_S)
    assert "captions" in terminal.getvalue()
    assert "1 worker loading" in terminal.getvalue()
    assert f" {count.value}/1000 " in terminal.getvalue()


def test_an_error_in_the_block_is_raised_and_the_display_ends(monkeypatch):
    before = threading.active_count()
    with pytest.raises(RuntimeError), show_progress("captions", 10, lambda: Progress(3)):
        raise RuntimeError
    assert threading.active_count() == before
