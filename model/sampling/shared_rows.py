"""Computes the UNet's first layers once for two branches of guidance that differ in their text alone.

The text enters at the first cross-attention. Up to there the branch with text and image equals the one with the image
alone, and the branch with text equals the one with neither. Results agree to rounding: a kernel may add in another
order in a batch of another size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from model.networks.adapter import AdapterInputs
from model.networks.unet import SubjectUNet


@contextmanager
def share_first_rows(unet: SubjectUNet, count: int) -> Iterator[None]:
    """Within the block, skip the first `count` rows in the layers before the text, and repeat the next ones instead.

    A compiled network computes all rows: its graph must not depend on hooks that come and go.

    Args:
        unet: the denoising network.
        count: number of rows at the start of the batch that equal as many next rows, but for their text; 0 for none.
    """
    handles = []
    for layer in unet.layers_before_text() if count else ():
        handles.append(layer.register_forward_pre_hook(partial(_skip_rows, count)))
        handles.append(layer.register_forward_hook(partial(_repeat_rows, count)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _skip_rows(count: int, layer: nn.Module, inputs: tuple[object, ...]) -> tuple[object, ...] | None:
    if torch.compiler.is_compiling():
        return None
    return tuple(_without_first(value, count) for value in inputs)


def _repeat_rows(count: int, layer: nn.Module, inputs: tuple[object, ...], output: Tensor) -> Tensor | None:
    if torch.compiler.is_compiling():
        return None
    return torch.cat([output[:count], output])


def _without_first(value: object, count: int) -> object:
    if isinstance(value, Tensor):
        return value[count:]
    return value.without_first(count) if isinstance(value, AdapterInputs) else value
