"""A checkpoint's model as a folder that the pipeline reads."""

import json
from pathlib import Path

import pytest
import torch

from model.errors import ModelWeightsError
from model.pipeline import SubjectDiffusionPipeline
from model.subject_diffusion import SubjectDiffusion
from tests.training_run import trained
from training.checkpoints.record import RECORD
from training.checkpoints.store import Checkpoints, read_tensors
from training.distributed.parallel import Worker
from training.errors import CheckpointError
from training.export import export


def test_is_the_mean_of_the_weights_over_the_base(job, tmp_path):
    one = job(steps=2, checkpoint_every=2)
    net = trained(one)
    checkpoint = Checkpoints(Path(one.training.out), 1, Worker()).latest()
    export(checkpoint, tmp_path / "model")
    exported = SubjectDiffusion.from_pretrained(tmp_path / "model")
    defaults = SubjectDiffusionPipeline.from_pretrained(tmp_path / "model").parameters
    assert defaults == one.training.samples.sampling.pipeline_defaults()
    means = {name: torch.zeros_like(weight) for name, weight in net.named_parameters() if weight.requires_grad}
    read_tensors(checkpoint, {"ema": means})
    base, last = SubjectDiffusion.from_base(one.model).state_dict(), net.state_dict()
    found = exported.state_dict()
    assert found.keys() == base.keys()
    assert [name for name in found if not torch.equal(found[name], means.get(name, base[name]))] == []
    assert any(not torch.equal(means[name], last[name]) for name in means)
    with pytest.raises(ModelWeightsError, match="already exists"):
        export(checkpoint, tmp_path / "model")


def test_settings_of_the_checkpoint_have_defaults_or_are_named(job, tmp_path):
    """Earlier versions wrote records without a checksum, and without settings that were new later."""
    one = job(steps=1, checkpoint_every=1)
    trained(one)
    checkpoint = Checkpoints(Path(one.training.out), 1, Worker()).latest()
    record = json.loads((checkpoint / RECORD).read_text())
    del record["sha256"], record["settings"]["training"]["samples"]
    (checkpoint / RECORD).write_text(json.dumps(record))
    export(checkpoint, tmp_path / "model")
    record["settings"]["model"]["beta"] = "x"
    (checkpoint / RECORD).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=rf"^{checkpoint / RECORD} has settings .*: model\.beta: Input should be"):
        export(checkpoint, tmp_path / "another")


def test_its_images_are_of_the_size_it_was_trained_at(job, tmp_path):
    data = job().training.data.model_copy(update={"image_px": 16})
    one = job(steps=1, checkpoint_every=1, data=data)
    trained(one)
    export(Checkpoints(Path(one.training.out), 1, Worker()).latest(), tmp_path / "model")
    pipeline = SubjectDiffusionPipeline.from_pretrained(tmp_path / "model")
    (image,) = pipeline("a photo", num_inference_steps=1).images
    assert image.size == (16, 16)


def test_in_half_precision_it_is_half_as_large_and_nearly_the_same(job, tmp_path):
    one = job(steps=1, checkpoint_every=1)
    trained(one)
    checkpoint = Checkpoints(Path(one.training.out), 1, Worker()).latest()
    sizes = {}
    for half in (False, True):
        folder = tmp_path / f"half {half}"
        export(checkpoint, folder, half)
        sizes[half] = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    assert sizes[True] < 0.6 * sizes[False]
    whole, half_as_large = (SubjectDiffusion.from_pretrained(tmp_path / f"half {half}") for half in (False, True))
    for name, weight in whole.state_dict().items():
        other = half_as_large.state_dict()[name]
        assert other.dtype is weight.dtype
        assert torch.allclose(weight.float(), other.float(), rtol=1e-3, atol=1e-4), name
