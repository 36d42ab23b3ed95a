"""Files of weights with the headers of real ones and no values: of any size, and written at once.

A safetensors file is sparse. A pickle holds tensors whose values all are one number, stored once.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

TYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.bool: "BOOL",
}
"""Names of types in safetensors files."""


def save_hollow(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a sparse safetensors file with the names, shapes and types of `tensors`."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.element_size() * math.prod(tensor.shape)
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # aligns the tensors
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)


def save_hollow_shards(folder: Path, name: str, tensors: Mapping[str, Tensor], count: int = 2) -> None:
    """Write `count` sparse safetensors files and the index that lists them."""
    stem = name.removesuffix(".safetensors")
    names = sorted(tensors)
    shards = {f"{stem}-{i + 1:05}-of-{count:05}.safetensors": names[i::count] for i in range(count)}
    for shard, own in shards.items():
        save_hollow(folder / shard, {name: tensors[name] for name in own})
    places = {name: shard for shard, own in shards.items() for name in own}
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def hollow(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of the same names, shapes and types that `torch.save` writes in a few bytes each."""
    return {name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in tensors.items()}
