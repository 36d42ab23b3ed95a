"""SAM: the mask of a box. First the whole network with a map of all subjects beside it, then on crowded scenes with a
map that tells subjects apart, then the decoder alone.

Scenes reach the network through the ordinary preprocessing: the longest side at 192 px, padding on the right and
below. Boxes are jittered, as the detector's are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SamModel

from infra.config import Config
from infra.ranges import Count, Factor, Seed, Share
from labeling.backends.sam.predict import Preprocessing
from miniature.networks.sam import SIZES, architecture, save
from miniature.training.train import Phase, Task
from miniature.world.scenes import Scene, ScenesConfig, compose

MASK_PX = 4 * SIZES.image_px // SIZES.patch_px
PREPROCESSING = Preprocessing(side_px=SIZES.image_px)
SCENES = ScenesConfig(width_px=(160, 256), height_px=(160, 256))
CROWDED = SCENES.model_copy(update={"subjects": (3, 6)})
"""Many that touch: what is another's within a box is most of what is wrong after the first phase."""


class SamPhase(Phase):
    """A phase with its prompts."""

    boxes: Count = 2
    """Prompts an image."""
    map_weight: Factor = 1.0
    """Weight of the map of all subjects, seen by a helping head; dense supervision for the image encoder."""
    owner_weight: Factor = 0.0
    """Weight of the map in which each cell of a subject says where its subject's box is; 0: no such map. Without it
    the image encoder need not tell subjects apart that touch, as they have one map."""


class SamConfig(Config):
    seed: Seed
    everything: SamPhase
    crowded: SamPhase
    decoder: SamPhase
    jitter: Share = 0.08
    """How far each side of a box may be off, as a share of the box."""
    validation_scenes: Count = 120


class Settings(Config):
    """The tables of a recipe."""

    training: SamConfig


