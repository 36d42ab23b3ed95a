"""The same job on Ray: actors supervise the processes that hold the networks."""

import threading
from contextlib import closing

import pytest

from labeling.backends.load import load_captioner
from labeling.build import label_part, refuse_missing_gpus, with_absolute_paths
from labeling.config import CaptionConfig, Executor, LabelingConfig, StageWorkers, Workers
from labeling.errors import DeviceError, StageFailed
from labeling.execution.network_job import NetworkJob
from labeling.execution.ray_pools import RayPools
from labeling.execution.run import run_job
from labeling.sdd.schema import Caption
from labeling.sdd.shards import ShardStore
from labeling.stages.caption import CaptionStage
from labeling.steps import chain_stages
from tests.factories import downloaded, image
from tests.faulty_stage import FaultyConfig, FaultyStage, RendezvousStage
from tests.processes import PATIENCE_S

SHARDS = [f"shard-{n:05d}" for n in range(4)]
WORKERS = Workers(count=2, batch_size=4, batch_deadline_s=PATIENCE_S)


def job(root, config):
    (step,) = chain_stages([(FaultyStage(config), "")])
    return NetworkJob(step=step, root=str(root), workers=WORKERS, run="run", torch_threads=1)


@pytest.fixture
def dataset(tmp_path):
    for n, shard in enumerate(SHARDS):
        urls = [f"good {n}-{i}" for i in range(10)]
        urls[3], urls[7] = "exit", "raise"
        downloaded(tmp_path, [image(i, b"", url) for i, url in enumerate(urls, start=1)], shard)
    return tmp_path


@pytest.mark.usefixtures("ray_cluster")
def test_each_bad_row_costs_itself_and_each_shard_is_made_once(dataset):
    faulty, shards = job(dataset, FaultyConfig()), SHARDS[:2]
    reports = run_job(faulty, shards, WORKERS, Executor.RAY)
    assert [r.shard for r in reports] == shards
    assert all(r.counts == {"kept": 8, "quarantined": 1, "failed": 1} for r in reports)
    store = ShardStore(str(dataset))
    kept = [row.caption for shard in shards for row in store.read(Caption, ("captions",), shard)]
    assert kept == [f"good {n}-{i}" for n in range(2) for i in range(10) if i not in (3, 7)]
    faulty.lock = threading.Lock()  # no worker could unpickle it
    again = run_job(faulty, shards, WORKERS, Executor.RAY)
    assert [(r.shard, r.counts, r.reused) for r in again] == [(r.shard, r.counts, True) for r in reports]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("kept", "starts_later"), [({"captions"}, 0), ((), 1)], ids=["kept", "not kept"])
def test_a_kept_worker_starts_its_network_once(tmp_path, kept, starts_later):
    for n, shard in enumerate(SHARDS[:2]):
        downloaded(tmp_path, [image(i, b"", f"good {n}-{i}") for i in range(1, 4)], shard)
    one = Workers(batch_deadline_s=PATIENCE_S)
    (step,) = chain_stages([(FaultyStage(FaultyConfig()), "")])
    with closing(RayPools(kept)) as pools:
        starts = []
        for shard in SHARDS[:2]:
            part = NetworkJob(step=step, root=str(tmp_path), workers=one, run="run", torch_threads=1)
            (report,) = run_job(part, [shard], one, Executor.RAY, pools=pools)
            starts.append(report.starts)
        assert starts == [1, starts_later]


@pytest.mark.usefixtures("ray_cluster")
def test_a_relative_root_is_that_of_the_driver(dataset, monkeypatch):
    monkeypatch.chdir(dataset)
    config = with_absolute_paths(
        LabelingConfig(root=".", executor=Executor.RAY, workers=StageWorkers(captions=WORKERS))
    )
    (step,) = chain_stages([(FaultyStage(FaultyConfig()), "")])
    (report,) = label_part(config, step, SHARDS[:1], "run")
    assert report.counts == {"kept": 8, "quarantined": 1, "failed": 1}


@pytest.mark.usefixtures("ray_cluster")
def test_a_stage_that_cannot_start_fails_and_does_not_loop(dataset):
    with pytest.raises(StageFailed, match=r"exit code 5.*3 more shards"):
        run_job(job(dataset, FaultyConfig(start="dies")), SHARDS, WORKERS, Executor.RAY)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("gpus", "cards"),
    [(None, {"0", "1"}), (0.0, {"no card reserved"})],
    ids=["by default a card each", "no card reserved"],
)
def test_workers_are_numbered_and_each_sees_the_card_that_it_reserved(dataset, gpus, cards):
    workers = Workers(count=2, cpus=0.5, gpus=gpus)
    (step,) = chain_stages([(RendezvousStage(str(dataset / "met"), workers.count), "")])
    run_job(
        NetworkJob(step=step, root=str(dataset), workers=workers, run="run", torch_threads=1),
        SHARDS,
        workers,
        Executor.RAY,
    )
    store = ShardStore(str(dataset))
    rows = [row.caption for shard in SHARDS for row in store.read(Caption, ("captions",), shard)]
    numbers, visible = zip(*(row.split(": ") for row in rows), strict=True)
    assert set(numbers) == {"0", "1"}
    assert set(visible) == cards


@pytest.mark.usefixtures("ray_cluster")
def test_a_build_that_asks_for_more_gpus_than_a_node_has_is_refused(dataset):
    steps = chain_stages([(CaptionStage(CaptionConfig(), load_captioner), "")])
    asked = LabelingConfig(root=str(dataset), executor=Executor.RAY, workers=StageWorkers(captions=Workers(gpus=3.0)))
    with pytest.raises(DeviceError, match=r"captions\.gpus=3 is more than any node of the Ray cluster has \(2\)"):
        refuse_missing_gpus(asked, steps)
    refuse_missing_gpus(asked.model_copy(update={"workers": StageWorkers(captions=Workers(gpus=2.0))}), steps)
