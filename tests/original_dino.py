"""DINO and DINOv2 as their repositories compute them, over tensors by the names in their files; random ones for tests.

Sources: facebookresearch/dino@7c446df vision_transformer.py, facebookresearch/dinov2 models/vision_transformer.py.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear

Tensors = dict[str, Tensor]


def random_tensors(
    width: int = 192, layers: int = 12, patch_px: int = 16, image_px: int = 224, *, second: bool = False
) -> Tensors:
    """Return random tensors of a file of DINO, or of DINOv2 if `second`."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, (image_px // patch_px) ** 2 + 1, width),
        "patch_embed.proj.weight": (width, 3, patch_px, patch_px),
        "patch_embed.proj.bias": (width,),
    }
    if second:
        shapes["mask_token"] = (1, width)
    for block in (f"blocks.{i}." for i in range(layers)):
        linears = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        linears |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for name, shape in linears.items():
            shapes |= {f"{block}{name}.weight": shape, f"{block}{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", *["ls1.gamma", "ls2.gamma"] * second):
            shapes[block + name] = (width,)
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    scales = {name: 1.0 if "norm" in name or "ls" in name else 0.06 for name in shapes}
    return {name: scales[name] * torch.randn(shape) for name, shape in shapes.items()}


def cls_token(tensors: Tensors, images: Tensor, heads: int = 3) -> Tensor:
    """Return the class token after the last layer norm, [B, D], of images at the resolution of the positions."""
    patches = conv2d(
        images, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"],
        stride=tensors["patch_embed.proj.weight"].shape[-1],
    )  # fmt: skip
    x = torch.cat([tensors["cls_token"].expand(len(images), -1, -1), patches.flatten(2).mT], dim=1)
    x = x + tensors["pos_embed"]
    for i in range(len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})):
        block = {name.removeprefix(f"blocks.{i}."): one for name, one in tensors.items() if f"blocks.{i}." in name}
        x = x + block.get("ls1.gamma", 1.0) * _attention(block, _norm(block, "norm1", x), heads)
        hidden = gelu(_linear(block, "mlp.fc1", _norm(block, "norm2", x)))
        x = x + block.get("ls2.gamma", 1.0) * _linear(block, "mlp.fc2", hidden)
    return _norm(tensors, "norm", x)[:, 0]


def _attention(block: Tensors, x: Tensor, heads: int) -> Tensor:
    q, k, v = _linear(block, "attn.qkv", x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)
    return _linear(block, "attn.proj", (weights @ v).transpose(1, 2).flatten(2))


def _norm(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-6)


def _linear(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    return linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
