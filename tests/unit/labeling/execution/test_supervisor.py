"""The five guarantees: whatever a row does, every other row gets its outcome, and the row gets a verdict."""

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from labeling.config import Executor, Workers
from labeling.errors import StageFailed, StageInterrupted
from labeling.execution.journal import journal_path, read_journal
from labeling.execution.network_job import NetworkJob
from labeling.execution.progress import Progress, ProgressCounter
from labeling.execution.run import run_job
from labeling.sdd.schema import Caption
from labeling.sdd.shards import ShardStore
from labeling.steps import Step, chain_stages
from tests.factories import downloaded, image
from tests.faulty_stage import FaultyConfig, FaultyStage, GroupedFaultyStage, OverlappedFaultyStage
from tests.processes import PATIENCE_S, wait_until

SHARD = "shard-00000"


def faulty_job(root, urls, workers=None, config=None, run="run"):
    """A job over one downloaded shard whose rows have these URLs."""
    if not (Path(root) / "images").exists():
        downloaded(root, [image(i, b"", url) for i, url in enumerate(urls, start=1)])
    return NetworkJob(
        step=step(config or FaultyConfig()),
        root=str(root),
        workers=workers or Workers(batch_size=4, batch_deadline_s=PATIENCE_S),
        run=run,
        torch_threads=1,
    )


def step(config: FaultyConfig) -> Step:
    (only,) = chain_stages([(FaultyStage(config), "")])
    return only


def made(job, shard=SHARD):
    try:
        return job.make(shard)
    finally:
        job.close()


def captions(root):
    return [row.caption for row in ShardStore(str(root)).read(Caption, ("captions",), SHARD)]


def reasons(root):
    verdicts = ShardStore(str(root)).verdicts("captions", SHARD)
    return {int.from_bytes(key, "big"): (v.state, v.reason) for key, v in verdicts.items()}


def test_every_row_has_an_outcome(tmp_path):
    urls = [f"good {i}" for i in range(10)]
    report = made(faulty_job(tmp_path, urls))
    assert (report.counts, report.deaths, report.error) == ({"kept": 10}, 0, None)
    assert captions(tmp_path) == urls


@pytest.mark.parametrize(
    ("bad", "verdict", "deaths"),
    [
        ("raise", ("failed", "ValueError"), 0),
        ("unreadable", ("failed", "ValueError"), 0),
        ("boring", ("dropped", "boring"), 0),
        ("exit", ("quarantined", "crash"), 3),
        ("segfault", ("quarantined", "crash"), 2),
        ("poison", ("quarantined", "crash"), 3),
    ],
)
def test_a_bad_row_costs_itself_only(tmp_path, bad, verdict, deaths):
    urls = [f"good {i}" for i in range(1, 12)]
    urls[5] = bad
    report = made(faulty_job(tmp_path, urls))
    assert reasons(tmp_path) == {6: verdict}
    assert captions(tmp_path) == [u for u in urls if u != bad]
    assert report.deaths == deaths


def test_a_dropped_row_may_leave_something_in_the_file(tmp_path):
    made(faulty_job(tmp_path, ["good 1", "boring", "boring remembered"]))
    assert reasons(tmp_path) == {2: ("dropped", "boring"), 3: ("dropped", "boring")}
    assert captions(tmp_path) == ["good 1"]
    with ShardStore(str(tmp_path)).open_file("captions", SHARD) as file:
        assert file.read(["caption"])["caption"].to_pylist() == ["good 1", None, "boring remembered"]


def test_a_hang_that_holds_the_interpreter_lock_ends_at_the_deadline(tmp_path, caplog):
    """Also where the next batch is too large for the pipe, so that it cannot be sent: that is no crash."""
    large = f"good {'x' * 1_000_000}"
    report = made(faulty_job(tmp_path, ["good 1", "hang", large], Workers(batch_size=2, batch_deadline_s=2)))
    assert reasons(tmp_path) == {2: ("quarantined", "hang")}
    assert (report.counts, report.deaths) == ({"kept": 2, "quarantined": 1}, 2)
    ended = [text for text in caplog.messages if "process ended" in text]
    assert ended == ["captions: the worker process ended (no answer within 2 s)"] * 2


