"""The command that trains, on a dataset as `build` leaves it, in this process."""

import re

import pytest

from infra.config import load
from infra.lock import file_lock
from labeling.sdd.schema import SddRow
from labeling.sdd.shards import ShardStore
from tests.factories import finished
from tests.small_model import two_level_config
from tests.unit.training.checkpoints.test_store import flip
from tests.unit.training.data.conftest import some_rows
from training import job
from training.checkpoints.record import RECORD
from training.config import TrainingConfig, TrainingJob
from training.data.config import DataConfig
from training.data.errors import DatasetError, StorageFault
from training.distributed.global_batch import warn_if_batch_differs
from training.launch import main
from training.monitoring.metrics import read_metrics

SETTINGS = """
[model]
base = "{base}/base"
image_encoder = "{base}/image_encoder"
frozen_precision = "float32"
attention_downsampling = [1, 2]

[training]
out = "{out}/run"
steps = 2
gpu = false
precision = "float32"
log_every = 1
checkpoint_every = 1

[training.samples]
rows = 1
prompts = []
sampling = {{ scheduler = "DDIM", steps = 1 }}

[training.data]
dataset = "{out}/dataset"
image_px = 32
latent_downsampling = 2
subject_px = 28
batch_size = 4
processes = 0
"""


@pytest.fixture
def settings(base_folder, tmp_path) -> str:
    finished(tmp_path / "dataset", some_rows(20))
    path = tmp_path / "job.toml"
    two_level_config(base_folder / "two_levels")
    path.write_text(SETTINGS.format(base=base_folder / "two_levels", out=tmp_path))
    return str(path)


def test_trains_goes_on_and_refuses_to_mix_runs(settings, tmp_path, capsys):
    assert main(["--config", settings, "--here"]) == 0
    assert main(["--config", settings, "--here"]) == 2
    assert "--resume latest to continue from it" in capsys.readouterr().err
    more = ["--config", settings, "--here", "--resume", "latest", "--set", "training.steps=3"]
    assert main([*more, "--set", "training.seed=1"]) == 2
    assert "training.seed was 0, is 1" in capsys.readouterr().err
    assert main(more) == 0
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3]
    assert [path.name for path in sorted((tmp_path / "run" / "samples").iterdir())] == [
        "step-00000002.png",
        "step-00000003.png",
    ]


def test_a_missing_dataset_is_named_before_any_network_is_loaded(tmp_path, capsys):
    given = ["--set", f"training.out={tmp_path}/run", "--set", f"training.data.dataset={tmp_path}/nothing"]
    assert main(["--config", "paper", "--here", "--set", "training.gpu=false", *given]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path}/nothing/sdd has no shards")
    assert not (tmp_path / "run").exists()


def test_a_dataset_without_rows_is_named_before_any_network_is_loaded(tmp_path, capsys):
    ShardStore(str(tmp_path / "empty")).write("sdd", "shard-00000", [], SddRow, "stamp")
    given = ["--set", f"training.out={tmp_path}/run", "--set", f"training.data.dataset={tmp_path}/empty"]
    assert main(["--config", "paper", "--here", "--set", "training.gpu=false", *given]) == 2
    assert "the 1 shards of" in capsys.readouterr().err


def test_goes_on_from_the_checkpoint_that_is_named_where_that_is_further(settings, tmp_path, capsys):
    further = ["--config", settings, "--here", "--set", f"training.out={tmp_path / 'further'}"]
    assert main([*further, "--resume", "latest", "--set", "training.steps=3"]) == 0
    assert "training starts at step 0" in capsys.readouterr().err
    assert main(["--config", settings, "--here"]) == 0
    path = tmp_path / "further" / "checkpoints" / "step-00000003"
    more = ["--config", settings, "--here", "--resume", str(path), "--set", "training.steps=4"]
    assert main([*more, "--set", "training.accumulation=2"]) == 0
    said = capsys.readouterr().err
    assert "from step 3 to 4" in said
    assert "a step now has 2 batches instead of 1" in said


