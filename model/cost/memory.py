"""Compute the memory of a worker at the peak of a training step, without allocating it.

    kept = activation_bytes(ModelConfig(), images=12, subjects=2)
    training_memory(ModelConfig(), kept).total                     # alone or with DDP
    training_memory(ModelConfig(), kept, split_among=8).total      # FSDP2 on eight GPUs

Only tensors are counted. A GPU also holds its context, the workspaces of convolutions and the allocator's unused
blocks; a process on a CPU also holds its libraries.
"""

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from torch import Tensor, nn

from infra.precision import Precision
from model.config import ModelConfig, Recompute
from model.cost.budget import autocast_saved_bytes, float32_saved_bytes
from model.cost.count import build_on_meta
from model.subject_diffusion import SubjectDiffusion

FLOAT32, BFLOAT16 = 4, 2
"""Bytes per number."""


@dataclass(frozen=True)
class TrainingMemory:
    """Memory of one worker in bytes, by kind.

    The sum is an upper bound: gradients grow while the backward pass frees activations.
    """

    trained: int
    """Trained weights, in float32."""
    frozen: int
    """Frozen weights and buffers, as training stores them."""
    copies: int
    """bfloat16 copies of trained matrices, which autocast makes for a step."""
    gradients: int
    """Gradients of the trained weights, in float32."""
    moments: int
    """AdamW's two moments, in float32."""
    mean: int
    """Moving average of the trained weights, in float32."""
    gathered: int
    """Whole weights and gradients that FSDP2 gathers from all workers for a step; 0 without FSDP2."""
    activations: int
    """Activations kept between the forward and the backward pass."""

    @property
    def total(self) -> int:
        """Sum of all kinds."""
        return sum(astuple(self))


def training_memory(
    config: ModelConfig, activations: int, precision: Precision = Precision.BFLOAT16, split_among: int = 1
) -> TrainingMemory:
    """Compute the memory of one worker.

    Args:
        config: settings of the model.
        activations: bytes kept between forward and backward, from `activation_bytes`.
        precision: precision of matrix products.
        split_among: number of workers that FSDP2 splits the trained weights among; 1 without FSDP2.
    """
    net = build_on_meta(lambda: SubjectDiffusion.from_config(config))
    mixed = precision is Precision.BFLOAT16
    if mixed:
        net.cast_frozen(config.frozen_precision)
    trained = [weight for weight in net.parameters() if weight.requires_grad]
    part = FLOAT32 * sum(_largest_share(weight, split_among) for weight in trained)
    return TrainingMemory(
        trained=part,
        frozen=_bytes(weight for weight in net.parameters() if not weight.requires_grad) + _bytes(net.buffers()),
        copies=BFLOAT16 * sum(weight.numel() for weight in _autocast_weights(net)) if mixed else 0,
        gradients=part,
        moments=2 * part,
        mean=part,
        gathered=_gathered_bytes(net) if split_among > 1 else 0,
        activations=activations,
    )


def activation_bytes(
    config: ModelConfig,
    images: int,
    subjects: int,
    mode: Recompute = Recompute.ACTIVATIONS,
    precision: Precision = Precision.BFLOAT16,
) -> int:
    """Count the bytes that an uncompiled training step keeps between forward and backward.

    A compiled step may keep less.

    Args:
        config: settings of the model.
        images: number of images in the batch.
        subjects: number of subjects per image.
        mode: activations that are recomputed instead of kept.
        precision: precision of matrix products; bfloat16 is a GPU's autocast, which computes norms in float32.
    """
    count = float32_saved_bytes if precision is Precision.FLOAT32 else autocast_saved_bytes
    return count(config, images, subjects, mode)


def _gathered_bytes(net: SubjectDiffusion) -> int:
    """Count the weights and gradients outside FSDP2's units, and of two units: one computes while the next arrives."""
    units = [_trained_bytes(unit) for unit in net.fsdp_units()]
    others = _trained_bytes(net) - sum(units)
    return 2 * (others + 2 * max(units, default=0))


def _trained_bytes(net: nn.Module) -> int:
    return _bytes(weight for weight in net.parameters() if weight.requires_grad)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _largest_share(weight: Tensor, workers: int) -> int:
    """Count the numbers of `weight` that the first worker holds; FSDP2 splits rows and leaves scalars whole."""
    if weight.ndim == 0:
        return 1
    rows = math.ceil(weight.shape[0] / workers)
    return rows * weight.numel() // weight.shape[0]


def _autocast_weights(net: nn.Module) -> list[nn.Parameter]:
    """Return the trained weights of linear layers and convolutions."""
    layers = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return [weight for layer in layers for weight in layer.parameters(recurse=False) if weight.requires_grad]
