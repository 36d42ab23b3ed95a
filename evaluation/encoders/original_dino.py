"""Names of tensors in the authors' files of DINO and DINOv2, changed to those of transformers."""

import re
from collections.abc import Mapping

from torch import Tensor

_BOTH = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "attn.proj": "attention.output.dense",
    "norm": "layernorm",
}
_RENAMED = {
    "vit": _BOTH
    | {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    },
    "dinov2": _BOTH
    | {
        "mask_token": "embeddings.mask_token",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    },
}
"""New names of a tensor or of its layer, without block and `.weight` or `.bias`, by type of network."""
_NAME = re.compile(r"(?:blocks\.(?P<block>\d+)\.)?(?P<layer>.+?)(?P<kind>\.weight|\.bias)?")
_QKV = ("query", "key", "value")


def to_transformers(tensors: Mapping[str, Tensor], model_type: str) -> dict[str, Tensor]:
    """Return the tensors by transformers' names, with queries, keys and values apart.

    Args:
        tensors: tensors by the authors' names; one of an unknown name keeps it.
        model_type: "vit" for DINO, or "dinov2".
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        block, layer, kind = _parts(name)
        if layer == "attn.qkv":
            thirds = zip(_QKV, tensor.chunk(3), strict=True)
            renamed |= {f"{block}attention.attention.{part}{kind}": third for part, third in thirds}
        else:
            renamed[f"{block}{_RENAMED[model_type].get(layer, layer)}{kind}"] = tensor
    return renamed


def _parts(name: str) -> tuple[str, str, str]:
    """Return the prefix of the block, the name of the layer, and `.weight`, `.bias` or nothing."""
    parts = _NAME.fullmatch(name)
    if parts is None:
        return "", name, ""
    block = "" if parts["block"] is None else f"encoder.layer.{parts['block']}."
    return block, parts["layer"], parts["kind"] or ""
