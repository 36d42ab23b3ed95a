"""Sample grids: they show the moving average of the weights, and nothing that is trained takes notice of them."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from model.config import ModelConfig
from model.subject_diffusion import SubjectDiffusion
from tests.factories import finished
from tests.small_model import IMAGE_PX, LATENT
from tests.training_run import made_up_rows, trained
from tests.unit.training.data.conftest import some_rows
from tests.unit.training.distributed.test_parallel import train_on_two_workers
from tests.unit.training.test_loop import MadeUpPlan, differing, read, tensors_at
from training.config import SamplesConfig, TrainingJob
from training.data.config import DataConfig
from training.data.plan import read_plan
from training.distributed.parallel import Replica, Worker
from training.errors import TrainingError
from training.loop import train
from training.monitoring.grid import Line, draw_grid
from training.monitoring.samples import SampleGrids, read_sample_rows
from training.monitoring.throughput import Stopwatch
from training.optimization.state import TrainingState

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers' schedulers on numpy 2
Jobs = Callable[..., TrainingJob]
SAMPLES = {"every": 2, "prompts": ["in the snow"], "sampling": {"scheduler": "DDIM", "steps": 2}}


def pictures(job: TrainingJob) -> dict[str, Image.Image]:
    folder = Path(job.training.out) / "samples"
    return {path.name: Image.open(path) for path in sorted(folder.glob("*"))}


def state_of(job: TrainingJob) -> TrainingState:
    net = SubjectDiffusion.from_base(job.model)
    return TrainingState(Replica(net, job.training.strategy, Worker()), job.training)


def drawn(state: TrainingState, job: TrainingJob) -> bytes:
    """The grid's file."""
    net = state.replica.net
    SampleGrids(lambda: made_up_rows(net), net, job.training)(state, 1, Shown())
    return (Path(job.training.out) / "samples" / "step-00000001.png").read_bytes()


class Shown:
    """Metrics that nobody reads."""

    def add_picture(self, name: str, picture: Image.Image, step: int) -> None:
        assert picture.mode == "RGB"


