"""Scores a trained model on subjects that no network was shown: which of the 60 is it, and is the ground the right one?

    subject-diffusion score subjects miniature/weights/subject_diffusion

Each subject is given in one pose and wanted in another, at the place of a fresh scene, by its class word. An embedder
that never saw the 60 ranks them by likeness to what was made; chance is .017. Figures are given with all conditions
and with each of them left out, and for the scenes themselves: nothing can be expected to do better than `real`.
Settings are chosen on other subjects (`--asked untaught`).

By default the model is given the outline that the subject has in the scene, which helps to find it. `--given box` gives
the bounds of that outline alone, as a person would. `subject_baselines` scores pictures that no model made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from miniature.networks.judge import Embedder, Judge
from miniature.scoring.base_score import judged
from miniature.scoring.cases import COUNT, Case, cases, known
from miniature.scoring.exam import WITHOUT, Asked, Exam, Given, LeftOut
from miniature.scoring.figures import Figure, Table, share_of_hits
from miniature.training.embedder import Pairs, crop
from miniature.training.pictures import SIDE_PX, pixels
from miniature.world.sprites import Sprite
from model.config import LocationMask
from model.inputs.batch import ImageFeatures, SubjectBatch
from model.inputs.layout import Layout, LayoutInput, choose_places
from model.inputs.prompt import Prompt
from model.inputs.subject import SubjectPictures
from model.sampling.config import SamplingConfig
from model.sampling.generation import generate_images, subject_denoiser
from model.subject_diffusion import SubjectDiffusion

_BATCH = 20
_GALLERY_POSES = 6


TABLE = Table({"pictures": 9, "subjects": 1, "given": 10, "without": 9}, name_width=10)
"""`pictures` are generated or real; `without` is the condition that was left out."""


def batch_of(
    net: SubjectDiffusion, asked: Sequence[Case], rng: np.random.Generator, given: Given = Given.OUTLINE
) -> SubjectBatch:
    """What is asked for, for the network; all cases have equally many subjects."""
    encoder, side = net.image_encoder, int(net.unet.base.config.sample_size)
    pictures = SubjectPictures(net.config.subject, encoder.side_px, encoder.mean.flatten().tolist(), training=False)
    cut = np.stack([[pictures(s.image, s.mask, rng) for s in case.subjects] for case in asked])
    outlines = given is Given.OUTLINE
    inputs = [
        [LayoutInput(s.label, s.mask, s.box, s.place if outlines else None) for s in case.subjects] for case in asked
    ]
    marks = LocationMask.BOX if given is Given.FILLED_BOX else LocationMask.MASK
    places = [choose_places(row, Layout.GIVEN, side, rng, marks) for row in inputs]
    boxes = torch.tensor([[place.bounds for place in row] for row in places])
    return SubjectBatch(
        prompts=net.prompts([Prompt(case.prompt, [s.label for s in case.subjects]) for case in asked]),
        boxes=boxes,
        masks=torch.from_numpy(np.stack([[place.mask for place in row] for row in places])),
        present=torch.ones(boxes.shape[:2], dtype=torch.bool),
        subject_images=torch.from_numpy(cut).permute(0, 1, 4, 2, 3),
        full=True,
    )


@torch.no_grad()
def generate(
    net: SubjectDiffusion,
    asked: Sequence[Case],
    sampling: SamplingConfig,
    without: frozenset[LeftOut] = frozenset(),
    given: Given = Given.OUTLINE,
) -> list[NDArray[np.uint8]]:
    """A picture of each case, RGB [64, 64, 3]; its noise is its number's.

    Args:
        without: conditions that are left out. CLS is then a vector of zeros.
    """
    made: list[NDArray[np.uint8]] = []
    for first in range(0, len(asked), _BATCH):
        part = asked[first : first + _BATCH]
        batch = batch_of(net, part, np.random.default_rng(first), given)
        assert batch.subject_images is not None
        seen: ImageFeatures = net.image_encoder(batch.subject_images)
        size = (batch.masks.shape[-2], batch.masks.shape[-1])
        l_m = net.location_mask(batch.boxes, batch.masks, batch.present, size)
        conditions = net.conditions(
            prompts=batch.prompts,
            features=replace(seen, cls=torch.zeros_like(seen.cls)) if LeftOut.CLS in without else seen,
            boxes=batch.boxes,
            present=batch.present,
            location_mask=torch.zeros_like(l_m) if LeftOut.MASK in without else l_m,
            strengths=torch.zeros_like(batch.boxes[..., 0]) if LeftOut.ADAPTER in without else None,
            full=True,
        )
        denoise = subject_denoiser(net, conditions, net.empty_text(), sampling.guidance.subject_coefficients())
        seeds = range(first, first + len(part))
        made += [np.asarray(image) for image in generate_images(net, denoise, sampling, seeds, size[0])]
    return made


@torch.no_grad()
def gallery(embedder: Embedder, sprites: Sequence[Sprite]) -> Float[Tensor, "N D"]:
    """Each as the mean of its looks in other poses and places."""
    views = Pairs(sprites, cutout_share=0.0)
    looks = torch.zeros(len(sprites), embedder.embedding.out_features)
    for round in range(_GALLERY_POSES):
        crops, drawn = views((31, round), len(sprites))
        looks[drawn] += embedder(crops[0]) + embedder(crops[1])
    return torch.nn.functional.normalize(looks, dim=-1)


def looks_of(embedder: Embedder, asked: Asked) -> dict[str, Float[Tensor, " D"]]:
    """The look of each of the `COUNT` subjects that are ranked, by name."""
    sprites = known(asked)
    vectors = gallery(embedder, sprites)
    return {sprite.name: vector for sprite, vector in zip(sprites[:COUNT], vectors, strict=False)}


@torch.no_grad()
def ranked_first(
    embedder: Embedder, looks: Mapping[str, Tensor], images: Sequence[NDArray[np.uint8]], asked: Sequence[Case]
) -> list[list[bool]]:
    """Of each picture: whether each of its subjects is most like the one that was asked for, of those of `looks`."""
    names, vectors = list(looks), torch.stack(list(looks.values()))
    crops = [
        crop(image, case.shown.box(i))
        for image, case in zip(images, asked, strict=True)
        for i in range(len(case.subjects))
    ]
    best = iter((embedder(pixels(crops)) @ vectors.T).argmax(dim=1).tolist())
    return [[subject.sprite.name == names[next(best)] for subject in case.subjects] for case in asked]


def score(
    net: SubjectDiffusion, judge: Judge, embedder: Embedder, exam: Exam, out: Path | None = None
) -> Iterator[Figure]:
    """All figures, as they come; with `out`, also the pictures as PNG."""
    looks = looks_of(embedder, exam.asked)
    for subjects in (1, 2):
        asked = list(cases(subjects, exam.asked))
        wanted = [case.shown for case in asked]
        for name in exam.without:
            made = generate(net, asked, exam.sampling, WITHOUT[name], exam.given)
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                Image.fromarray(sheet(made, asked)).save(out / f"{subjects} without {name}.png")
            right = {
                "R@1": ranked_first(embedder, looks, made, asked),
                "background": judged(judge, made, wanted)["background"],
            }
            of = {"pictures": "generated", "subjects": str(subjects), "given": exam.given.value, "without": name.value}
            yield from (share_of_hits(of, what, hits) for what, hits in right.items())
        of = {"pictures": "real", "subjects": str(subjects), "given": "", "without": "nothing"}
        real = [one.image for one in wanted]
        yield share_of_hits(of, "R@1", ranked_first(embedder, looks, real, asked))
        yield share_of_hits(of, "background", judged(judge, real, wanted)["background"])


def sheet(made: Sequence[NDArray[np.uint8]], asked: Sequence[Case], columns: int = 10) -> NDArray[np.uint8]:
    """Up to 60 pictures, each below its references, each pixel twice as large."""
    tiles = [np.concatenate([*_references(case), image]) for image, case in zip(made, asked, strict=True)][:60]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows).repeat(2, axis=0).repeat(2, axis=1)


def _references(case: Case) -> list[NDArray[np.uint8]]:
    shown = [np.where(s.mask[..., None], s.image, np.uint8(255)) for s in case.subjects]
    return [
        np.asarray(cv2.resize(image, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA), np.uint8) for image in shown
    ]
