"""A small image encoder: open_clip's vision tower, 64 px, 256 patches of 4 px and CLS, in OpenCLIP's hub layout."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from model.networks.image_encoder import visual_tower
from model.openclip import VisionTransformer

SIDE_PX, PATCH_PX, WIDTH = 64, 4, 128
SETTINGS: dict[str, dict[str, object]] = {
    "model_cfg": {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "image_size": SIDE_PX,
            "patch_size": PATCH_PX,
            "layers": 3,
            "width": WIDTH,
            "head_width": 32,
            "mlp_ratio": 3.0,
        },
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


def build(seed: int) -> VisionTransformer:
    """Return the tower with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return visual_tower(SETTINGS["model_cfg"])


def save(tower: VisionTransformer, folder: Path) -> None:
    """Write the folder that `model.image_encoder` names."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"visual.{name}": tensor.contiguous() for name, tensor in tower.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