def shaken(tensors: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.add_(0.05 * torch.randn_like(tensor))


def test_a_grid_every_k_steps_and_at_the_end_and_the_same_weights_as_without(job: Jobs, tmp_path):
    settings = {"steps": 3, "checkpoint_every": 3, "log_every": 1}
    with_grids, without = job(**settings, samples=SAMPLES), job(**settings, out=str(tmp_path / "without"))
    trained(with_grids)
    trained(without)
    assert differing(tensors_at(with_grids, 3), tensors_at(without, 3)) == []
    found = pictures(with_grids)
    assert list(found) == ["step-00000002.png", "step-00000003.png"]
    assert pictures(without) == {}
    for picture in found.values():
        assert picture.width == 3 * (IMAGE_PX + 8)
        assert picture.height > 2 * (IMAGE_PX + 8)
    board = b"".join(path.read_bytes() for path in (Path(with_grids.training.out) / "tensorboard").iterdir())
    assert board.count(b"samples") == 2


def test_a_job_that_goes_on_draws_the_same_grids(job: Jobs, tmp_path):
    settings = {"checkpoint_every": 2, "samples": SAMPLES}
    whole = job(**settings, steps=4)
    trained(whole)
    begun = job(**settings, steps=2, out=str(tmp_path / "begun"))
    trained(begun)
    trained(job(**settings, steps=4, out=str(tmp_path / "begun")), resume=True)
    name = "step-00000004.png"
    assert pictures(whole)[name].tobytes() == pictures(begun)[name].tobytes()


def test_it_is_the_mean_that_is_shown(job: Jobs):
    one = job(samples=SAMPLES)
    state = state_of(one)
    first = drawn(state, one)
    shaken(state.replica.weights)
    assert drawn(state, one) == first
    shaken(state.ema.tensors)
    assert drawn(state, one) != first


def test_random_numbers_go_on_as_if_there_had_been_no_grid(job: Jobs):
    one = job(samples=SAMPLES)
    state = state_of(one)
    before = torch.get_rng_state()
    drawn(state, one)
    assert torch.equal(torch.get_rng_state(), before)


def new_net(one: TrainingJob) -> SubjectDiffusion:
    torch.manual_seed(1)
    return SubjectDiffusion.from_base(one.model)


def run_with_rows(one: TrainingJob, rows, net=None):
    net = net or new_net(one)
    train(net, one, MadeUpPlan(), lambda numbers: read(net, numbers), Worker(), rows=rows)


def test_what_hinders_a_grid_does_not_hinder_training(job: Jobs, tmp_path):
    def gone():
        raise OSError("the store does not answer")

    one = job(steps=2, checkpoint_every=2, samples=SAMPLES)
    run_with_rows(one, gone)
    assert pictures(one) == {}
    broken = job(steps=2, checkpoint_every=2, samples=SAMPLES, out=str(tmp_path / "broken"))
    net = new_net(broken)
    net.vae.decoder.double()  # fails when the images are decoded, in the middle
    run_with_rows(broken, lambda: made_up_rows(net), net)
    assert pictures(broken) == {}
    plain = job(steps=2, checkpoint_every=2, out=str(tmp_path / "plain"))
    run_with_rows(plain, None)
    assert differing(tensors_at(broken, 2), tensors_at(plain, 2)) == []


def test_a_mistake_in_the_code_is_not_hidden(job: Jobs):
    with pytest.raises(AttributeError):
        run_with_rows(job(steps=2, samples=SAMPLES), lambda: [None])


def test_settings_that_cannot_be_are_refused_before_training(job: Jobs):
    with pytest.raises(TrainingError, match=r"training\.samples\.sampling\.scheduler='Best'"):
        run_with_rows(job(samples={"every": 2, "sampling": {"scheduler": "Best"}}), list)
    with pytest.raises(TrainingError, match=r"scheduler='KarrasVe' does not sample by itself"):
        run_with_rows(job(samples={"every": 2, "sampling": {"scheduler": "KarrasVe"}}), list)
    with pytest.raises(TrainingError, match="1500"):
        run_with_rows(job(samples={"every": 2, "sampling": {"scheduler": "DDIM", "steps": 1500}}), list)
    with pytest.raises(ValidationError, match="is not supported here"):
        SamplesConfig.model_validate({"sampling": {"interpolation": {"alpha": 0.5}}})


def rows_of(root: Path, job: TrainingJob, rows: int):
    training = job.training.model_copy(
        update={
            "data": job.training.data.model_copy(update={"dataset": str(root)}),
            "samples": SamplesConfig(rows=rows),
        }
    )
    net = SubjectDiffusion.from_base(job.model)
    return read_sample_rows(read_plan(training.data, 0), training, ModelConfig.model_validate(job.model), net)


def test_rows_are_the_same_each_time_and_of_each_number_of_subjects(job: Jobs, tmp_path):
    finished(tmp_path / "data", some_rows(60))
    one, other = rows_of(tmp_path / "data", job(), 4), rows_of(tmp_path / "data", job(), 4)
    assert [len(row.labels) for row in one] == [1, 1, 2, 2]
    for row, same in zip(one, other, strict=True):
        assert row.caption == same.caption
        assert row.labels == same.labels
        assert np.array_equal(row.sample.subject_images, same.sample.subject_images)
        assert row.sample.subject_images.shape == (len(row.labels), 28, 28, 3)
        assert row.sample.masks.shape == (len(row.labels), LATENT, LATENT)
        assert all(label in row.caption for label in row.labels)


def test_poisoned_rows_are_passed_over(job: Jobs, tmp_path):
    rows = some_rows(30)
    finished(tmp_path / "data", [replace(row, image=b"no image") if n < 28 else row for n, row in enumerate(rows)])
    assert len(rows_of(tmp_path / "data", job(), 4)) == 2
    finished(tmp_path / "poisoned", [replace(row, image=b"no image") for row in rows])
    assert rows_of(tmp_path / "poisoned", job(), 4) == []


def test_a_grid_holds_every_picture_in_its_place():
    colours = [(200, 10, 10), (10, 200, 10), (10, 10, 200), (200, 200, 10)]
    lines = [
        Line(
            np.full((count, 28, 28, 3), 99, np.uint8),
            ["dog"] * count,
            "a " + 99 * "long ",
            [Image.new("RGB", (64, 64), colour) for colour in colours[2 * count - 2 : 2 * count]],
        )
        for count in (1, 2)
    ]
    sheet = np.asarray(draw_grid(["its caption", "in the snow"], lines))
    places = [np.flatnonzero((sheet == colour).all(axis=2).any(axis=1)) for colour in colours]
    assert [len(rows) for rows in places] == [64] * 4
    assert (places[0] == places[1]).all()
    assert places[0][-1] < places[2][0]
    columns = [np.flatnonzero((sheet == colour).all(axis=2).any(axis=0)) for colour in colours]
    assert (columns[0] == columns[2]).all()
    assert columns[0][-1] < columns[1][0]
    references = (sheet == 99).all(axis=2)
    assert references[:, : columns[0][0]].sum() == references.sum() > 64 * 64


def test_the_time_of_a_grid_is_nobodys(monkeypatch):
    now = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(now)))
    stopwatch = Stopwatch(ModelConfig(), DataConfig(dataset="sdd"), torch.device("cpu"))
    with stopwatch.pause():
        [next(now) for _ in range(100)]
    stopwatch.count_batch(4, 1)
    assert stopwatch.speed(1).seconds < 5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_workers_draw_one_grid(job: Jobs, tmp_path, processes, strategy):
    alone = job(steps=2, samples=SAMPLES, accumulation=2)
    trained(alone)
    together = job(steps=2, samples=SAMPLES, strategy=strategy, out=str(tmp_path / "together"))
    train_on_two_workers(processes, together, tmp_path / "meeting")
    (name,) = pictures(together)
    one, two = (np.asarray(pictures(run)[name]).astype(int) for run in (alone, together))
    assert np.abs(one - two).max() <= 8