class SamData:
    """Scenes with boxes and their masks.

    A batch has pixels [B, 3, 192, 192], boxes [B, K, 4] (xyxy in pixels of the input), masks [B, K, 96, 96] and
    subjects [B, 96, 96], the last two as shares of each cell; and owners [B, 4, 96, 96], the way to the middle of the
    box of the subject that has most of a cell, and the box's sides, in shares of the input; NaN where there is none.
    """

    def __init__(self, boxes: int, jitter: float, scenes: ScenesConfig = SCENES) -> None:
        self.boxes, self.jitter, self.scenes = boxes, jitter, scenes

    def __call__(self, seed: Sequence[int], size: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([*seed, 1])
        scenes = [compose((*seed, i), self.scenes) for i in range(size)]
        images = [PREPROCESSING.prepare(scene.image) for scene in scenes]
        chosen = [rng.integers(len(scene.subjects), size=self.boxes) for scene in scenes]
        boxes, masks = zip(*(self._prompts(s, own, rng) for s, own in zip(scenes, chosen, strict=True)), strict=True)
        return {
            "pixels": PREPROCESSING.batch(images, torch.device("cpu")),
            "boxes": torch.from_numpy(np.stack(boxes)),
            "masks": torch.from_numpy(np.stack(masks)),
            "subjects": torch.from_numpy(np.stack([_all_subjects(scene) for scene in scenes])),
            "owners": torch.from_numpy(np.stack([_owners(scene) for scene in scenes])),
        }

    def _prompts(
        self, scene: Scene, chosen: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        subjects = [scene.subjects[i] for i in chosen]
        boxes = np.array([(s.box.x0, s.box.y0, s.box.x1, s.box.y1) for s in subjects])
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        boxes = boxes + rng.uniform(-self.jitter, self.jitter, boxes.shape) * sides
        height, width = scene.image.shape[:2]
        clipped = boxes.clip(0, (width, height, width, height)) * (SIZES.image_px / max(height, width))
        return clipped.astype(np.float32), np.stack([at_mask_size(s.mask) for s in subjects])


def at_mask_size(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The share of each cell of the network's mask, [96, 96], that `mask` [H, W] covers; padding is 0."""
    height, width = mask.shape
    side = max(height, width)
    square = torch.zeros(1, 1, side, side)
    square[0, 0, :height, :width] = torch.from_numpy(mask)
    shares: NDArray[np.float32] = F.interpolate(square, (MASK_PX, MASK_PX), mode="area")[0, 0].numpy()
    return shares


def _all_subjects(scene: Scene) -> NDArray[np.float32]:
    return at_mask_size(np.any([subject.mask for subject in scene.subjects], axis=0))


def _owners(scene: Scene) -> NDArray[np.float32]:
    """Of `SamData`."""
    longest = max(scene.image.shape[:2])
    centres = (np.arange(MASK_PX, dtype=np.float32) + 0.5) / MASK_PX
    owners = np.full((4, MASK_PX, MASK_PX), np.nan, np.float32)
    for subject in scene.subjects:
        box, mine = subject.box, at_mask_size(subject.mask) > 0.5
        across = (box.x0 + box.x1) / 2 / longest - centres[None, :]
        down = (box.y0 + box.y1) / 2 / longest - centres[:, None]
        sides = (box.x1 - box.x0) / longest, (box.y1 - box.y0) / longest
        for channel, values in zip(owners, (across, down, *sides), strict=True):
            channel[mine] = np.broadcast_to(values, mine.shape)[mine]
    return owners


class SamTask:
    """One phase."""

    def __init__(self, name: str, net: Any, config: SamConfig, phase: SamPhase, scenes: ScenesConfig = SCENES) -> None:
        self.name, self.net, self.phase = name, net, phase
        self.frozen = phase.rates.get("vision_encoder") == 0.0
        self.heads: nn.Module = nn.Conv2d(SIZES.embedding_channels, 16 * (5 if phase.owner_weight else 1), 1)
        self.data = SamData(phase.boxes, config.jitter, scenes)
        self._seed, self._scenes, self._exact = config.seed, config.validation_scenes, SamData(4, 0.0)

    def loss(self, batch: Any) -> dict[str, Tensor]:
        with torch.set_grad_enabled(not self.frozen):
            seen = self.net.vision_encoder(batch["pixels"]).last_hidden_state
        out = self.net(image_embeddings=seen, input_boxes=batch["boxes"], multimask_output=False)
        logits, predicted = out.pred_masks[:, :, 0], out.iou_scores[:, :, 0]
        terms = mask_terms(logits, batch["masks"], batch["boxes"])
        terms["iou"] = 0.2 * F.mse_loss(predicted, iou(logits > 0, batch["masks"] > 0.5))
        if self.phase.map_weight and not self.frozen:
            maps = F.pixel_shuffle(self.heads(seen), 4)
            terms["map"] = self.phase.map_weight * F.binary_cross_entropy_with_logits(maps[:, 0], batch["subjects"])
            if self.phase.owner_weight:
                owned = ~batch["owners"].isnan()
                terms["owner"] = self.phase.owner_weight * F.l1_loss(maps[:, 1:][owned], batch["owners"][owned])
        return terms

    def validate(self) -> dict[str, float]:
        """Mean IoU at mask size, from exact boxes, and the share of masks over .75."""
        found = []
        for i in range(0, self._scenes, 40):
            batch = self._exact((self._seed, 999, i), min(40, self._scenes - i))
            out = self.net(pixel_values=batch["pixels"], input_boxes=batch["boxes"], multimask_output=False)
            found.append(iou(out.pred_masks[:, :, 0] > 0, batch["masks"] > 0.5).flatten())
        ious = torch.cat(found)
        return {"mask_iou": float(ious.mean()), "over_75": float((ious >= 0.75).float().mean())}

    def finish(self) -> None:
        """Nothing is trained outside of the network."""


def mask_terms(logits: Tensor, masks: Tensor, boxes: Tensor) -> dict[str, Tensor]:
    """Cross-entropy in and just around the box, dice, and cross-entropy everywhere; all [B, K, h, w] but `boxes`."""
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    near = _near(boxes, logits.shape[-1])
    in_box = (entropy * near).sum((2, 3)) / near.sum((2, 3)).clamp(min=1)
    shares = logits.sigmoid()
    overlap, total = (shares * masks).sum((2, 3)), shares.sum((2, 3)) + masks.sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return {"in_box": in_box.mean(), "dice": dice.mean(), "everywhere": entropy.mean()}


def _near(boxes: Tensor, side: int) -> Tensor:
    """1 in the cells [B, K, side, side] within the box grown by 30 %."""
    centres = (torch.arange(side) + 0.5) * (SIZES.image_px / side)
    middle, reach = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) * 0.65
    across, down = ((centres - middle[..., i, None]).abs() < reach[..., i, None] for i in (0, 1))
    return (down[..., :, None] & across[..., None, :]).float()


def iou(found: Tensor, true: Tensor) -> Tensor:
    """IoU of boolean masks [..., h, w]; 0 where both are empty."""
    return (found & true).sum((-2, -1)) / (found | true).sum((-2, -1)).clamp(min=1)


class Training:
    """The recipe: the whole network, the same on crowded scenes, then the decoder over a frozen image encoder."""

    def __init__(self, config: SamConfig) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = SamModel(architecture())

    def tasks(self) -> list[tuple[Phase, Task]]:
        config = self.config
        return [
            (config.everything, SamTask("everything", self.net, config, config.everything)),
            (config.crowded, SamTask("crowded", self.net, config, config.crowded, CROWDED)),
            (config.decoder, SamTask("decoder", self.net, config, config.decoder)),
        ]

    def save(self, folder: Path) -> None:
        self.net.eval().half()
        save(self.net, folder)
        self.net.float()
