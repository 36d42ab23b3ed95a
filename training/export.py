"""Exports a checkpoint as a folder that `SubjectDiffusion.from_pretrained` and the pipeline read."""

from pathlib import Path

from model.config import ModelConfig
from model.sampling.config import SamplingConfig
from model.weights.folders import SaveOptions
from training.checkpoints.record import read_record
from training.checkpoints.store import read_tensors
from training.data.config import DataConfig
from training.network import load_network


def export(checkpoint: Path, folder: Path, half: bool = False) -> None:
    """Write the moving average of the checkpoint's weights and the frozen weights of its base to `folder`.

    Steps and guidance of the job's samples become the defaults of the pipeline.

    Args:
        half: whether to write float16, half as large; otherwise float32, as in training.

    Raises:
        CheckpointError: the checkpoint is missing or cannot be read.
        ModelWeightsError: the base of the training is missing, or `folder` exists.
    """
    settings = read_record(checkpoint).settings
    sampling = SamplingConfig.model_validate(settings["training"]["samples"]["sampling"])
    data = DataConfig.model_validate(settings["training"]["data"])
    net = load_network(ModelConfig.model_validate(settings["model"]), data)
    means = {name: weight.detach() for name, weight in net.named_parameters() if weight.requires_grad}
    read_tensors(checkpoint, {"ema": means})
    (net.half() if half else net).save_pretrained(folder, SaveOptions(defaults=sampling.pipeline_defaults()))
