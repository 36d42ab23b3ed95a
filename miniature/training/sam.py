"""Training of SAM, which finds the mask of a box: first the whole network, finally on scenes with textures.

Its phases are the whole network, the same on crowded scenes, the decoder, and the whole network on textures, first at
one learning rate, then while the rate falls. The first phase also predicts a map of all subjects, the crowded and the
textured one a map that separates subjects. Scenes pass through the ordinary preprocessing: the longest side at 192 px,
padding on the right and below. Boxes are jittered to imitate the detector's.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SamModel

from infra.config import Config
from infra.ranges import Count, Factor, Seed, Share, ShareBelowOne
from labeling.backends.sam.predict import Preprocessing
from miniature.networks.sam import SIZES, architecture, save
from miniature.training.average import Average
from miniature.training.train import Phase, Task
from miniature.world.scenes import Scene, ScenesConfig, compose

MASK_PX = 4 * SIZES.image_px // SIZES.patch_px
PREPROCESSING = Preprocessing(side_px=SIZES.image_px)
SCENES = ScenesConfig(width_px=(160, 256), height_px=(160, 256))
CROWDED = SCENES.model_copy(update={"subjects": (3, 6)})
"""Scenes with many touching subjects: most errors after the first phase include parts of a neighbouring subject."""
TEXTURED = SCENES.model_copy(update={"subjects": (2, 6), "texture_share": 0.6})
"""The same on textures, so that the network separates subjects from backgrounds that it has never seen."""
_BORDER_CELLS = 9
"""Reach of the border between subjects, in cells of the mask: width of the squares that touch both."""


class SamPhase(Phase):
    """Settings of a phase with prompts."""

    boxes: Count = 2
    """Number of prompts per image."""
    map_weight: Factor = 1.0
    """Weight of the loss of an auxiliary head that maps all subjects, which supervises the image encoder densely; 0
    turns it off."""
    owner_weight: Factor = 0.0
    """Weight of the loss of an auxiliary head by which each cell of a subject predicts the subject's box; 0 turns it
    off. Unlike the map of all subjects, it trains the image encoder to separate touching subjects."""
    border_weight: Factor = 0.0
    """Weight of the cross-entropy in cells near both the subject and another one; 0 turns it off."""
    exact_share: Share = 0.0
    """Share of boxes, 0 to 1, that are not jittered. The edges of an exact box tell which of two overlapping subjects
    it is about."""
    average_decay: ShareBelowOne = 0.0
    """Decay per step of a running average of the weights, which is validated and is the phase's result; 0 turns it off.
    With a constant learning rate, the result after any step is that of a phase that ends there."""


class SamConfig(Config):
    """Settings of SAM's training."""

    seed: Seed
    """Seed of weights and data."""
    everything: SamPhase
    """Phase that trains the whole network."""
    crowded: SamPhase
    """Phase that trains the whole network on crowded scenes."""
    decoder: SamPhase
    """Phase that trains the decoder."""
    textured: SamPhase
    """Phase that trains the whole network on crowded scenes, most of them on textures."""
    settled: SamPhase
    """Phase that goes on with the same scenes while the learning rate falls."""
    jitter: Share = 0.08
    """Largest shift of each side of a box, as a share of the box's side; 0 uses exact boxes."""
    validation_scenes: Count = 120
    """Number of scenes for validation."""


class Settings(Config):
    """Tables of the recipe."""

    training: SamConfig
    """Settings of the training."""


