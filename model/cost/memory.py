"""Bytes that a worker holds at the peak of a training step, by arithmetic, without allocating any of them.

    kept = activation_bytes(ModelConfig(), images=12, subjects=2)
    training_memory(ModelConfig(), kept).total                     # alone or with DDP
    training_memory(ModelConfig(), kept, split_among=8).total      # FSDP2 on eight GPUs

Counted are tensors. A GPU holds its context, the workspaces of convolutions and the allocator's unused blocks beside
them; a process on a CPU holds its libraries.
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
"""Bytes of a number."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one worker, by kind.

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
    """Running mean of the trained weights, in float32."""
    gathered: int
    """Whole weights and gradients that FSDP2 gathers from all workers for a step; 0 where each holds all of them."""
    activations: int
    """Activations kept between the forward and the backward pass."""

    @property
    def total(self) -> int:
        """Sum of all kinds."""
        return sum(astuple(self))


def training_memory(
    config: ModelConfig, activations: int, precision: Precision = Precision.BFLOAT16, split_among: int = 1
) -> TrainingMemory:
    """Memory of one worker.

    Args:
        activations: bytes kept between forward and backward, of `activation_bytes`.
        precision: of products.
        split_among: workers that FSDP2 splits the trained weights among; 1 for one worker, or for DDP with any number.
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
        copies=BFLOAT16 * sum(weight.numel() for weight in _cast_by_autocast(net)) if mixed else 0,
        gradients=part,
        moments=2 * part,
        mean=part,
        gathered=_gathered(net) if split_among > 1 else 0,
        activations=activations,
    )


def activation_bytes(
    config: ModelConfig,
    images: int,
    subjects: int,
    what: Recompute = Recompute.ACTIVATIONS,
    precision: Precision = Precision.BFLOAT16,
) -> int:
    """Bytes that a training step keeps between forward and backward, uncompiled; a compiled one may keep less.

    Args:
        what: is recomputed instead of kept.
        precision: of products; bfloat16 is a GPU's autocast, which computes norms in float32.
    """
    count = float32_saved_bytes if precision is Precision.FLOAT32 else autocast_saved_bytes
    return count(config, images, subjects, what)


def _gathered(net: SubjectDiffusion) -> int:
    """Weights and gradients of what is gathered once, and of two parts that are gathered apart: one computes while the
    next arrives."""
    apart = [_trained_bytes(part) for part in net.fsdp_units()]
    once = _trained_bytes(net) - sum(apart)
    return 2 * (once + 2 * max(apart, default=0))


def _trained_bytes(net: nn.Module) -> int:
    return _bytes(weight for weight in net.parameters() if weight.requires_grad)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _largest_share(weight: Tensor, workers: int) -> int:
    """Numbers of `weight` that the first worker holds; FSDP2 splits rows and leaves scalars whole."""
    if weight.ndim == 0:
        return 1
    rows = math.ceil(weight.shape[0] / workers)
    return rows * weight.numel() // weight.shape[0]


def _cast_by_autocast(net: nn.Module) -> list[nn.Parameter]:
    """Trained weights of linear layers and convolutions."""
    layers = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return [weight for layer in layers for weight in layer.parameters(recurse=False) if weight.requires_grad]
