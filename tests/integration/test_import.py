"""Imports by the command line: a folder that the ordinary build labels, and Open Images, on which a model trains."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from infra.config import CONFIGS, load
from labeling.sdd.schema import SddRow
from labeling.sdd.shards import ShardStore
from miniature.scoring.true_layers import read_truth
from miniature.world.names import labelled_names
from miniature.world.scenes import ScenesConfig
from miniature.world.serve import TRUTH, WorldConfig, write_world
from tests.openimages_files import write_openimages
from tests.small_model import IMAGE_PX, small_config
from training.config import TrainingJob
from training.distributed.parallel import Worker
from training.job import Launch, run_worker
from training.monitoring.metrics import read_metrics

CHECKOUT = CONFIGS.parents[1]


def run(*words: str) -> str:
    """Run a verb in the checkout, where the settings of the demo find their weights."""
    command = [sys.executable, "-m", "flows.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a world whose images/ has captions in a metadata.jsonl."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 4, 0, WorldConfig(scenes=ScenesConfig(names=labelled_names()), low_share=0))
    truths = [(Path(url).name, truth.caption) for url, truth in read_truth(folder / TRUTH).items()]
    lines = [json.dumps({"file_name": name, "text": caption}) for name, caption in truths]
    (folder / "images" / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.slow
def test_an_imported_folder_is_labelled_under_its_own_captions(world, tmp_path):
    root = tmp_path / "sdd"
    text = run("import", str(world / "images"), str(root), "--format", "folder", "--config", "demo")
    assert text == f"4 kept\nLabel them:  subject-diffusion build --config {root}/import.toml\n"
    no_captioner = ("--set", "labeling.caption.checkpoint=miniature/weights/sam")  # the captioner is never loaded
    run("build", "--config", str(root / "import.toml"), *no_captioner)
    run("status", str(root), "--deep")
    rows = list(ShardStore(str(root)).read(SddRow, ("sdd",), "shard-00000"))
    captions = {truth.caption for truth in read_truth(world / TRUTH).values()}
    assert len(rows) >= 2
    assert {row.caption for row in rows} <= captions
    assert {row.image for row in rows} <= {path.read_bytes() for path in (world / "images").glob("*.jpg")}


def test_open_images_train_two_steps_under_the_papers_settings(tmp_path):
    """The paper's second training set (App. B.1, rule 7; Table 3 b)."""
    files = write_openimages(tmp_path / "files")
    root = tmp_path / "sdd"
    folders = ("--images", str(files.images), "--mask-images", str(files.mask_images))
    lists = ("--classes", str(files.classes), "--masks", str(files.masks), "--captions", str(files.captions))
    text = run("import", str(files.boxes), str(root), "--format", "openimages", *folders, *lists)
    assert re.search(r"\b2 +50\.0% +kept", text)
    run("status", str(root), "--deep")
    rows = list(ShardStore(str(root)).read(SddRow, ("sdd",), "shard-00000"))
    assert sorted(entity.label for row in rows for entity in row.entities) == ["cat", "dog", "dog"]

    run_worker(Launch(openimages_job(root, tmp_path), None, "two steps"), Worker())
    assert [np.isfinite(line["loss"]) for line in read_metrics(tmp_path / "run")] == [True, True]


def openimages_job(root: Path, folder: Path) -> TrainingJob:
    """Return the job of openimages.toml on a dataset, with the small model in place of the paper's."""
    model = small_config(folder)
    data = {"image_px": IMAGE_PX, "latent_downsampling": 2, "subject_px": 28, "batch_size": 2, "processes": 0}
    training = {"workers": 1, "images_per_step": 2, "steps": 2, "log_every": 1, "checkpoint_every": 2}
    settings = {
        "model.base": model.base,
        "model.image_encoder": model.image_encoder,
        "model.frozen_precision": "float32",
        "training.precision": "float32",
        "training.gpu": "false",
        "training.out": folder / "run",
        "training.samples.every": 0,
        "training.data.dataset": root,
        "training.data.streams": 1,
        **{f"training.data.{key}": value for key, value in data.items()},
        **{f"training.{key}": value for key, value in training.items()},
    }
    return load(TrainingJob, "openimages", [f"{key}={value}" for key, value in settings.items()])
