"""Training from a cache is training without it, but for rounding to float16; one that is not the job's is refused."""

import copy
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from labeling.sdd.schema import SddRow
from labeling.sdd.shards import ShardStore
from model.config import SubjectConfig
from model.subject_diffusion import SubjectDiffusion
from tests.factories import finished
from tests.small_model import IMAGE_PX, open_gates, small_config
from tests.unit.training.data.conftest import some_rows
from training.cache.job import make_cache
from training.cache.spec import _augmentation_settings, _subject_settings, cache_identity, open_cache
from training.config import TrainingJob
from training.data.config import AugmentationConfig, CacheConfig, CutoutResampling, DataConfig
from training.data.errors import CacheError, DatasetError
from training.data.loader import LoadedBatch, load_batches
from training.data.plan import read_plan
from training.distributed.parallel import Replica, Worker
from training.errors import TrainingError
from training.job import RAY_COPIES, Launch, run_worker
from training.monitoring.metrics import read_metrics
from training.monitoring.probe import identity_probe

ROWS, VIEWS = 12, 2
LONGEST_STEP = 2**-10
"""Of float16, relative: what rounding to it may change, twice."""
Jobs = Callable[..., TrainingJob]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset in two shards, one row of which cannot be decoded."""
    rows = some_rows(ROWS)
    rows[3] = dataclasses.replace(rows[3], image=rows[3].image[:-40])
    finished(tmp_path / "dataset", rows, rows_per_shard=8)
    return tmp_path / "dataset"


@pytest.fixture
def with_cache(job: Jobs, root: Path, tmp_path: Path) -> Jobs:
    """A job on that dataset, with or without a cache; settings of the data by name, of the job in `training`."""

    def made(cache: CacheConfig | None, training=None, **data) -> TrainingJob:
        settings = {
            "image_px": IMAGE_PX,
            "latent_downsampling": 2,
            "subject_px": 28,
            "batch_size": 4,
            "max_subjects": 2,
            "processes": 0,
        }
        config = DataConfig(dataset=str(root), cache=cache, **settings | data)
        return job(data=config, out=str(tmp_path / f"run-{cache}"), **training or {})

    return made


def files_of(root: Path) -> dict[str, int]:
    """The cache's files, and a number each that changes when it is written anew."""
    return {str(path.relative_to(root / "cache")): path.stat().st_ino for path in root.glob("cache/**/*.parquet")}


@pytest.fixture(scope="module")
def net(base_folder: Path) -> SubjectDiffusion:
    """The network of all these jobs, with adapters that act."""
    torch.manual_seed(0)
    return open_gates(SubjectDiffusion.from_base(small_config(base_folder, frozen_precision="float32")))


def loaded(job: TrainingJob, net: SubjectDiffusion, epochs: int = VIEWS) -> list[LoadedBatch]:
    """The batches of the first epochs, as a worker of the job has them."""
    data, plan = job.training.data, read_plan(job.training.data, job.training.seed)
    mean, numbers = net.image_encoder.mean.flatten().tolist(), range(epochs * plan.batches_per_epoch)
    return list(load_batches(plan, data, job.model, net.prompts, mean, numbers, open_cache(job, plan, net)))


def losses(job: TrainingJob) -> list[list[float]]:
    """Of each step of an epoch and a bit."""
    steps = read_plan(job.training.data, job.training.seed).batches_per_epoch + 2
    settings = {"steps": steps, "log_every": 1, "checkpoint_every": steps}
    job = job.model_copy(update={"training": job.training.model_copy(update=settings)})
    run_worker(Launch(job, None, "one"), Worker())
    kept = [[line["loss"], line["L_attn"]] for line in read_metrics(Path(job.training.out))]
    assert len(kept) == steps
    return kept


@pytest.mark.parametrize("features", [False, True])
def test_training_from_it_gives_the_same_losses(with_cache, features):
    online = losses(with_cache(None))
    job = with_cache(CacheConfig(views=VIEWS, features=features))
    make_cache(job, local=True)
    cached = losses(job)
    assert online != cached, "the cache was read"
    torch.testing.assert_close(torch.tensor(cached), torch.tensor(online), rtol=LONGEST_STEP, atol=LONGEST_STEP)


def test_what_it_holds_is_what_the_networks_say_of_the_same_pictures(with_cache, net):
    job = with_cache(CacheConfig(views=VIEWS, features=True))
    make_cache(job, local=True)
    online, cached = loaded(with_cache(None), net), loaded(job, net)
    assert [one.keys for one in cached] == [one.keys for one in online]
    for one, other in zip(cached, online, strict=True):
        assert one.skipped == other.skipped
        if other.batch is None:
            continue
        assert one.batch.images is None
        assert one.batch.subject_images is None
        features = net.image_encoder(other.batch.subject_images)
        for held, said in [
            (one.batch.latent_moments, net.latent_moments(other.batch.images)),
            (one.batch.image_features.cls, features.cls),
            (one.batch.image_features.patches, features.patches),
            (one.batch.masks, other.batch.masks),
            (one.batch.boxes, other.batch.boxes),
        ]:
            torch.testing.assert_close(held, said, rtol=LONGEST_STEP, atol=1e-5)
    assert sum(len(one.skipped) for one in cached) == VIEWS, "the row that cannot be decoded, in each epoch"
    assert {row.reason for one in cached for row in one.skipped} == {"truncated"}


