"""Conversion of Segment Anything weights from the original layout to that of transformers and back.

    export_folder("sam_vit_h_4b8939.pth", "sam-vit-huge")    # a folder for segment.backend = "sam_hf"
    export_checkpoint("sam-vit-huge", "sam.pth")             # a file for segment.backend = "segment_anything"

The conversion renames tensors and does not change them. Two details: the decoder's LayerNorm epsilon is set to the
original's, which is not transformers' default; and a network without relative positions is written with tables of
zeros, which have no effect and whose shapes give the number of heads and the size of the windows.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from labeling.backends.sam.checkpoint import (
    DECODER_HEAD_CHANNELS,
    SamArchitecture,
    architecture,
    load_weights,
    read_checkpoint,
)
from labeling.errors import BackendWeightsError

# Pairs of name prefixes. # is a number that both names contain; the first pair that matches a name applies.
_RENAMED = (
    ("image_encoder.patch_embed.proj", "vision_encoder.patch_embed.projection"),
    ("image_encoder.blocks.#.norm#", "vision_encoder.layers.#.layer_norm#"),
    ("image_encoder.blocks.#", "vision_encoder.layers.#"),
    ("image_encoder.neck.0", "vision_encoder.neck.conv1"),
    ("image_encoder.neck.1", "vision_encoder.neck.layer_norm1"),
    ("image_encoder.neck.2", "vision_encoder.neck.conv2"),
    ("image_encoder.neck.3", "vision_encoder.neck.layer_norm2"),
    ("image_encoder", "vision_encoder"),
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
    ("prompt_encoder.point_embeddings.#", "prompt_encoder.point_embed.#"),
    ("prompt_encoder.mask_downscaling.0", "prompt_encoder.mask_embed.conv1"),
    ("prompt_encoder.mask_downscaling.1", "prompt_encoder.mask_embed.layer_norm1"),
    ("prompt_encoder.mask_downscaling.3", "prompt_encoder.mask_embed.conv2"),
    ("prompt_encoder.mask_downscaling.4", "prompt_encoder.mask_embed.layer_norm2"),
    ("prompt_encoder.mask_downscaling.6", "prompt_encoder.mask_embed.conv3"),
    ("mask_decoder.transformer.layers.#.norm#", "mask_decoder.transformer.layers.#.layer_norm#"),
    ("mask_decoder.transformer.norm_final_attn", "mask_decoder.transformer.layer_norm_final_attn"),
    ("mask_decoder.output_upscaling.0", "mask_decoder.upscale_conv1"),
    ("mask_decoder.output_upscaling.1", "mask_decoder.upscale_layer_norm"),
    ("mask_decoder.output_upscaling.3", "mask_decoder.upscale_conv2"),
    ("mask_decoder.output_hypernetworks_mlps.#.layers.0", "mask_decoder.output_hypernetworks_mlps.#.proj_in"),
    ("mask_decoder.output_hypernetworks_mlps.#.layers.1", "mask_decoder.output_hypernetworks_mlps.#.layers.0"),
    ("mask_decoder.output_hypernetworks_mlps.#.layers.2", "mask_decoder.output_hypernetworks_mlps.#.proj_out"),
    ("mask_decoder.iou_prediction_head.layers.0", "mask_decoder.iou_prediction_head.proj_in"),
    ("mask_decoder.iou_prediction_head.layers.1", "mask_decoder.iou_prediction_head.layers.0"),
    ("mask_decoder.iou_prediction_head.layers.2", "mask_decoder.iou_prediction_head.proj_out"),
)
_POSITIONS = "shared_image_embedding.positional_embedding"
_POSITIONS_COPY = "prompt_encoder.shared_embedding.positional_embedding"


def export_folder(checkpoint: str | Path, folder: str | Path) -> None:
    """Write the original checkpoint file as a folder of transformers, with its processor.

    Raises:
        BackendWeightsError: the file is not a Segment Anything checkpoint.
    """
    source = f"{str(checkpoint)!r}"
    state = read_checkpoint(Path(checkpoint), source)
    sizes = architecture(state, source)
    net = to_transformers(state, sizes, source)
    net.save_pretrained(folder)
    processor(sizes.image_px, 4 * sizes.image_px // sizes.patch_px).save_pretrained(folder)


def export_checkpoint(folder: str | Path, checkpoint: str | Path) -> None:
    """Write a folder of transformers as a checkpoint file in the original layout.

    Raises:
        BackendWeightsError: the network has properties that this layout cannot express.
    """
    torch.save(to_original(SamModel.from_pretrained(folder, dtype=torch.float32)), checkpoint)


def to_transformers(state: dict[str, Tensor], sizes: SamArchitecture, source: str) -> SamModel:
    """Return the `SamModel` of transformers of these sizes with the weights of an original `state`.

    Raises:
        BackendWeightsError: tensors are missing, left over or of another shape.
    """
    renamed = dict(_rename(state, _RENAMED))
    if _POSITIONS in renamed:
        renamed[_POSITIONS_COPY] = renamed[_POSITIONS]
    with torch.device("meta"):
        net = SamModel(configuration(sizes))
    load_weights(net, renamed, source)
    net.tie_weights()
    return net.eval()


def to_original(net: SamModel) -> dict[str, Tensor]:
    """Return the weights of a `SamModel` of transformers in the original layout.

    Raises:
        BackendWeightsError: the decoder's heads are not those that the original layout implies.
    """
    decoder, vision = net.config.mask_decoder_config, net.config.vision_config
    if decoder.num_attention_heads * DECODER_HEAD_CHANNELS != decoder.hidden_size:
        raise BackendWeightsError(
            f"a mask decoder of {decoder.num_attention_heads} heads in {decoder.hidden_size} channels cannot be "
            f"written in the original layout, whose heads have {DECODER_HEAD_CHANNELS} channels"
        )
    weights = {name: tensor for name, tensor in net.state_dict().items() if name != _POSITIONS_COPY}
    state = dict(_rename(weights, tuple((theirs, ours) for ours, theirs in _RENAMED)))
    return state if vision.use_rel_pos else state | dict(_no_relative_positions(vision))


def configuration(sizes: SamArchitecture) -> SamConfig:
    """Return the settings in transformers of a network of these sizes."""
    vision = SamVisionConfig(
        image_size=sizes.image_px,
        patch_size=sizes.patch_px,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads,
        mlp_dim=sizes.mlp_width,
        window_size=sizes.window,
        global_attn_indexes=list(sizes.global_layers),
        output_channels=sizes.embedding_channels,
        num_pos_feats=sizes.embedding_channels // 2,
    )
    prompts = SamPromptEncoderConfig(
        image_size=sizes.image_px,
        patch_size=sizes.patch_px,
        hidden_size=sizes.embedding_channels,
        mask_input_channels=sizes.mask_input_channels,
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=sizes.embedding_channels,
        num_hidden_layers=sizes.decoder_depth,
        num_attention_heads=sizes.decoder_heads,
        mlp_dim=sizes.decoder_mlp_width,
        attention_downsample_rate=sizes.decoder_downsample,
        num_multimask_outputs=sizes.masks,
        iou_head_hidden_dim=sizes.iou_head_width,
        layer_norm_eps=1e-5,
    )
    return SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)


def processor(image_px: int, mask_px: int) -> SamProcessor:
    """Return the processor in transformers for a network with these sides of input and masks."""
    return SamProcessor(
        SamImageProcessor(
            size={"longest_edge": image_px},
            pad_size={"height": image_px, "width": image_px},
            mask_size={"longest_edge": mask_px},
            mask_pad_size={"height": mask_px, "width": mask_px},
        )
    )


def _rename(state: dict[str, Tensor], pairs: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, Tensor]]:
    rules = [(re.compile(re.escape(old).replace(r"\#", r"(\d+)") + r"(?=\.|$)"), new) for old, new in pairs]
    for name, tensor in state.items():
        fits = ((pattern.match(name), new) for pattern, new in rules)
        match, new = next(((match, new) for match, new in fits if match), (None, ""))
        yield name if match is None else _fill(new, match.groups()) + name[match.end() :], tensor


def _fill(template: str, numbers: tuple[str, ...]) -> str:
    return template.replace("#", "{}").format(*numbers)


def _no_relative_positions(vision: SamVisionConfig) -> Iterator[tuple[str, Tensor]]:
    grid = vision.image_size // vision.patch_size
    for layer in range(vision.num_hidden_layers):
        side = grid if layer in vision.global_attn_indexes else vision.window_size
        for axis in "hw":
            table = torch.zeros(2 * side - 1, vision.hidden_size // vision.num_attention_heads)
            yield f"image_encoder.blocks.{layer}.attn.rel_pos_{axis}", table