def test_a_network_that_loads_is_shown_as_loading(tmp_path):
    loaded = tmp_path / "loaded"
    job = faulty_job(tmp_path, ["good 1", "good 2"], config=FaultyConfig(start=f"waits for {loaded}"))
    look = ProgressCounter(ShardStore(str(tmp_path)), "captions", [SHARD]).count
    making = threading.Thread(target=made, args=(job,))
    making.start()
    try:
        wait_until("loading", lambda: look().loading, making.is_alive)
        assert look() == Progress(done=0, loading=1)
    finally:
        loaded.touch()
        making.join()
    assert look() == Progress(done=2)


def job_of(stage, root, urls):
    (only,) = chain_stages([(stage(FaultyConfig()), "")])
    return replace(faulty_job(root, urls), step=only)


def test_rows_of_a_kind_share_batches_and_the_file_keeps_their_order(tmp_path):
    urls = ["a", "bb", "c", "dd", "e", "f", "gg", "hh", "i"]
    assert made(job_of(GroupedFaultyStage, tmp_path, urls)).counts == {"kept": 9}
    short, long = "a c e f", "bb dd gg hh"
    assert captions(tmp_path) == [short, long, short, long, short, short, long, long, "i"]


def test_a_row_that_kills_among_others_of_its_kind_costs_itself_only(tmp_path):
    urls = ["good", "bad one", "exit", "unreadable", "kind", "raise", "more", "good", "and others"]
    report = made(job_of(GroupedFaultyStage, tmp_path, urls))
    assert (report.counts, report.deaths) == ({"kept": 6, "quarantined": 1, "failed": 2}, 3)
    assert reasons(tmp_path) == {3: ("quarantined", "crash"), 4: ("failed", "ValueError"), 6: ("failed", "ValueError")}


@pytest.mark.parametrize(
    ("bad", "verdict", "deaths"),
    [
        ("fails late", ("failed", "ValueError"), 0),
        ("too large", ("failed", "MemoryError"), 0),
        ("dies late", ("quarantined", "crash"), 3),
        ("raise", ("failed", "ValueError"), 0),
    ],
)
def test_a_row_that_fails_beside_the_network_costs_itself_only(tmp_path, bad, verdict, deaths):
    urls = [f"good {i}" for i in range(1, 12)]
    urls[5] = bad
    report = made(job_of(OverlappedFaultyStage, tmp_path, urls))
    assert reasons(tmp_path) == {6: verdict}
    assert captions(tmp_path) == [url for url in urls if url != bad]
    assert report.deaths == deaths


def test_results_are_completed_while_the_network_computes_the_next_batch(tmp_path):
    urls = ["waits for the next batch", *(f"good {i}" for i in range(7))]
    report = made(job_of(OverlappedFaultyStage, tmp_path, urls))
    assert (report.counts, report.deaths) == ({"kept": 8}, 0)


def test_neighbouring_rows_that_kill_are_each_found(tmp_path):
    urls = ["exit", "good 1", "raise", "exit", "good 2", "segfault", "good 3"]
    made(faulty_job(tmp_path, urls))
    assert {n: state for n, (state, _) in reasons(tmp_path).items()} == {
        1: "quarantined",
        3: "failed",
        4: "quarantined",
        6: "quarantined",
    }
    assert captions(tmp_path) == ["good 1", "good 2", "good 3"]


def test_a_batch_that_does_not_fit_is_halved_and_the_size_is_kept(tmp_path):
    job = faulty_job(tmp_path, [f"good {i}" for i in range(40)], Workers(batch_size=16), FaultyConfig(memory_rows=3))
    report = made(job)
    assert report.counts == {"kept": 40}
    assert job.process.batch_limit == 2


def test_a_row_that_does_not_fit_alone_is_failed(tmp_path):
    made(faulty_job(tmp_path, ["good 1", "good 2"], config=FaultyConfig(memory_rows=0)))
    assert reasons(tmp_path) == {1: ("failed", "MemoryError"), 2: ("failed", "MemoryError")}


