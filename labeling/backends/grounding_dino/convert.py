"""Conversion of a checkpoint of the groundingdino-py package to the same network in transformers.

    convert("groundingdino_swint_ogc.pth", None, "bert-base-uncased", "grounding-dino-tiny")

writes a folder that `grounding_dino_hf` loads.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    PretrainedConfig,
    SwinConfig,
)

from labeling.backends.grounding_dino.package import PREPROCESSING, package_config, package_weights, text_encoder
from labeling.errors import BackendWeightsError

_SWINS: Mapping[str, Mapping[str, object]] = {
    "swin_T_224_1k": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24), "window_size": 7},
    "swin_B_224_22k": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "window_size": 7},
    "swin_B_384_22k": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "window_size": 12},
    "swin_L_224_22k": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48), "window_size": 7},
    "swin_L_384_22k": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48), "window_size": 12},
}

_FIXED = {
    "position_embedding": "sine",
    "pre_norm": False,
    "query_dim": 4,
    "num_patterns": 0,
    "two_stage_type": "standard",
    "embed_init_tgt": True,
    "use_text_enhancer": True,
    "use_fusion_layer": True,
    "use_text_cross_attention": True,
    "sub_sentence_present": True,
}
"""Settings of the package that are fixed in transformers."""

_BACKBONE = "model.backbone.conv_encoder.model"
_RENAMES = (
    (r"^backbone\.0\.patch_embed\.proj\.", f"{_BACKBONE}.swin.embeddings.patch_embeddings.projection."),
    (r"^backbone\.0\.patch_embed\.norm\.", f"{_BACKBONE}.swin.embeddings.norm."),
    (r"^backbone\.0\.norm1\.", f"{_BACKBONE}.hidden_states_norms.stage2."),
    (r"^backbone\.0\.norm2\.", f"{_BACKBONE}.hidden_states_norms.stage3."),
    (r"^backbone\.0\.norm3\.", f"{_BACKBONE}.hidden_states_norms.stage4."),
    (r"^backbone\.0\.layers\.", f"{_BACKBONE}.swin.encoder.layers."),
    (r"(blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
    (r"(blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
    (r"(blocks\.\d+)\.attn\.([qkv])\.", r"\1.attention.\2_proj."),
    (r"(blocks\.\d+)\.attn\.proj\.", r"\1.attention.o_proj."),
    (r"(blocks\.\d+)\.attn\.(relative_position_bias)_table", r"\1.attention.\2.\2_table"),
    (r"^bert\.", "model.text_backbone."),
    (r"^feat_map\.", "model.text_projection."),
    (r"^input_proj\.", "model.input_proj_vision."),
    (r"^transformer\.encoder\.layers\.(\d+)\.", r"model.encoder.layers.\1.deformable_layer."),
    (r"(deformable_layer)\.norm1\.", r"\1.self_attn_layer_norm."),
    (r"(deformable_layer)\.norm2\.", r"\1.final_layer_norm."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.", r"model.encoder.layers.\1.text_enhancer_layer."),
    (r"(text_enhancer_layer)\.norm1\.", r"\1.layer_norm_before."),
    (r"(text_enhancer_layer)\.norm2\.", r"\1.layer_norm_after."),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.", r"model.encoder.layers.\1.fusion_layer."),
    (r"(fusion_layer\.layer_norm)_v\.", r"\1_vision."),
    (r"(fusion_layer\.layer_norm)_l\.", r"\1_text."),
    (r"(fusion_layer)\.gamma_v", r"\1.vision_param"),
    (r"(fusion_layer)\.gamma_l", r"\1.text_param"),
    (r"(fusion_layer\.attn\.\w*?)v_proj\.", r"\1vision_proj."),
    (r"(fusion_layer\.attn\.\w*?)l_proj\.", r"\1text_proj."),
    (r"^transformer\.decoder\.norm\.", "model.decoder.layer_norm."),
    (r"^transformer\.decoder\.ref_point_head\.", "model.decoder.reference_points_head."),
    (r"^(transformer\.decoder\.layers\.\d+)\.cross_attn\.", r"\1.encoder_attn."),
    (r"^(transformer\.decoder\.layers\.\d+)\.norm1\.", r"\1.encoder_attn_layer_norm."),
    (r"^(transformer\.decoder\.layers\.\d+)\.ca_text\.", r"\1.encoder_attn_text."),
    (r"^(transformer\.decoder\.layers\.\d+)\.catext_norm\.", r"\1.encoder_attn_text_layer_norm."),
    (r"^(transformer\.decoder\.layers\.\d+)\.norm2\.", r"\1.self_attn_layer_norm."),
    (r"^(transformer\.decoder\.layers\.\d+)\.norm3\.", r"\1.final_layer_norm."),
    (r"^transformer\.tgt_embed\.", "model.query_position_embeddings."),
    (r"^transformer\.enc_out_bbox_embed\.", "model.encoder_output_bbox_embed."),
    (r"^transformer\.", "model."),
    (r"\.linear([12])\.", r".fc\1."),
    (r"(attn|attn_text)\.q\.", r"\1.query."),
    (r"(attn|attn_text)\.k\.", r"\1.key."),
    (r"(attn|attn_text)\.v\.", r"\1.value."),
)
"""Patterns and replacements, applied in turn to the package's names, after `_split`."""