class SamData:
    """Scenes with boxes and their masks.

    A batch has pixels [B, 3, 192, 192], boxes [B, K, 4] (xyxy in pixels of the input), masks [B, K, 96, 96] and
    subjects [B, 96, 96], the last two as shares of each cell. It also has owners [B, 4, 96, 96]: the offset to the
    centre of the box of the cell's subject, and the box's sides, in shares of the input; NaN in cells without subject.
    """

    def __init__(self, boxes: int, jitter: float, scenes: ScenesConfig = SCENES, exact_share: float = 0.0) -> None:
        self.boxes, self.jitter, self.scenes, self.exact_share = boxes, jitter, scenes, exact_share

    def __call__(self, seed: Sequence[int], size: int) -> dict[str, Tensor]:
        """Return a batch."""
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
            "owners": torch.from_numpy(np.stack([_owner_maps(scene) for scene in scenes])),
        }

    def _prompts(
        self, scene: Scene, chosen: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        subjects = [scene.subjects[i] for i in chosen]
        boxes = np.array([(s.box.x0, s.box.y0, s.box.x1, s.box.y1) for s in subjects])
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        shifts = rng.uniform(-self.jitter, self.jitter, boxes.shape) * sides
        if self.exact_share:
            shifts[rng.random(len(boxes)) < self.exact_share] = 0
        boxes = boxes + shifts
        height, width = scene.image.shape[:2]
        clipped = boxes.clip(0, (width, height, width, height)) * (SIZES.image_px / max(height, width))
        return clipped.astype(np.float32), np.stack([at_mask_size(s.mask) for s in subjects])


def at_mask_size(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the share of each cell of the network's mask, [96, 96], that `mask` [H, W] covers; padding is 0."""
    height, width = mask.shape
    side = max(height, width)
    square = torch.zeros(1, 1, side, side)
    square[0, 0, :height, :width] = torch.from_numpy(mask)
    shares: NDArray[np.float32] = F.interpolate(square, (MASK_PX, MASK_PX), mode="area")[0, 0].numpy()
    return shares


def _all_subjects(scene: Scene) -> NDArray[np.float32]:
    return at_mask_size(np.any([subject.mask for subject in scene.subjects], axis=0))


def _owner_maps(scene: Scene) -> NDArray[np.float32]:
    """Return the owners of `SamData` for a scene."""
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
    """Trains the network, or parts of it, on masks of boxes."""

    def __init__(
        self, name: str, net: SamModel, config: SamConfig, phase: SamPhase, scenes: ScenesConfig = SCENES
    ) -> None:
        self.name, self.net, self.phase = name, net, phase
        self.frozen = phase.rates.get("vision_encoder") == 0.0
        self.maps = nn.Conv2d(SIZES.embedding_channels, 16 * (5 if phase.owner_weight else 1), 1)
        self.average = Average(net, phase.average_decay) if phase.average_decay else None
        self.heads: nn.Module = nn.ModuleList([self.maps, self.average]) if self.average else self.maps
        self.data = SamData(phase.boxes, config.jitter, scenes, phase.exact_share)
        self._seed, self._scenes, self._exact = config.seed, config.validation_scenes, SamData(4, 0.0)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of masks, predicted IoU and auxiliary maps, and update the running average."""
        if self.average:
            self.average.update(self.net)
        with torch.set_grad_enabled(not self.frozen):
            features = self.net.vision_encoder(batch["pixels"]).last_hidden_state
        out = self.net(image_embeddings=features, input_boxes=batch["boxes"], multimask_output=False)
        logits, predicted = out.pred_masks[:, :, 0], out.iou_scores[:, :, 0]
        terms = mask_terms(logits, batch["masks"], batch["boxes"])
        terms["iou"] = 0.2 * F.mse_loss(predicted, iou(logits > 0, batch["masks"] > 0.5))
        if self.phase.border_weight:
            border = border_term(logits, batch["masks"], batch["subjects"])
            terms["border"] = self.phase.border_weight * border
        if self.phase.map_weight and not self.frozen:
            maps = F.pixel_shuffle(self.maps(features), 4)
            terms["map"] = self.phase.map_weight * F.binary_cross_entropy_with_logits(maps[:, 0], batch["subjects"])
            if self.phase.owner_weight:
                owned = ~batch["owners"].isnan()
                terms["owner"] = self.phase.owner_weight * F.l1_loss(maps[:, 1:][owned], batch["owners"][owned])
        return terms

    def validate(self) -> dict[str, float]:
        """Return the mean IoU at mask size, from exact boxes, and the share of masks with an IoU of at least .75."""
        overlaps, net = [], self.average.average if self.average else self.net
        for i in range(0, self._scenes, 40):
            batch = self._exact((self._seed, 999, i), min(40, self._scenes - i))
            out = net(pixel_values=batch["pixels"], input_boxes=batch["boxes"], multimask_output=False)
            overlaps.append(iou(out.pred_masks[:, :, 0] > 0, batch["masks"] > 0.5).flatten())
        ious = torch.cat(overlaps)
        return {"mask_iou": float(ious.mean()), "over_75": float((ious >= 0.75).float().mean())}

    def finish(self) -> None:
        """Replace the weights of the last step by the average, if there is one."""
        if self.average:
            self.average.copy_to(self.net)


def _without_average(phase: SamPhase) -> SamPhase:
    """Return the phase with rate 0 for the running average, which no optimiser trains."""
    return phase.model_copy(update={"rates": phase.rates | {"1.average.": 0.0}})


def mask_terms(logits: Tensor, masks: Tensor, boxes: Tensor) -> dict[str, Tensor]:
    """Return the cross-entropy in and near the box, the dice loss, and the cross-entropy everywhere.

    Args:
        logits: logits of the masks, [B, K, h, w].
        masks: true shares of the cells, [B, K, h, w].
        boxes: xyxy in pixels of the input, [B, K, 4].
    """
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    near = _near(boxes, logits.shape[-1])
    in_box = (entropy * near).sum((2, 3)) / near.sum((2, 3)).clamp(min=1)
    shares = logits.sigmoid()
    overlap, total = (shares * masks).sum((2, 3)), shares.sum((2, 3)) + masks.sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return {"in_box": in_box.mean(), "dice": dice.mean(), "everywhere": entropy.mean()}


def border_term(logits: Tensor, masks: Tensor, subjects: Tensor) -> Tensor:
    """Return the mean cross-entropy of the cells near both the subject of the box and another subject; 0 without such.

    Args:
        logits: logits of the masks, [B, K, h, w].
        masks: true shares of the cells, [B, K, h, w].
        subjects: shares of the cells that any subject covers, [B, h, w].
    """
    others = (subjects[:, None] - masks > 0.5).float()
    near_both = _spread(masks) * _spread(others)
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    return (entropy * near_both).sum() / near_both.sum().clamp(min=1)


def _spread(cells: Tensor) -> Tensor:
    """Return 1 in the cells [B, K, h, w] near one that is more than half covered, otherwise 0."""
    width, padding = _BORDER_CELLS, _BORDER_CELLS // 2
    across = F.max_pool2d(cells, (1, width), stride=1, padding=(0, padding))  # one axis at a time: four times as fast
    return (F.max_pool2d(across, (width, 1), stride=1, padding=(padding, 0)) > 0.5).float()


def _near(boxes: Tensor, side: int) -> Tensor:
    """Return 1 in the cells [B, K, side, side] within the box enlarged by 30 %, otherwise 0."""
    centres = (torch.arange(side) + 0.5) * (SIZES.image_px / side)
    middle, reach = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) * 0.65
    across, down = ((centres - middle[..., i, None]).abs() < reach[..., i, None] for i in (0, 1))
    return (down[..., :, None] & across[..., None, :]).float()


def iou(predicted: Tensor, true: Tensor) -> Tensor:
    """Return the IoU of boolean masks [..., h, w]; 0 where both are empty."""
    return (predicted & true).sum((-2, -1)) / (predicted | true).sum((-2, -1)).clamp(min=1)


class Training:
    """Recipe: the whole network, also on crowded scenes; the decoder with a frozen encoder; all on textures, twice."""

    def __init__(self, config: SamConfig) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = SamModel(architecture())

    def tasks(self) -> list[tuple[Phase, Task[dict[str, Tensor]]]]:
        """Return the phases with their tasks."""
        config = self.config
        return [
            (config.everything, SamTask("everything", self.net, config, config.everything)),
            (config.crowded, SamTask("crowded", self.net, config, config.crowded, CROWDED)),
            (config.decoder, SamTask("decoder", self.net, config, config.decoder)),
            (_without_average(config.textured), SamTask("textured", self.net, config, config.textured, TEXTURED)),
            (config.settled, SamTask("settled", self.net, config, config.settled, TEXTURED)),
        ]

    def save(self, folder: Path) -> None:
        """Write the network in half precision."""
        self.net.eval().half()
        save(self.net, folder)
        self.net.float()
