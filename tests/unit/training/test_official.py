"""A job under the `official` preset, from the dataset to weights and pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.config import load
from model.config import ModelConfig
from model.subject_diffusion import SubjectDiffusion
from tests.factories import finished
from tests.small_model import IMAGE_PX, small_config
from tests.unit.model.test_config import CONFIGS, Model
from tests.unit.training.data.conftest import some_rows
from training.checkpoints.store import Checkpoints
from training.config import TrainingJob
from training.data.config import DataConfig
from training.data.loader import load_batches
from training.data.plan import read_plan
from training.distributed.parallel import Worker
from training.export import export
from training.job import Launch, run_worker
from training.monitoring.metrics import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers' schedulers on numpy 2


@pytest.fixture
def official(base_folder: Path, tmp_path: Path) -> ModelConfig:
    """The preset on the small base, with a photograph for backgrounds."""
    settings = load(Model, CONFIGS / "official.toml").model.model_dump()
    (tmp_path / "photographs").mkdir()
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / "photographs" / "1.png")
    settings["subject"]["backgrounds"] = str(tmp_path / "photographs")
    for part in ("base", "base_revision", "image_encoder", "image_encoder_revision", "frozen_precision"):
        del settings[part]
    return small_config(base_folder, frozen_precision="float32", **settings)


def test_it_trains_on_pixels_and_draws_and_exports(job, official: ModelConfig, tmp_path: Path) -> None:
    finished(tmp_path / "dataset", some_rows(8), rows_per_shard=8)
    data = DataConfig(
        dataset=str(tmp_path / "dataset"),
        image_px=IMAGE_PX,
        latent_downsampling=2,
        subject_px=28,
        batch_size=2,
        max_subjects=2,
        processes=0,
    )
    samples = {"every": 2, "rows": 1, "prompts": [], "sampling": {"scheduler": "DDIM", "steps": 1}}
    training = job(data=data, steps=2, log_every=1, checkpoint_every=2, samples=samples).training
    one = TrainingJob(model=official, training=training)

    net = SubjectDiffusion.from_base(official)
    (loaded,) = load_batches(read_plan(data, 0), data, official, net.prompts, (0.5, 0.5, 0.5), [0])
    assert loaded.batch.masks.shape[-2:] == (IMAGE_PX, IMAGE_PX)
    assert set(loaded.batch.masks.unique().tolist()) == {0.0, 1.0}

    run_worker(Launch(one, None, "one"), Worker())
    lines = read_metrics(Path(training.out))
    assert [np.isfinite(line["loss"]) for line in lines] == [True, True]
    assert (Path(training.out) / "samples" / "step-00000002.png").exists()
    export(Checkpoints(Path(training.out), 1, Worker()).latest(), tmp_path / "model")
    assert SubjectDiffusion.from_pretrained(tmp_path / "model").config == official
