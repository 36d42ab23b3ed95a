"""The shape embedder's pictures, loss and recipe."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from miniature.networks.judge import load_embedder
from miniature.training import embedder, shape_embedder
from miniature.training.shape_embedder import ShapeConfig, ShapeData, ShapePhase, ShapeTask
from miniature.training.tiles import draw_tile
from miniature.training.train import main, train

PHASE = ShapePhase(steps=1, batch_size=6, learning_rate=1e-3, warmup_steps=1, tiles=2)
CONFIG = ShapeConfig(seed=5, everything=PHASE, validation_rounds=1)


@pytest.fixture(scope="module")
def task() -> ShapeTask:
    ((_, task),) = shape_embedder.Training(CONFIG).tasks()
    assert isinstance(task, ShapeTask)
    return task


@pytest.fixture(scope="module")
def batch(task: ShapeTask) -> tuple[Tensor, Tensor, Tensor]:
    return task.data((1, 0, 0), 6)


def test_a_tile_is_a_box_in_the_mean_colour_of_its_subject(task: ShapeTask) -> None:
    one = embedder.lone_scene((7, 1), task.data.pool[3])
    subject, box = one.scene.subjects[0], one.box(0)
    tile = draw_tile(one, 1).astype(float)
    rows, columns = np.mgrid[0:64, 0:64] + 0.5
    inside = (columns > box.x0 + 1) & (columns < box.x1 - 1) & (rows > box.y0 + 1) & (rows < box.y1 - 1)
    outside = (columns < box.x0 - 1) | (columns > box.x1 + 1) | (rows < box.y0 - 1) | (rows > box.y1 + 1)
    assert np.abs(tile[inside] - one.scene.image[subject.mask].mean(axis=0)).max() <= 1
    assert (tile[outside] == one.image[outside]).all()
    assert draw_tile(one, 3)[inside].std(axis=0).max() > 1, "a tile of nine cells has several colours"


def test_pairs_are_those_of_the_embedder_and_tiles_are_reproducible(
    task: ShapeTask, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    views, sprites, tiles = batch
    own_views, own_sprites = embedder.Pairs(task.data.pool, PHASE.cutout_share)((1, 0, 0), 6)
    assert torch.equal(views, own_views)
    assert torch.equal(sprites, own_sprites)
    assert tiles.shape == (2, 3, 48, 48)
    assert torch.equal(tiles, ShapeData(task.data.pool, PHASE)((1, 0, 0), 6)[2])


def test_tiles_are_a_class_of_their_own(task: ShapeTask, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    """Only the head of tiles is pulled towards the vectors of tiles."""
    views, sprites, tiles = batch
    with torch.random.fork_rng():
        terms = task.loss((views, sprites, tiles))
    task.heads.zero_grad()
    terms["sprite"].backward()
    assert task.heads.weight.grad is not None
    pulled = task.heads.weight.grad.norm(dim=1).topk(len(sprites) + 1).indices
    assert set(pulled.tolist()) == {*sprites.tolist(), len(task.data.pool)}


def test_losses_create_no_tensor_on_another_device(task: ShapeTask, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    task = copy.deepcopy(task)
    task.net.to("meta")
    task.heads.to("meta")
    assert {term.device.type for term in task.loss(batch).values()} == {"meta"}


def test_a_recipe_runs_to_a_folder_that_loads(tmp_path: Path) -> None:
    figures = train(shape_embedder.Training(CONFIG), CONFIG.seed, tmp_path)
    assert set(figures) == {"unseen_r_at_1", "tile_r_at_1"}
    load_embedder(tmp_path / "weights")


def test_networks_without_losses_for_a_gpu_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train", "sam", "--device", "cuda"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--device cuda: sam trains on the CPU" in capsys.readouterr().err
