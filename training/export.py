"""A checkpoint's model as a folder that `SubjectDiffusion.from_pretrained` and the pipeline read."""

from pathlib import Path

from model.config import ModelConfig
from model.subject_diffusion import SubjectDiffusion
from training.checkpoints import read_tensors, record_of


def export(checkpoint: Path, folder: Path, half: bool = False) -> None:
    """Write the running mean of the checkpoint's weights, with the frozen rest as the base has it, to `folder`.

    Args:
        half: in float16, which is half as large; else as training kept it, in float32.

    Raises:
        CheckpointError: there is no such checkpoint, or it cannot be read.
        model.errors.CheckpointError: the base it was trained from is gone, or `folder` is there already.
    """
    net = SubjectDiffusion.from_base(ModelConfig.model_validate(record_of(checkpoint).settings["model"]))
    means = {name: weight.detach() for name, weight in net.named_parameters() if weight.requires_grad}
    read_tensors(checkpoint, {"ema": means})
    (net.half() if half else net).save_pretrained(folder)
