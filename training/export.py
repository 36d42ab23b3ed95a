"""A checkpoint's model as a folder that `SubjectDiffusion.from_pretrained` and the pipeline read."""

from pathlib import Path

from model.config import ModelConfig
from training.checkpoints.record import record_of
from training.checkpoints.store import read_tensors
from training.data.config import DataConfig
from training.network import network_of


def export(checkpoint: Path, folder: Path, half: bool = False) -> None:
    """Write the running mean of the checkpoint's weights, with the frozen rest as the base has it, to `folder`.

    Args:
        half: in float16, which is half as large; else as training kept it, in float32.

    Raises:
        CheckpointError: there is no such checkpoint, or it cannot be read.
        model.errors.CheckpointError: the base it was trained from is gone, or `folder` is there already.
    """
    settings = record_of(checkpoint).settings
    data = DataConfig.model_validate(settings["training"]["data"])
    net = network_of(ModelConfig.model_validate(settings["model"]), data)
    means = {name: weight.detach() for name, weight in net.named_parameters() if weight.requires_grad}
    read_tensors(checkpoint, {"ema": means})
    (net.half() if half else net).save_pretrained(folder)
