"""Exports a checkpoint as a folder that `SubjectDiffusion.from_pretrained` and the pipeline read."""

from pathlib import Path

from pydantic import BaseModel, ValidationError

from model.config import ModelConfig
from model.sampling.config import SamplingConfig
from model.weights.folders import SaveOptions
from training.checkpoints.record import RECORD, read_record
from training.checkpoints.store import read_tensors
from training.data.config import DataConfig
from training.errors import CheckpointError
from training.network import load_network


class _Samples(BaseModel):
    sampling: SamplingConfig = SamplingConfig()


class _Training(BaseModel):
    data: DataConfig
    samples: _Samples = _Samples()


class _Settings(BaseModel):
    """Settings of a checkpoint that the exported model depends on; others may be of another version."""

    model: ModelConfig
    training: _Training


def export(checkpoint: Path, folder: Path, half: bool = False) -> None:
    """Write the moving average of the checkpoint's weights and the frozen weights of its base to `folder`.

    Steps and guidance of the job's samples become the defaults of the pipeline.

    Args:
        half: whether to write float16, half as large; otherwise float32, as in training.

    Raises:
        CheckpointError: the checkpoint is missing or cannot be read.
        ModelWeightsError: the base of the training is missing, or `folder` exists.
    """
    settings = _read_settings(checkpoint)
    sampling = settings.training.samples.sampling
    net = load_network(settings.model, settings.training.data)
    means = {name: weight.detach() for name, weight in net.named_parameters() if weight.requires_grad}
    read_tensors(checkpoint, {"ema": means})
    (net.half() if half else net).save_pretrained(folder, SaveOptions(defaults=sampling.pipeline_defaults()))


def _read_settings(checkpoint: Path) -> _Settings:
    settings = read_record(checkpoint).settings
    try:
        return _Settings.model_validate(settings)
    except ValidationError as error:
        invalid = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise CheckpointError(
            f"{checkpoint / RECORD} has settings that this version of the code does not read: {invalid}. Use the "
            "version that wrote it"
        ) from error