def test_a_damaged_checkpoint_is_not_trained_on_and_the_one_before_it_is(settings, tmp_path, capfd):
    assert main(["--config", settings, "--here"]) == 0
    good, latest = sorted((tmp_path / "run" / "checkpoints").iterdir())
    flip(latest / "__0_0.distcp")
    go_on = ["--config", settings, "--here", "--set", "training.steps=3", "--resume"]
    assert main([*go_on, "latest"]) == 2
    assert f"{good} is intact: --resume latest-good continues from it" in "".join(capfd.readouterr())
    assert main([*go_on, str(latest)]) == 2
    (latest / RECORD).write_text("{}")
    assert main([*go_on, "latest"]) == 2
    assert "record.json is damaged: step: Field required" in "".join(capfd.readouterr())
    assert main([*go_on, "latest-good"]) == 0
    assert "from step 1 to 3" in "".join(capfd.readouterr())
    names = [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert names == ["step-00000001", "step-00000002", "step-00000002.damaged-1", "step-00000003"]


def test_two_jobs_do_not_share_a_folder(settings, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(job, "LOCK_TIMEOUT_S", 0.1)
    with file_lock(tmp_path / "run" / job.LOCK, 0.0, AssertionError()):
        assert main(["--config", settings, "--here"]) == 2
    assert f"another job is training in {tmp_path / 'run'}" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_another_dataset_is_refused_before_anything_is_loaded(settings, tmp_path, capsys):
    assert main(["--config", settings, "--here"]) == 0
    finished(tmp_path / "other", some_rows(21))
    other = ["--set", f"training.data.dataset={tmp_path / 'other'}"]
    assert main(["--config", settings, "--here", "--resume", "latest", *other]) == 2
    assert "was trained on another dataset" in capsys.readouterr().err


def test_a_dataset_that_is_not_there_ends_with_2_and_one_line(settings, tmp_path, capsys):
    assert main(["--config", settings, "--here", "--set", f"training.data.dataset={tmp_path / 'nowhere'}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert "nowhere" in said


def test_ray_tries_again_what_another_attempt_may_not_meet(settings, tmp_path):
    launch = job.Launch(load(TrainingJob, settings), None, "launch")
    shard, noted = tmp_path / "dataset/sdd/shard-00000.parquet", tmp_path / "run/ray/launch.error"
    damaged = shard.read_bytes()[:-50]
    shard.unlink()
    shard.symlink_to(shard)  # a loop, which storage answers with an error of its own
    with pytest.raises(StorageFault):
        job.ray_worker({"launch": launch})
    assert not noted.exists()
    shard.unlink()
    shard.write_bytes(damaged)
    with pytest.raises(DatasetError):
        job.ray_worker({"launch": launch})
    assert "shard-00000.parquet is damaged" in noted.read_text()


def test_another_learning_rate_is_said_and_gone_on_with(settings, capfd):
    assert main(["--config", settings, "--here"]) == 0
    lower = ["--set", "training.steps=3", "--set", "training.optimizer.learning_rate=1e-6"]
    assert main(["--config", settings, "--here", "--resume", "latest", *lower]) == 0
    assert "the learning rate is now 1e-06 instead of 3e-05" in "".join(capfd.readouterr())


@pytest.mark.parametrize("setting", ["subject_px=36", "latent_downsampling=4"])
def test_sizes_that_are_not_the_networks_are_refused_by_name(settings, capsys, setting):
    assert main(["--config", settings, "--here", "--set", f"training.data.{setting}"]) == 2
    name, given = setting.split("=")
    size = {"subject_px": 28, "latent_downsampling": 2}[name]
    said = capsys.readouterr().err
    assert f"training.data.{name}={given}, but that of" in said
    assert f" is {size}: set it to {size}" in said


def test_a_tilde_is_the_home_folder(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base").mkdir()
    words = ["training.out=~/run", "model.base=~/base", 'model.subject.background="random"']
    given = load(TrainingJob, settings, [*words, "model.subject.backgrounds=~/pictures"])
    whole = job.with_absolute_paths(given)
    folders = whole.training.out, whole.model.base, whole.model.subject.backgrounds
    assert folders == tuple(str(tmp_path / name) for name in ("run", "base", "pictures"))


def test_what_is_written_is_not_put_where_ray_removes_it(settings, tmp_path, capsys, monkeypatch):
    copied = tmp_path / job.RAY_COPIES / "_ray_pkg_0"
    copied.mkdir(parents=True)
    monkeypatch.chdir(copied)
    assert main(["--config", settings, "--here", "--set", "training.out=out/train"]) == 2
    assert "training.out='out/train' is relative, and this job runs in a copy" in capsys.readouterr().err
    assert list(copied.iterdir()) == []


@pytest.mark.parametrize(
    ("workers", "processes", "enough"), [(1, 0, ""), (4, 2, ""), (3, 1, "streams=9"), (24, 2, "streams=48")]
)
def test_row_groups_that_several_processes_read_are_warned_of(workers, processes, enough, caplog):
    job.warn_if_row_groups_shared(DataConfig(dataset="sdd", processes=processes), workers)
    assert bool(caplog.text) == bool(enough)
    assert enough in caplog.text


@pytest.mark.parametrize(
    ("workers", "accumulation", "advice"),
    [
        (24, 1, ""),
        (8, 3, ""),
        (8, 1, "a step has 96 images .*--set training.accumulation=3 makes it 288"),
        (5, 1, "a step has 60 images .*--set training.accumulation=5 makes it 300"),
        (5, 5, "a step has 300 images .*no whole number of batches comes closer"),
        (48, 1, "a step has 576 images .*--set training.data.batch_size=6 makes it 288"),
    ],
)
def test_a_step_of_another_size_than_the_papers_is_warned_of(workers, accumulation, advice, caplog):
    paper = load(TrainingJob, "paper", [f"training.accumulation={accumulation}"]).training
    warn_if_batch_differs(paper, workers)
    assert bool(caplog.text) == bool(advice)
    assert re.search(advice, caplog.text)


def test_settings_that_name_no_size_of_a_step_are_not_warned_of(caplog):
    warn_if_batch_differs(TrainingConfig(data=DataConfig(dataset="sdd"), out="run"), 3)
    assert not caplog.text


def test_a_job_warns_of_its_size_before_it_trains(settings, capfd):
    assert main(["--config", settings, "--here", "--set", "training.images_per_step=8"]) == 0
    assert "--set training.accumulation=2 makes it 8" in "".join(capfd.readouterr())


def test_a_cluster_with_fewer_gpus_is_told_how_to_train_on_them(caplog):
    paper = load(TrainingJob, "paper").training
    job.warn_if_cluster_small(paper, {"CPU": 128, "GPU": 8})
    assert "need 24 GPUs, the cluster has 8" in caplog.text
    assert "--set training.workers=8 --set training.accumulation=3" in caplog.text


def test_a_setting_that_is_none_ends_with_2_and_a_guess(capsys):
    assert main(["--config", "paper", "--set", "training.step=3"]) == 2
    assert "did you mean steps?" in capsys.readouterr().err
