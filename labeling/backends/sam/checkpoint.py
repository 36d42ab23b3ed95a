"""The original Segment Anything checkpoints: a `.pth` file of weights, whose shapes tell the network's sizes.

`sam_vit_h_4b8939.pth`, `sam_vit_l_0b3195.pth` and `sam_vit_b_01ec64.pth` have one layout. They contain no
configuration, so sizes are read from the shapes, never from the file's name. A small network loads in the same way.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from labeling.errors import BackendWeightsError

DECODER_HEAD_CHANNELS = 32
"""Channels of each head of the decoder: 32 in all three sizes (256 channels, 8 heads). The shapes do not reveal it."""

_SIZE_TENSORS = (
    "image_encoder.patch_embed.proj.weight",
    "image_encoder.pos_embed",
    "image_encoder.blocks.0.attn.rel_pos_h",
    "image_encoder.blocks.0.mlp.lin1.weight",
    "image_encoder.neck.0.weight",
    "prompt_encoder.mask_downscaling.3.weight",
    "mask_decoder.mask_tokens.weight",
    "mask_decoder.transformer.layers.0.mlp.lin1.weight",
    "mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight",
    "mask_decoder.iou_prediction_head.layers.0.weight",
)


@dataclass(frozen=True, slots=True)
class SamArchitecture:
    """The sizes of a Segment Anything network."""

    image_px: int
    patch_px: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    window: int
    """Side of the windows in patches, 0 if every layer sees the whole image."""
    global_layers: tuple[int, ...]
    """The layers that see the whole image."""
    embedding_channels: int
    mask_input_channels: int
    masks: int
    """Masks that multimask output returns for a prompt; the network computes one more."""
    decoder_depth: int
    decoder_heads: int
    decoder_mlp_width: int
    decoder_downsample: int
    iou_head_width: int


def read_checkpoint(file: Path, source: str) -> dict[str, Tensor]:
    """Read the tensors of a `.pth` file to the CPU; code in the file is not run.

    Args:
        file: path of the file.
        source: name of the file in messages, such as "labeling.segment.checkpoint='x.pth'".

    Raises:
        BackendWeightsError: it is not a file of torch.save, or holds anything but named tensors.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types of errors
        line = next(iter(str(error).splitlines()), "")
        raise BackendWeightsError(
            f"{source} cannot be read: {type(error).__name__}: {line}. Download it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        what = f"a dict of {list(state)[:3]}" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise BackendWeightsError(f"{source} holds {what}, not the named tensors of a Segment Anything checkpoint")
    return state


def architecture(state: dict[str, Tensor], source: str) -> SamArchitecture:
    """Return the sizes of a network, from the shapes of its weights.

    Raises:
        BackendWeightsError: tensors that determine the sizes are missing, or the windows have several sizes.
    """
    if missing := [name for name in _SIZE_TENSORS if name not in state]:
        raise BackendWeightsError(
            f"{source} is not a Segment Anything checkpoint: {len(missing)} of the {len(_SIZE_TENSORS)} tensors that "
            f"determine its size are missing, first {missing[0]!r}; it has {len(state)}, such as {_first(state)}"
        )
    patch, position, rel_pos, mlp, neck, mask_input, tokens, decoder_mlp, query, iou = (
        state[name].shape for name in _SIZE_TENSORS
    )
    window, global_layers = _windows(state, position[1], source)
    return SamArchitecture(
        image_px=position[1] * patch[2],
        patch_px=patch[2],
        width=patch[0],
        depth=_count(state, "image_encoder.blocks"),
        heads=patch[0] // rel_pos[1],
        mlp_width=mlp[0],
        window=window,
        global_layers=global_layers,
        embedding_channels=neck[0],
        mask_input_channels=mask_input[0],
        masks=tokens[0] - 1,
        decoder_depth=_count(state, "mask_decoder.transformer.layers"),
        decoder_heads=max(1, neck[0] // DECODER_HEAD_CHANNELS),
        decoder_mlp_width=decoder_mlp[0],
        decoder_downsample=query[1] // query[0],
        iou_head_width=iou[0],
    )


def load_weights(net: torch.nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load `state` into `net`, which may be on the meta device; each tensor keeps its type.

    Raises:
        BackendWeightsError: tensors are missing, left over or of another shape.
    """
    try:
        report = net.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        mismatch = str(error).splitlines()[1].strip()
        raise BackendWeightsError(f"{source} is not a Segment Anything checkpoint: {mismatch}") from error
    missing, unexpected = report.missing_keys, report.unexpected_keys
    if missing or unexpected:
        raise BackendWeightsError(
            f"{source} is not a whole Segment Anything checkpoint: of {len(net.state_dict())} tensors {len(missing)} "
            f"are missing, and {len(unexpected)} do not belong; the first is {(missing or unexpected)[0]!r}. "
            f"Download it again"
        )


def _windows(state: dict[str, Tensor], grid: int, source: str) -> tuple[int, tuple[int, ...]]:
    """Return the windows' side in patches, and the layers that see the whole image.

    A layer's table of relative positions has 2n - 1 rows, where n is the side of its window in patches.
    """
    depth = _count(state, "image_encoder.blocks")
    tables = [state.get(f"image_encoder.blocks.{i}.attn.rel_pos_h") for i in range(depth)]
    sides = [grid if table is None else (len(table) + 1) // 2 for table in tables]
    windows = sorted(set(sides) - {grid})
    if len(windows) > 1:
        raise BackendWeightsError(f"{source} has windows of {windows} patches; Segment Anything has one size")
    return next(iter(windows), 0), tuple(i for i, side in enumerate(sides) if side == grid)


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """Return the number of numbered modules under `prefix`."""
    depth = prefix.count(".") + 1
    return 1 + max(int(name.split(".")[depth]) for name in state if name.startswith(prefix + "."))


def _first(state: dict[str, Tensor]) -> str:
    return ", ".join(map(repr, list(state)[:3])) or "none"
