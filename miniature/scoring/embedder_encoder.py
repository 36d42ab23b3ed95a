"""The miniature world's embedder as an encoder of an evaluation. It is neither DINO nor CLIP."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from evaluation.protocols import Activation, Average, Comparison, EncoderSpec, Protocol
from miniature.networks.judge import CROP_PX, EMBEDDED, load_embedder

EMBEDDER = EncoderSpec(
    name="Miniature embedder",
    metric="Embedder",
    architecture="CNN of miniature.networks.judge",
    weights="miniature/weights/embedder",
    embedding_size=EMBEDDED,
    resize_px=CROP_PX,
    crop_px=CROP_PX,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    activation=Activation.RELU,
)
"""Embedder of sprites. It sees the whole image as a square of 48 px."""
MINIATURE = Protocol(
    name="miniature",
    title="Miniature world",
    source="this project",
    subject_encoders=(EMBEDDER,),
    prompt_encoder=None,
    comparison=Comparison.ALL_REFERENCES,
    average=Average.MACRO,
    notes=(
        "The encoder is a small network of the miniature world: its scores are not comparable with DINO or CLIP-I.",
    ),
)
"""Likeness in the space of the miniature world's embedder."""


class EmbedderEncoder:
    """Embeds images by the embedder in a folder.

    Args:
        folder: folder of `config.json` and `model.safetensors`.
        device: device that computes.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        self.spec = EMBEDDER
        self.weights_hash = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        self._net = load_embedder(folder).to(device)
        self._device = device

    def prepare(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 crop crop"]:
        """Return the image as a square with pixels in [-1, 1]."""
        square = Image.fromarray(image).resize((CROP_PX, CROP_PX), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1

    def embed_images(self, inputs: Float[Tensor, "B 3 crop crop"]) -> Float[Tensor, "B D"]:
        """Return the embedding of each prepared image, of length 1."""
        with torch.inference_mode():
            embeddings: Float[Tensor, "B D"] = self._net(inputs.to(self._device))
        return embeddings
