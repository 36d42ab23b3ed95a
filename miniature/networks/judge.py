"""Judges of generated pictures: small CNNs that share no weights with the networks that they judge.

FOLDER/model.safetensors    weights
FOLDER/config.json          sizes, and the words that the outputs stand for
"""

import json
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = (32, 64, 128, 192)
EMBEDDED = 128
CROP_PX = 48
NetT = TypeVar("NetT", bound=nn.Module)


class Trunk(nn.Sequential):
    """Turns pixels into one vector: four stages of two convolutions that halve the side, then mean and maximum."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        stages = [_stage(before, after) for before, after in zip((3, *channels), channels, strict=False)]
        super().__init__(*stages, _MeanAndMaximum())
        self.width = 2 * channels[-1]

    def features(self, images: Tensor) -> Tensor:
        """Return the features before pooling, [B, C, H / 16, W / 16]."""
        for stage in list(self)[:-1]:
            images = stage(images)
        return images


class Judge(nn.Module):
    """Recognises the place and the class words that a 64 px picture shows.

    Args:
        places: names of the backgrounds.
        class_words: names of the classes.
    """

    def __init__(self, places: tuple[str, ...], class_words: tuple[str, ...]) -> None:
        super().__init__()
        self.places, self.class_words = places, class_words
        self.trunk = Trunk(CHANNELS)
        self.place = nn.Linear(self.trunk.width, len(places))
        self.cells = nn.Conv2d(CHANNELS[-1], len(class_words) + 1, 1)

    def forward(self, images: Float[Tensor, "B 3 64 64"]) -> tuple[Tensor, Tensor]:
        """Return logits of the places [B, places] and scores of the class words [B, words] for pixels in [-1, 1].

        A word's score is its log-probability in the cell that shows it most.
        """
        place, cells = self.read(self.trunk.features(images))
        return place, cells.log_softmax(dim=1)[:, :-1].amax((2, 3))

    def read(self, features: Float[Tensor, "B C h w"]) -> tuple[Tensor, Tensor]:
        """Return logits of the places, and of each cell's class word [B, words + 1, h, w], from the trunk's features.

        The last channel stands for cells without a subject.
        """
        return self.place(self.trunk[-1](features)), self.cells(features)


class Embedder(nn.Module):
    """Embeds a crop as a vector of length 1; crops of one sprite in different poses and places are close."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk(CHANNELS)
        self.embedding = nn.Linear(self.trunk.width, EMBEDDED)

    def forward(self, crops: Float[Tensor, "B 3 48 48"]) -> Float[Tensor, "B D"]:
        """Return the vectors of crops with pixels in [-1, 1]."""
        return F.normalize(self.embedding(self.trunk(crops)), dim=-1)


def save_judge(net: Judge, folder: Path) -> None:
    """Write the judge to a folder."""
    _save(net, folder, {"kind": "judge", "places": net.places, "class_words": net.class_words})


def load_judge(folder: Path) -> Judge:
    """Load a judge from a folder, in evaluation mode, float32."""
    config = json.loads((folder / "config.json").read_text())
    return _load_weights(Judge(tuple(config["places"]), tuple(config["class_words"])), folder)


def save_embedder(net: Embedder, folder: Path) -> None:
    """Write the embedder to a folder."""
    _save(net, folder, {"kind": "embedder", "channels": CHANNELS, "embedded": EMBEDDED})


def load_embedder(folder: Path) -> Embedder:
    """Load an embedder from a folder, in evaluation mode, float32."""
    return _load_weights(Embedder(), folder)


class _MeanAndMaximum(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)


def _stage(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def _save(net: nn.Module, folder: Path, config: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in net.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def _load_weights(net: NetT, folder: Path) -> NetT:
    net.load_state_dict(load_file(folder / "model.safetensors"))
    return net.eval()
