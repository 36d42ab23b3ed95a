"""Training of Grounding DINO, which finds the boxes of nouns: first the backbone, then the whole detector.

The loss in transformers cannot train the network from scratch: with `two_stage`, the heads that propose boxes get no
gradient, and if prompts of a batch have different numbers of nouns, labels are looked up in the wrong rows. Here
proposals learn one peak for each box, and the decoder is trained with Hungarian matching.

The backbone is trained in a phase of its own with normal batch norms, because the class turns them into constants.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou
from transformers import GroundingDinoForObjectDetection, ResNetBackbone
from transformers.utils import ModelOutput

from infra.config import Config
from infra.ranges import Count, CountOrZero, Seed
from labeling.backends.grounding_dino.detect import PromptedDetector, prepare_image
from labeling.backends.grounding_dino.prompt import PromptBatch, PromptWriter, collate
from labeling.config import DetectConfig
from labeling.sdd.schema import Box
from miniature.networks.grounding_dino import SIZES, architecture, image_processor, save
from miniature.networks.vocabulary import Vocabulary, detection_vocabulary
from miniature.training.boxes import NO_OWNER, box_terms, cell_owners, corners, focal, peaks, priors
from miniature.training.matching import match_boxes
from miniature.training.train import Phase, Task
from miniature.training.truth import Answer, scene_subjects
from miniature.world.backgrounds import BACKGROUNDS
from miniature.world.names import labelled_names
from miniature.world.scenes import Scene, ScenesConfig, compose, phrases
from miniature.world.sprites import Sprite, sprites

SCENES = ScenesConfig(width_px=(160, 256), height_px=(160, 256), names=labelled_names())
CROWDED = SCENES.model_copy(update={"subjects": (3, 7)})
"""Scenes for training the backbone; with more subjects, more cells of each picture show a sprite."""
_PRIOR = 2.0
"""Square root of minus the initial logit of a token without evidence."""


class GroundingDinoConfig(Config):
    """Settings of Grounding DINO's training."""

    seed: Seed
    """Seed of weights and data."""
    backbone: Phase
    """Phase that trains the backbone."""
    detector: Phase
    """Phase that trains the whole detector."""
    distractors: CountOrZero = 4
    """Largest number of nouns of a prompt that are not in the picture, besides the word for its background."""
    validation_scenes: Count = 120
    """Number of scenes for validation."""


class Settings(Config):
    """Tables of the recipe."""

    training: GroundingDinoConfig
    """Settings of the training."""


@dataclass(frozen=True, slots=True)
class Example:
    """A scene with the nouns of its prompt."""

    scene: Scene
    nouns: tuple[str, ...]
    """Nouns of the prompt."""
    prompted: tuple[int, ...]
    """Indices of the subjects that the nouns name."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Images with their prompts and boxes (cx, cy, w, h); lists have one item for each image."""

    pixels: Tensor
    prompts: PromptBatch
    boxes: list[Tensor]
    """Boxes of the subjects that the prompt names, [n, 4]."""
    tokens: list[Tensor]
    """1 at the tokens of each of these subjects, [n, T]."""
    all_boxes: list[Tensor]
    """Boxes of all subjects, [m, 4]."""
    all_names: list[Tensor]
    """Indices of all subjects in `labelled_names()`, [m]."""