def test_a_killed_process_costs_no_row(tmp_path):
    urls = [f"good {i}" for i in range(40)]
    job = faulty_job(tmp_path, urls, config=FaultyConfig(seconds_per_row=0.02))

    def kill_once():
        journal = journal_path(ShardStore(str(tmp_path)).root, "captions", SHARD)
        wait_until("8 rows", lambda: read_journal(journal).done > 8)
        os.kill(job.process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_once, daemon=True)
    killer.start()
    report = made(job)
    killer.join()
    assert (report.counts, report.deaths) == ({"kept": 40}, 1)
    assert captions(tmp_path) == urls


def test_a_stopped_stage_ends_without_suspects(tmp_path):
    urls = [f"good {i}" for i in range(40)]
    workers, stop = Workers(batch_size=1), threading.Event()
    path = journal_path(ShardStore(str(tmp_path)).root, "captions", SHARD)

    def stop_soon():
        wait_until("a row", lambda: read_journal(path).done)
        stop.set()

    job = faulty_job(tmp_path, urls, workers, FaultyConfig(seconds_per_row=0.5))
    threading.Thread(target=stop_soon, daemon=True).start()
    with pytest.raises(StageFailed, match="stopped"):
        run_job(job, [SHARD], workers, Executor.HERE, stop)
    left = json.loads(path.read_text())
    assert 0 < left["done"] < 40
    assert (left["in_flight"], left["suspects"], left["lone_deaths"]) == ([], [], {})
    assert made(faulty_job(tmp_path, urls, config=FaultyConfig(seconds_per_row=0.0))).counts == {"kept": 40}


def test_an_interrupt_at_the_terminal_does_not_reach_the_worker(tmp_path):
    job = faulty_job(tmp_path, ["good 1"])
    job.make(SHARD)
    assert os.getpgid(job.process.pid) != os.getpgid(0)
    job.close()


def test_rows_in_flight_at_the_death_of_the_supervisor_are_replayed_and_kept(tmp_path):
    job = faulty_job(tmp_path, [f"good {i}" for i in range(6)])
    path = journal_path(ShardStore(str(tmp_path)).root, "captions", SHARD)
    keys = [(i).to_bytes(16, "big").hex() for i in range(1, 5)]
    path.parent.mkdir(parents=True)
    path.write_text(
        json.dumps(
            {
                "run": "earlier",
                "done": 0,
                "attempts": 4,
                "in_flight": keys[:1],
                "suspects": keys,
                "lone_deaths": {keys[0]: 1},
                "lone_orphans": {keys[0]: 1},
                "causes": dict.fromkeys(keys, "its supervisor died"),
            }
        )
    )
    report = made(job)
    assert (report.counts, report.error) == ({"kept": 6}, None)
    assert not path.exists()


def test_a_finished_shard_is_reused_and_starts_no_process(tmp_path):
    made(faulty_job(tmp_path, ["good 1"]))
    again = faulty_job(tmp_path, ["good 1"], config=FaultyConfig())
    report = made(again)
    assert report.reused
    assert again.process is None


def test_a_file_of_other_settings_is_refused_unless_it_may_be_replaced(tmp_path):
    made(faulty_job(tmp_path, ["good 1"]))
    other = faulty_job(tmp_path, ["good 1"], config=FaultyConfig(memory_rows=7))
    assert "labeling.stale=rebuild" in made(other).error
    other.replace = True
    assert not made(other).reused


@pytest.mark.parametrize(
    ("start", "says"),
    [("raises", "no device"), ("dies", "exit code 5"), ("does not fit", "labeling.keep_networks=false keeps one")],
)
def test_a_network_that_does_not_load_ends_the_stage(tmp_path, start, says):
    job = faulty_job(tmp_path, ["good 1"], config=FaultyConfig(start=start))
    with pytest.raises(StageFailed, match=says):
        run_job(job, [SHARD], Workers(), Executor.HERE)
    assert ShardStore(str(tmp_path)).stamp("captions", SHARD) is None