def by_key(batches_: list[LoadedBatch], part: str) -> dict[bytes, torch.Tensor]:
    return {
        key: value
        for one in batches_
        if one.batch is not None
        for key, value in zip(one.keys, getattr(one.batch, part), strict=True)
    }


def test_after_the_last_view_comes_the_first(with_cache, net):
    job = with_cache(CacheConfig(views=VIEWS))
    make_cache(job, local=True)
    found = loaded(job, net, epochs=VIEWS + 1)
    third = len(found) // 3
    epochs = [by_key(found[start : start + third], "latent_moments") for start in range(0, len(found), third)]
    assert len(epochs[0]) == ROWS - 1
    assert all(torch.equal(epochs[0][key], epochs[2][key]) for key in epochs[0])
    assert any(not torch.equal(epochs[0][key], epochs[1][key]) for key in epochs[0])


def test_subjects_that_are_not_encoded_look_different_in_each_epoch(with_cache, net):
    job = with_cache(CacheConfig(views=1))
    make_cache(job, local=True)
    found = loaded(job, net, epochs=2)
    halves = found[: len(found) // 2], found[len(found) // 2 :]
    first, second = (by_key(half, "subject_images") for half in halves)
    assert len(first) == ROWS - 1
    assert all(not torch.equal(first[key], second[key]) for key in first)


def test_the_probe_swaps_features_as_it_swaps_pictures(with_cache, net):
    job = with_cache(CacheConfig(features=True))
    make_cache(job, local=True)
    cached, online = loaded(job, net, epochs=1)[:3], loaded(with_cache(None), net, epochs=1)[:3]
    strong = copy.deepcopy(net)  # its loss follows the pictures far beyond rounding
    with torch.no_grad():
        for weight in strong.trained_parts()["perceptrons"].parameters():
            weight.mul_(10)
    replica = Replica(strong, job.training.strategy, Worker())
    pairs = [(one.batch, other.batch) for one, other in zip(cached, online, strict=True) if one.rows > 1]
    probes = [[float(identity_probe(replica, batch, seed=0)) for batch in pair] for pair in pairs]
    assert all(abs(own) > 1e-5 for own, _ in probes)
    for held, said in probes:
        assert held == pytest.approx(said, rel=0.05)


def test_it_can_be_made_where_training_would_be_refused_its_output(with_cache, root, tmp_path, monkeypatch):
    copied = tmp_path / RAY_COPIES
    copied.mkdir()
    monkeypatch.chdir(copied)
    job = with_cache(CacheConfig())
    relative = job.training.model_copy(update={"out": "out/train"})
    make_cache(job.model_copy(update={"training": relative}), local=True)
    assert len(files_of(root)) == 2


# Whose it is


def refused(job: TrainingJob, net: SubjectDiffusion) -> str:
    with pytest.raises(CacheError) as error:
        open_cache(job, read_plan(job.training.data, job.training.seed), net)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_file_is_named_with_the_cure(with_cache, root, net):
    job = with_cache(CacheConfig(views=2))
    with pytest.raises(CacheError, match=r"view-000/shard-00000\.parquet is missing: run `subject-diffusion cache`"):
        run_worker(Launch(job, None, "one"), Worker())
    make_cache(job, local=True)
    assert "view-002/shard-00000.parquet is missing" in refused(with_cache(CacheConfig(views=3)), net)
    (root / "cache/default/view-001/shard-00001.parquet").unlink()
    assert "view-001/shard-00001.parquet is missing" in refused(job, net)


def test_that_of_other_settings_is_stale(with_cache, net):
    plain, full = CacheConfig(name="plain"), CacheConfig(name="full", features=True)
    for cache in (plain, full):
        make_cache(with_cache(cache), local=True)
    others = [
        with_cache(plain, training={"seed": 1}),
        with_cache(plain, max_subjects=1),
        with_cache(full, augmentation=AugmentationConfig(flip=0)),
        with_cache(full, augmentation=AugmentationConfig(resampling=CutoutResampling.ONE_STEP)),
        with_cache(CacheConfig(name="plain", features=True)),
    ]
    for job in others:
        assert f"cache/{job.training.data.cache.name}/view-000/shard-00000.parquet is stale" in (
            said := refused(job, net)
        )
        assert "run `subject-diffusion cache` with the settings of this job and --rebuild" in said


def test_settings_that_change_nothing_in_it_leave_it_as_it_is(with_cache, root):
    make_cache(with_cache(CacheConfig()), local=True)
    before = files_of(root)
    other = {"augmentation": AugmentationConfig(flip=0), "batch_size": 3, "row_groups_mb": 1}
    make_cache(with_cache(CacheConfig(), **other), local=True)
    assert files_of(root) == before


def test_a_setting_newer_than_caches_counts_only_where_it_is_not_the_default(with_cache, net):
    job = with_cache(CacheConfig(features=True))
    filled = job.model.model_copy(update={"subject": SubjectConfig(fill_cavities=True)})
    assert cache_identity(job.model_copy(update={"model": filled}), net) != cache_identity(job, net)
    assert _subject_settings(SubjectConfig()) == {"background": "white", "backgrounds": None, "square": True}
    assert "resampling" not in _augmentation_settings(AugmentationConfig())


@pytest.mark.parametrize("part", ["vae", "image_encoder"])
def test_that_of_other_weights_is_stale(with_cache, net, part):
    job = with_cache(CacheConfig(features=True))
    make_cache(job, local=True)
    other = copy.deepcopy(net)
    assert open_cache(job, read_plan(job.training.data, 0), other)
    with torch.no_grad():
        next(getattr(other, part).parameters()).flatten()[0] += 0.01
    assert "is stale" in refused(job, other)


def test_that_of_another_shard_is_stale_and_rebuilt_on_demand(with_cache, root, net):
    job = with_cache(CacheConfig())
    make_cache(job, local=True)
    before = files_of(root)
    ShardStore(str(root)).write("sdd", "shard-00001", some_rows(7), SddRow, "another", replace=True)
    assert "view-000/shard-00001.parquet is stale" in refused(job, net)
    with pytest.raises(CacheError, match=r"shard-00001\.parquet is stale"):
        make_cache(job, local=True)
    make_cache(job, local=True, rebuild=True)
    after = files_of(root)
    assert {name for name in after if after[name] != before[name]} == {"default/view-000/shard-00001.parquet"}
    assert loaded(job, net)


def test_one_made_anew_under_a_job_ends_it(with_cache, net):
    job = with_cache(CacheConfig())
    make_cache(job, local=True)
    plan = read_plan(job.training.data, 0)
    cache = open_cache(job, plan, net)
    make_cache(with_cache(CacheConfig(), training={"seed": 1}), local=True, rebuild=True)
    with pytest.raises(DatasetError, match=r"view-000/shard-\d+\.parquet was rewritten"):
        list(load_batches(plan, job.training.data, job.model, net.prompts, (0.5, 0.5, 0.5), [0], cache))


# How it is written


def test_a_run_that_was_stopped_makes_what_is_missing_alone(with_cache, root):
    job = with_cache(CacheConfig(views=2))
    make_cache(job, local=True)
    before = files_of(root)
    gone = root / "cache/default/view-001/shard-00001.parquet"
    gone.unlink()
    leftover = gone.with_name(f".{gone.name}.0123abcd.tmp")
    leftover.write_bytes(b"half")
    make_cache(job, local=True)
    after = files_of(root)
    assert before.keys() == after.keys()
    assert {name for name in after if after[name] != before[name]} <= {"default/view-001/shard-00001.parquet"}
    assert not leftover.exists()


def test_a_damaged_file_is_named_and_rebuilt_on_demand(with_cache, root, net):
    job = with_cache(CacheConfig())
    make_cache(job, local=True)
    path = root / "cache/default/view-000/shard-00000.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    assert "shard-00000.parquet is damaged" in refused(job, net)
    make_cache(job, local=True, rebuild=True)
    assert loaded(job, net)


def test_without_a_cache_in_the_settings_there_is_nothing_to_make(with_cache):
    with pytest.raises(TrainingError, match=r"^the settings name no cache\. Set training\.data\.cache\.views "):
        make_cache(with_cache(None), local=True)


def equal(one: LoadedBatch, other: LoadedBatch) -> bool:
    if one.batch is None or other.batch is None:
        return one.batch is other.batch
    features = [batch.image_features.patches for batch in (one.batch, other.batch)]
    return torch.allclose(*features) and torch.allclose(one.batch.latent_moments, other.batch.latent_moments)


@pytest.mark.slow
def test_processes_write_and_read_the_same(with_cache, root, net):
    """By itself where there are none, and by processes of its own."""
    found = []
    for processes in (0, 2):
        job = with_cache(CacheConfig(features=True, name=f"by-{processes}"), processes=processes)
        make_cache(job, local=True)
        found.append(loaded(job, net, epochs=1))
    assert all(map(equal, *found))


@pytest.mark.slow
def test_on_ray_it_is_the_same(with_cache, root, net, ray_cluster):
    job = with_cache(CacheConfig(features=True), training={"workers": 2})
    make_cache(job)
    assert len(files_of(root)) == 2
    there = loaded(job, net, epochs=1)
    shutil.rmtree(root / "cache")
    make_cache(job, local=True)
    assert all(map(equal, there, loaded(job, net, epochs=1)))
    with pytest.raises(TrainingError, match=r"^\S*shard-0000\d\.parquet is stale[^\n]*$"):
        make_cache(with_cache(CacheConfig(features=True), training={"seed": 1}))