class DetectionData:
    """Scenes through the ordinary image processor, with prompts by the ordinary writer."""

    def __init__(self, vocabulary: Vocabulary, distractors: int, scenes: ScenesConfig = SCENES) -> None:
        self.scenes, self.distractors = scenes, distractors
        self.processor = image_processor()
        self.writer = PromptWriter(vocabulary.tokenizer(), SIZES.max_tokens)
        self.index = {name: i for i, name in enumerate(labelled_names())}

    def __call__(self, seed: Sequence[int], size: int) -> Batch:
        """Return a batch."""
        rng = np.random.default_rng([*seed, 1])
        examples = [self._example(compose((*seed, i), self.scenes), rng) for i in range(size)]
        images = [prepare_image(self.processor, example.scene.image) for example in examples]
        prompts = [self.writer.write(example.nouns)[0] for example in examples]
        batch = collate(prompts)
        return Batch(
            pixels=torch.stack([image.pixels for image in images]),
            prompts=batch,
            boxes=[scene_boxes(e.scene)[list(e.prompted)] for e in examples],
            tokens=[_tokens(e, own) for e, own in zip(examples, batch.owners, strict=True)],
            all_boxes=[scene_boxes(e.scene) for e in examples],
            all_names=[torch.tensor([self.index[s.sprite.name] for s in e.scene.subjects]) for e in examples],
        )

    def _example(self, scene: Scene, rng: np.random.Generator) -> Example:
        """Prompt for most subjects, some nouns that are absent, and mostly the background's noun, in random order."""
        prompted = [i for i in range(len(scene.subjects)) if rng.random() < 0.85] or [0]
        present = {word for s in scene.subjects for word in (s.sprite.name, s.sprite.class_word)}
        absent = [w for w in _words() if w not in present]
        nouns = [scene.subjects[i].label for i in prompted]
        nouns += rng.choice(absent, int(rng.integers(self.distractors, endpoint=True)), replace=False).tolist()
        nouns += [scene.background] if rng.random() < 0.8 else []
        return Example(scene, tuple(nouns[i] for i in rng.permutation(len(nouns))), tuple(prompted))


def _words() -> list[str]:
    names = set(labelled_names())
    taught: list[Sprite] = [s for s in sprites() if s.name in names]
    return sorted({word for s in taught for word in (s.name, s.class_word)} | set(BACKGROUNDS))


def _tokens(example: Example, owner: Tensor) -> Tensor:
    """Return 1 at the tokens of each subject that the prompt names, [n, T]."""
    places = [example.nouns.index(example.scene.subjects[i].label) for i in example.prompted]
    return (owner[None] == torch.tensor(places)[:, None]).float()


def scene_boxes(scene: Scene) -> Tensor:
    """Return the boxes (cx, cy, w, h) of all subjects in shares of the image, [n, 4]."""
    height, width = scene.image.shape[:2]
    boxes = torch.tensor([(s.box.x0, s.box.y0, s.box.x1, s.box.y1) for s in scene.subjects])
    low, high = boxes[:, :2] / torch.tensor([width, height]), boxes[:, 2:] / torch.tensor([width, height])
    return torch.cat([(low + high) / 2, high - low], dim=1)


class BackboneTask:
    """Trains every cell of the backbone to predict the name and the box of its sprite."""

    def __init__(self, net: GroundingDinoForObjectDetection, data: DetectionData, config: GroundingDinoConfig) -> None:
        self.name, self.net, self.data = "backbone", net, data
        width, names = SIZES.width, len(labelled_names())
        boxes = nn.Linear(width, 4)
        nn.init.zeros_(boxes.weight)
        backbone = ResNetBackbone(net.config.backbone_config)
        self.heads = nn.ModuleDict({"backbone": backbone, "names": nn.Linear(width, names + 1), "boxes": boxes})
        self._priors = torch.logit(priors(), 1e-4)
        self._seed, self._scenes = config.seed, config.validation_scenes

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of names and boxes."""
        logits, boxes = self._cells(batch.pixels)
        owner = torch.stack([cell_owners(own) for own in batch.all_boxes])
        owned = owner >= 0
        names, truth = _of_owner(owner, batch.all_names), _of_owner(owner, batch.all_boxes)[owned]
        no_name = logits.shape[-1] - 1
        target = torch.where(owned, names, no_name)
        entropy = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
        distance, overlap = box_terms(boxes[owned], truth)
        return {
            "names": entropy[owned].mean(),
            "nobody": entropy[owner == NO_OWNER].mean(),
            "distance": 2.5 * distance,
            "overlap": overlap,
        }

    def validate(self) -> dict[str, float]:
        """Return the share of owned cells with the right name, and the mean generalised IoU of their boxes."""
        right, overlaps = [], []
        for i in range(0, self._scenes, 40):
            batch = self.data((self._seed, 999, i), min(40, self._scenes - i))
            logits, boxes = self._cells(batch.pixels)
            owner = torch.stack([cell_owners(own) for own in batch.all_boxes])
            owned = owner >= 0
            right.append(logits[..., :-1].argmax(-1)[owned] == _of_owner(owner, batch.all_names)[owned])
            overlaps.append(1 - box_terms(boxes[owned], _of_owner(owner, batch.all_boxes)[owned])[1])
        return {"named": float(torch.cat(right).float().mean()), "giou": float(torch.stack(overlaps).mean())}

    def finish(self) -> None:
        """Copy the trained backbone to the detector, whose constant norms take the running means."""
        own = self.net.model.backbone.conv_encoder.model
        own.load_state_dict(self.heads["backbone"].state_dict(), strict=False)

    def _cells(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of names [B, 180, N + 1] and boxes [B, 180, 4]."""
        maps = self.heads["backbone"](pixels).feature_maps
        projected = [p(m) for p, m in zip(self.net.model.input_proj_vision, maps, strict=True)]
        cells = torch.cat([m.flatten(2).transpose(1, 2) for m in projected], dim=1)
        return self.heads["names"](cells), (self.heads["boxes"](cells) + self._priors).sigmoid()