@pytest.mark.parametrize(
    ("results", "says"),
    [
        ("too few", "0 results for 1 images"),
        ("no weights", "no weights in /nowhere"),
        ("no weights to prepare", "no weights in /nowhere"),
    ],
)
def test_an_error_of_the_stage_ends_it_and_fails_no_row(tmp_path, results, says):
    job = faulty_job(tmp_path, ["good 1"], config=FaultyConfig(results=results))
    with pytest.raises(StageFailed, match=says):
        run_job(job, [SHARD], Workers(), Executor.HERE)


@pytest.mark.parametrize("device", ["dies", "is poisoned"])
def test_a_device_that_fails_every_row_ends_the_stage_without_suspects(tmp_path, device):
    urls = [f"good {i}" for i in range(4)]
    job = faulty_job(tmp_path, urls, Workers(batch_size=1), FaultyConfig(device=device))
    assert "It is not the images" in made(job).error
    report = made(faulty_job(tmp_path, urls, Workers(batch_size=1), run="when it works again"))
    assert (report.counts, report.deaths) == ({"kept": 4}, 0)


def in_the_way_of(root, path):
    """Make a folder where a file must be, so that the storage raises an error of its own."""
    (root / path).mkdir(parents=True)


def test_an_error_of_the_storage_is_retryable(tmp_path):
    job = faulty_job(tmp_path, ["good 1"])
    in_the_way_of(tmp_path, f"work/captions/{SHARD}.lock")
    with pytest.raises(StageInterrupted, match="IsADirectoryError"):
        run_job(job, [SHARD], Workers(), Executor.HERE)
    (tmp_path / f"work/captions/{SHARD}.lock").rmdir()
    (report,) = run_job(job, [SHARD], Workers(), Executor.HERE)
    assert report.counts == {"kept": 1}


def test_a_shard_that_failed_leaves_no_answers_for_the_next(tmp_path):
    """The journal of the first shard cannot be written while two batches are in flight."""
    journal = tmp_path / f"work/captions/.{SHARD}.json.tmp"
    failing = [f"blocks {journal}", *(f"good {number}" for number in range(2, 13))]
    job = faulty_job(tmp_path, failing, Workers(batch_size=4, batch_deadline_s=PATIENCE_S))
    downloaded(tmp_path, [image(number, b"", f"another {number}") for number in range(101, 105)], "shard-00001")
    try:
        assert "IsADirectoryError" in job.make(SHARD).error
        assert job.make("shard-00001").counts == {"kept": 4}
    finally:
        job.close()
    rows = ShardStore(str(tmp_path)).read(Caption, ("captions",), "shard-00001")
    assert [row.caption for row in rows] == [f"another {number}" for number in range(101, 105)]


def test_each_local_worker_has_a_number_of_its_own(tmp_path):
    shards = [SHARD, "shard-00001"]
    for number, shard in enumerate(shards):
        downloaded(tmp_path, [image(number, b"", "who")], shard)
    workers = Workers(count=2)
    run_job(faulty_job(tmp_path, [], workers), shards, workers, Executor.HERE)
    store = ShardStore(str(tmp_path))
    workers_seen = [verdict.detail for shard in shards for verdict in store.verdicts("captions", shard).values()]
    assert sorted(workers_seen) == ["worker 0", "worker 1"]


def test_an_error_that_is_not_retryable_is_raised_first(tmp_path):
    job = faulty_job(tmp_path, ["good 1"])
    in_the_way_of(tmp_path, f"work/captions/{SHARD}.lock")
    with pytest.raises(StageFailed, match=r"shard-00001\.parquet does not exist \(and 1 more shards\)") as raised:
        run_job(job, [SHARD, "shard-00001"], Workers(), Executor.HERE)
    assert not isinstance(raised.value, StageInterrupted)


def test_a_shard_that_another_build_holds_is_left_alone(tmp_path, monkeypatch):
    from labeling.sdd import lock

    monkeypatch.setattr(lock, "TIMEOUT_S", 0.1)
    job = faulty_job(tmp_path, ["good 1"])
    with lock.shard_lock(ShardStore(str(tmp_path)).root, "captions", SHARD):
        assert "another build" in made(job).error