def convert(checkpoint: str, config: str | None, text_encoder_name: str, folder: str | Path) -> None:
    """Write the package's network as a folder of transformers, with its processor.

    Args:
        checkpoint, config, text_encoder_name: as `checkpoint`, `package_config` and `text_encoder` of `DetectConfig`.

    Raises:
        BackendWeightsError: a file is missing, the files do not fit, or transformers cannot express the configuration.
    """
    tokenizer, bert_config = text_encoder(text_encoder_name)
    net = GroundingDinoForObjectDetection(transformers_config(package_config(config), bert_config))
    weights = {_rename(name): tensor for name, tensor in _split(package_weights(checkpoint))}
    _load(net, weights, checkpoint)
    net.save_pretrained(folder)
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=PREPROCESSING), tokenizer).save_pretrained(folder)


def transformers_config(settings: Any, bert_config: PretrainedConfig) -> GroundingDinoConfig:
    """Return the package's settings as a `GroundingDinoConfig`.

    Raises:
        BackendWeightsError: transformers cannot express a setting; the message names the first.
    """
    fixed = {**_FIXED, "pe_temperatureW": settings.pe_temperatureH, "return_interm_indices": [1, 2, 3]}
    if bad := [
        f"{name}={getattr(settings, name)!r}" for name, value in fixed.items() if getattr(settings, name) != value
    ]:
        raise BackendWeightsError(f"{settings.filename}: transformers has no {bad[0]}")
    if settings.backbone not in _SWINS:
        raise BackendWeightsError(f"{settings.filename}: backbone={settings.backbone!r} is none of {', '.join(_SWINS)}")
    return GroundingDinoConfig(
        backbone_config=SwinConfig(**_SWINS[settings.backbone], out_indices=[2, 3, 4]),
        text_config=bert_config,
        activation_function=settings.transformer_activation,
        d_model=settings.hidden_dim,
        num_queries=settings.num_queries,
        num_feature_levels=settings.num_feature_levels,
        encoder_layers=settings.enc_layers,
        encoder_ffn_dim=settings.dim_feedforward,
        encoder_attention_heads=settings.nheads,
        encoder_n_points=settings.enc_n_points,
        decoder_layers=settings.dec_layers,
        decoder_ffn_dim=settings.dim_feedforward,
        decoder_attention_heads=settings.nheads,
        decoder_n_points=settings.dec_n_points,
        decoder_bbox_embed_share=settings.dec_pred_bbox_embed_share,
        two_stage_bbox_embed_share=settings.two_stage_bbox_embed_share,
        positional_embedding_temperature=settings.pe_temperatureH,
        dropout=settings.dropout,
    )


def _split(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Split query, key and value, which the package stacks, into `.q.`, `.k.` and `.v.`."""
    for name, tensor in weights.items():
        stacked = re.fullmatch(r"(.*)\.(?:qkv\.|in_proj_)(weight|bias)", name)
        if stacked is None:
            yield name, tensor
        else:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{stacked[1]}.{letter}.{stacked[2]}", part


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _load(net: GroundingDinoForObjectDetection, weights: Mapping[str, Tensor], checkpoint: str) -> None:
    needed = {n: t.shape for n, t in net.state_dict().items() if not n.startswith(f"{_BACKBONE}.swin.layernorm.")}
    if wrong := [name for name, shape in needed.items() if name not in weights or weights[name].shape != shape]:
        raise BackendWeightsError(
            f"{checkpoint}: {len(wrong)} of {len(needed)} weights are missing or have another shape, first {wrong[0]}: "
            f"it does not fit this configuration and text encoder"
        )
    net.load_state_dict(weights, strict=False)