def _of_owner(owner: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Return the value of each cell's owner, [B, 180, ...], or of the first subject for cells without owner."""
    return torch.stack([own[cells.clamp(min=0)] for cells, own in zip(owner, values, strict=True)])


class DetectorTask:
    """Trains proposals on peaks and decoder layers with Hungarian matching."""

    def __init__(self, net: GroundingDinoForObjectDetection, data: DetectionData, config: GroundingDinoConfig) -> None:
        self.name, self.net, self.data = "detector", net, data
        self.heads: nn.Module = nn.Identity()
        self._seed, self._scenes = config.seed, config.validation_scenes

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of proposals and of each decoder layer."""
        prompts = batch.prompts
        out = self.net(pixel_values=batch.pixels, input_ids=prompts.token_ids, attention_mask=prompts.attention_mask)
        count = sum(map(len, batch.boxes))
        terms = proposal_terms(out, batch, count)
        for layer, (logits, boxes) in enumerate(self._layers(out)):
            for name, term in decoder_terms(logits, boxes, batch, count).items():
                terms[f"{name}_{layer}"] = term
        return terms

    def validate(self) -> dict[str, float]:
        """Return recall, precision and mean IoU of boxes from the true nouns, including the background's."""
        network = PromptedDetector(self._forward, self.data.writer, torch.device("cpu"), DetectConfig())
        true = predicted = 0
        overlaps: list[float] = []
        for i in range(self._scenes):
            scene = compose((self._seed, 999, i), self.data.scenes)
            nouns = [*(s.label for s in scene.subjects), scene.background]
            answers = network.detect([prepare_image(self.data.processor, scene.image)], [nouns])[0]
            boxes = [Answer(nouns[a.label_index], _box(a.box)) for a in answers]
            true, predicted = true + len(scene.subjects), predicted + len(boxes)
            overlaps += [overlap for _, _, overlap in match_boxes(boxes, scene_subjects(scene))]
        right = len(overlaps)
        return {"recall": right / true, "precision": right / max(1, predicted), "iou": sum(overlaps) / max(1, right)}

    def finish(self) -> None:
        """Do nothing: all trained weights are in the network."""

    def _forward(self, pixels: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        out = self.net(pixel_values=pixels, input_ids=prompts.token_ids, attention_mask=prompts.attention_mask)
        return out.logits, out.pred_boxes

    def _layers(self, out: ModelOutput) -> list[tuple[Tensor, Tensor]]:
        """Return logits [B, Q, T] and boxes [B, Q, 4] of each decoder layer."""
        states, text = out.intermediate_hidden_states, out.encoder_last_hidden_state_text.transpose(1, 2)
        starts = [out.init_reference_points, *out.intermediate_reference_points.unbind(1)]
        return [
            (state @ text, (self.net.bbox_embed[i](state) + torch.logit(start, 1e-5)).sigmoid())
            for i, (state, start) in enumerate(zip(states.unbind(1), starts, strict=False))
        ]


def _box(corners: tuple[float, float, float, float]) -> Box:
    x0, y0, x1, y1 = corners
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)


def proposal_terms(out: ModelOutput, batch: Batch, count: int) -> dict[str, Tensor]:
    """Return the losses of the proposals.

    The peak cell of a subject is trained on its tokens, and the cells of its core on its box. Other cells near its
    centre have reduced weight.
    """
    mask = batch.prompts.attention_mask.bool()
    logits = out.enc_outputs_class[..., : mask.shape[1]].masked_fill(~mask[:, None], 0.0)
    target, weight = torch.zeros_like(logits), torch.ones_like(logits)
    for i, (boxes, tokens) in enumerate(zip(batch.boxes, batch.tokens, strict=True)):
        peak = peaks(boxes)
        near = (tokens[:, None] * peak.nearness[:, :, None]).amax(0)
        weight[i] = (1 - near) ** 4
        target[i, peak.cells], weight[i, peak.cells] = tokens, 1.0
    owner = torch.stack([cell_owners(boxes) for boxes in batch.boxes])
    owned = owner >= 0
    boxes = out.enc_outputs_coord_logits.sigmoid()[owned]
    distance, overlap = box_terms(boxes, _of_owner(owner, batch.boxes)[owned])
    entropy = (focal(logits, target) * weight * mask[:, None]).sum() / count
    return {"proposal": 2 * entropy, "proposal_distance": 5 * distance, "proposal_overlap": 2 * overlap}


def decoder_terms(logits: Tensor, boxes: Tensor, batch: Batch, count: int) -> dict[str, Tensor]:
    """Return the losses of a decoder layer: one query for each subject, by the cheapest assignment.

    The target of all other tokens and queries is 0.
    """
    target = torch.zeros_like(logits)
    predicted, true = [], []
    for i, (own, tokens) in enumerate(zip(batch.boxes, batch.tokens, strict=True)):
        queries, subjects = linear_sum_assignment(_costs(logits[i].detach(), boxes[i].detach(), own, tokens))
        target[i, torch.from_numpy(queries)] = tokens[subjects]
        predicted.append(boxes[i, torch.from_numpy(queries)])
        true.append(own[subjects])
    distance, overlap = box_terms(torch.cat(predicted), torch.cat(true))
    entropy = (focal(logits, target) * batch.prompts.attention_mask[:, None]).sum() / count
    return {"tokens": 2 * entropy, "distance": 5 * distance, "overlap": 2 * overlap}


def _costs(logits: Tensor, boxes: Tensor, true: Tensor, tokens: Tensor) -> NDArray[np.float32]:
    """Return the cost of assigning each query to each subject, [Q, n]."""
    ones, zeros = torch.ones_like(logits), torch.zeros_like(logits)
    of_token = focal(logits, ones) - focal(logits, zeros)
    words = of_token @ (tokens / tokens.sum(dim=1, keepdim=True)).T
    overlap = generalized_box_iou(corners(boxes), corners(true))
    costs: NDArray[np.float32] = (2 * words + 5 * torch.cdist(boxes, true, p=1) - 2 * overlap).numpy()
    return costs


class Training:
    """Recipe: the backbone, then the whole detector."""

    def __init__(self, config: GroundingDinoConfig) -> None:
        self.config = config
        self.vocabulary = detection_vocabulary(phrases())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = GroundingDinoForObjectDetection(architecture(self.vocabulary))
        _initialise(self.net)

    def tasks(self) -> list[tuple[Phase, Task[Batch]]]:
        """Return the phases with their tasks."""
        config, vocabulary = self.config, self.vocabulary
        crowded, ordinary = (DetectionData(vocabulary, config.distractors, s) for s in (CROWDED, SCENES))
        return [
            (config.backbone, BackboneTask(self.net, crowded, config)),
            (config.detector, DetectorTask(self.net, ordinary, config)),
        ]

    def save(self, folder: Path) -> None:
        """Write the network in half precision."""
        self.net.eval().half()
        save(self.net, folder, self.vocabulary)
        self.net.float()


@torch.no_grad()
def _initialise(net: GroundingDinoForObjectDetection) -> None:
    """Set the scale and prior of the logits, which are products of two layer norms, and strengthen the fusion layers.

    At the fusion layers' default of 1e-4, text and image barely interact.
    """
    text_norm = net.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after
    image_norms = (net.model.enc_output_norm, net.model.decoder.layer_norm)
    for norm, bias in (*((norm, _PRIOR) for norm in image_norms), (text_norm, -_PRIOR)):
        norm.weight.fill_(0.35)
        norm.bias.zero_()
        norm.bias[0] = bias
    for layer in net.model.encoder.layers:
        layer.fusion_layer.vision_param.fill_(0.1)
        layer.fusion_layer.text_param.fill_(0.1)
