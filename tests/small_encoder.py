"""An encoder of images that takes microseconds: one linear layer over the pixels of a small crop."""

import torch
from torch import Tensor, nn

from evaluation.encoders.encoder import Image
from evaluation.encoders.preprocess import preprocess
from evaluation.protocols import Activation, EncoderSpec

SPEC = EncoderSpec(
    name="Linear/8",
    metric="linear",
    architecture="linear",
    weights="none",
    embedding_size=6,
    resize_px=10,
    crop_px=8,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    activation=Activation.GELU,
)


class SmallEncoder:
    """An image encoder with random weights that are those of its seed."""

    def __init__(self, seed: int = 0, spec: EncoderSpec = SPEC) -> None:
        torch.manual_seed(seed)
        self.spec = spec
        self.weights_hash = f"seed {seed}"
        self.layer = nn.Linear(3 * spec.crop_px**2, spec.embedding_size)
        self.batches: list[int] = []
        """Sizes of the batches that were embedded."""

    def prepare(self, image: Image) -> Tensor:
        return preprocess(image, self.spec)

    def embed_images(self, inputs: Tensor) -> Tensor:
        self.batches.append(len(inputs))
        embeddings: Tensor = self.layer(inputs.flatten(1))
        return embeddings
