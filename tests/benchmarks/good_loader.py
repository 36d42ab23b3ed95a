"""A training sample as an expert makes it: tar members, OpenCV's JPEG decoder and warps, pycocotools, one pass each.

Nothing of our loader is used but its settings and the tokenizer. The picture is decoded at full size, as libraries for
JPEG do by default, or at half size where that still fills the crop.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco

from model.inputs.prompt import Prompt, PromptTokenizer
from training.data.config import AugmentationConfig, DataConfig

WHITE = (255, 255, 255)


def read_members(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield image and labels of each sample of a tar shard."""
    with tarfile.open(path, "r|") as tar:
        image = b""
        for member in tar:
            content = tar.extractfile(member).read()
            if member.name.endswith(".jpg"):
                image = content
            else:
                yield image, json.loads(content)


class GoodLoader:
    """Makes batches of samples with `subjects` subjects each."""

    def __init__(self, config: DataConfig, subjects: int, prompts: PromptTokenizer, reduced: bool) -> None:
        self._config, self._count, self._prompts, self._reduced = config, subjects, prompts, reduced
        self._rng = np.random.default_rng(0)

    def batches(self, shard: Path) -> Iterator[dict[str, Any]]:
        """Yield batches of a tar shard: prompts, boxes, masks at the latent's size, images and subjects' pictures."""
        samples = []
        for image, labels in read_members(shard):
            samples.append(self._sample(image, labels))
            if len(samples) == self._config.batch_size:
                prompts, *arrays = zip(*samples, strict=True)
                tensors = [torch.from_numpy(np.stack(parts)) for parts in arrays]
                yield {"prompts": self._prompts.stack(prompts), "tensors": tensors}
                samples = []

    def _sample(self, image: bytes, labels: dict[str, Any]) -> tuple[Any, ...]:
        config, rng = self._config, self._rng
        picture, scale = self._decode(image, labels)
        chosen = [labels["entities"][i] for i in sorted(rng.choice(len(labels["entities"]), self._count, False))]
        side = min(picture.shape[:2])
        left, top = (int(rng.integers(0, edge - side + 1)) for edge in picture.shape[1::-1])
        crop = np.s_[top : top + side, left : left + side]
        pixels = _resize(picture[crop], config.image_px)
        boxes = np.array([[entity["box"][edge] for edge in ("x0", "y0", "x1", "y1")] for entity in chosen], np.float32)
        masks = [self._mask(entity["mask"], labels) for entity in chosen]
        cells = config.image_px // config.latent_downsampling
        at_full = tuple(slice(edge.start * scale, edge.stop * scale) for edge in crop)
        small = [_resize(mask[at_full] * np.float32(1), cells) for mask in masks]
        prompt = self._prompts.tokenize(Prompt(labels["caption"], [entity["label"] for entity in chosen]))
        subjects = [self._subject(picture, mask[::scale, ::scale]) for mask in masks]
        return prompt, boxes / (side * scale), np.stack(small), pixels.transpose(2, 0, 1), np.stack(subjects)

    def _decode(self, image: bytes, labels: dict[str, Any]) -> tuple[NDArray[np.uint8], int]:
        halves = self._reduced and min(labels["width_px"], labels["height_px"]) // 2 >= self._config.image_px
        flags = cv2.IMREAD_REDUCED_COLOR_2 if halves else cv2.IMREAD_COLOR
        decoded = cv2.imdecode(np.frombuffer(image, np.uint8), flags)
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded), 2 if halves else 1

    @staticmethod
    def _mask(mask: dict[str, Any], labels: dict[str, Any]) -> NDArray[np.uint8]:
        """Return the mask in its image [H, W]; the shard has it cropped to its bounds."""
        full = np.zeros((labels["height_px"], labels["width_px"]), np.uint8)
        inside = np.s_[mask["y0"] : mask["y0"] + mask["height_px"], mask["x0"] : mask["x0"] + mask["width_px"]]
        full[inside] = coco.decode({"size": [mask["height_px"], mask["width_px"]], "counts": mask["counts"].encode()})
        return full

    def _subject(self, picture: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the subject on white, mirrored, in perspective and turned, by one warp to its final size."""
        left, top, width, height = cv2.boundingRect(mask)
        inside = np.s_[top : top + height, left : left + width]
        alone = np.full((height, width, 3), 255, np.uint8)
        cv2.copyTo(picture[inside], mask[inside], alone)
        px = self._config.subject_px
        corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
        placed = _draw_corners(corners, self._config.augmentation, self._rng)
        placed -= placed.min(axis=0)
        placed *= px / placed.max()
        placed += (px - placed.max(axis=0)) / 2
        if max(width, height) > 2 * px:  # a bilinear warp would skip pixels
            alone = cv2.resize(alone, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            corners = corners * np.float32(0.5)
        transform = cv2.getPerspectiveTransform(corners, placed.astype(np.float32))
        return cv2.warpPerspective(alone, transform, (px, px), borderValue=WHITE).transpose(2, 0, 1)


def _draw_corners(
    corners: NDArray[np.float32], config: AugmentationConfig, rng: np.random.Generator
) -> NDArray[np.float32]:
    centre = corners.mean(axis=0)
    moved = corners.copy()
    if rng.random() < config.perspective_chance:
        moved += 2 * rng.uniform(0, config.perspective / 2, (4, 2)).astype(np.float32) * (centre - corners)
    if rng.random() < config.flip:
        moved[:, 0] = 2 * centre[0] - moved[:, 0]
    angle = np.deg2rad(rng.uniform(-config.rotation_deg, config.rotation_deg))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    return (moved - centre) @ turn


def _resize(picture: NDArray[Any], side_px: int) -> NDArray[Any]:
    if picture.shape[0] == side_px:
        return picture
    return cv2.resize(picture, (side_px, side_px), interpolation=cv2.INTER_AREA)
