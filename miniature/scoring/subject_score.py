"""Scores a trained model on 60 unseen subjects: whether its pictures show the right subject and the right background.

    subject-diffusion score subjects miniature/weights/subject_diffusion

Each subject is given in one pose and requested in another, at a place of a new scene, by its class word. An embedder
that has not seen the 60 subjects ranks them by similarity to the generated picture; chance is .017. The model is scored
with all conditions and without each of them. The scenes themselves are scored too, as an upper bound (`real`). Settings
are chosen on other subjects (`--asked untaught`).

By default the model gets the subject's outline in the scene, which helps to identify it. With `--given box` it gets
only the bounds of that outline, as from a user. `subject_baselines` scores pictures that need no model.
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
from miniature.scoring.base_score import judge_pictures
from miniature.scoring.cases import COUNT, Case, TargetSubject, cases, sprites_of
from miniature.scoring.figures import Figure, Table, share_of_hits
from miniature.scoring.score_options import WITHOUT, WITHOUT_PLACE, LeftOut, PlaceHint, ScoreOptions, SubjectSet
from miniature.training.embedder import Pairs, crop
from miniature.training.pictures import pixels, shrink
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
_LAYOUTS = {PlaceHint.AUTO: Layout.AUTO, PlaceHint.NOTHING: Layout.FREE}
TABLE = Table({"pictures": 9, "subjects": 1, "given": 10, "without": 9}, name_width=10)
"""Table of the figures; `pictures` are generated or real, `without` is the condition that was left out."""


def make_batch(
    net: SubjectDiffusion, asked: Sequence[Case], rng: np.random.Generator, given: PlaceHint = PlaceHint.OUTLINE
) -> SubjectBatch:
    """Return the network's inputs for the cases, which must have the same number of subjects."""
    encoder, side = net.image_encoder, net.latent_side
    pictures = SubjectPictures(net.config.subject, encoder.side_px, encoder.mean.flatten().tolist(), training=False)
    cut = np.stack([[pictures(s.image, s.mask, rng) for s in case.subjects] for case in asked])
    inputs = [[_layout_input(subject, given) for subject in case.subjects] for case in asked]
    layout = _LAYOUTS.get(given, Layout.GIVEN)
    marks = LocationMask.BOX if given is PlaceHint.FILLED_BOX else LocationMask.MASK
    places = [choose_places(row, layout, (side, side), rng, marks) for row in inputs]
    boxes = torch.tensor([[place.bounds for place in row] for row in places])
    return SubjectBatch(
        prompts=net.prompts([Prompt(case.prompt, [s.label for s in case.subjects]) for case in asked]),
        boxes=boxes,
        masks=torch.from_numpy(np.stack([[place.mask for place in row] for row in places])),
        present=torch.ones(boxes.shape[:2], dtype=torch.bool),
        subject_images=torch.from_numpy(cut).permute(0, 1, 4, 2, 3),
        full=True,
    )


def _layout_input(subject: TargetSubject, given: PlaceHint) -> LayoutInput:
    box = None if given in WITHOUT_PLACE else subject.box
    place = subject.place if given is PlaceHint.OUTLINE else None
    return LayoutInput(subject.label, subject.mask, box, place)


@torch.no_grad()
def generate(
    net: SubjectDiffusion,
    asked: Sequence[Case],
    sampling: SamplingConfig,
    without: frozenset[LeftOut] = frozenset(),
    given: PlaceHint = PlaceHint.OUTLINE,
    seeds: Sequence[int] | None = None,
) -> list[NDArray[np.uint8]]:
    """Sample a picture of each case, RGB, of the size that the model makes.

    Args:
        without: conditions to leave out; CLS is replaced by zeros.
        seeds: seed of each picture's noise; None takes its index.
    """
    seeds = range(len(asked)) if seeds is None else seeds
    pictures: list[NDArray[np.uint8]] = []
    for first in range(0, len(asked), _BATCH):
        part = asked[first : first + _BATCH]
        batch = make_batch(net, part, np.random.default_rng(first), given)
        batch = batch.to(net.empty_token_ids.device, non_blocking=False)
        assert batch.subject_images is not None
        features: ImageFeatures = net.image_encoder(batch.subject_images)
        size = (batch.masks.shape[-2], batch.masks.shape[-1])
        l_m = net.location_mask(batch.boxes, batch.masks, batch.present, size)
        conditions = net.conditions(
            prompts=batch.prompts,
            features=replace(features, cls=torch.zeros_like(features.cls)) if LeftOut.CLS in without else features,
            boxes=batch.boxes,
            present=batch.present,
            location_mask=torch.zeros_like(l_m) if LeftOut.MASK in without else l_m,
            strengths=torch.zeros_like(batch.boxes[..., 0]) if LeftOut.ADAPTER in without else None,
            full=True,
        )
        denoise = subject_denoiser(net, conditions, net.empty_text(), sampling.guidance.subject_coefficients())
        of_part = seeds[first : first + len(part)]
        pictures += [np.asarray(image) for image in generate_images(net, denoise, sampling, of_part, size[0])]
    return pictures


@torch.no_grad()
def gallery(embedder: Embedder, sprites: Sequence[Sprite]) -> Float[Tensor, "N D"]:
    """Return the mean embedding of each sprite over other poses and places, normalised."""
    views = Pairs(sprites, cutout_share=0.0)
    sums = torch.zeros(len(sprites), embedder.embedding.out_features)
    for round in range(_GALLERY_POSES):
        crops, indices = views((31, round), len(sprites))
        sums[indices] += embedder(crops[0]) + embedder(crops[1])
    return torch.nn.functional.normalize(sums, dim=-1)


def subject_embeddings(embedder: Embedder, asked: SubjectSet) -> dict[str, Float[Tensor, " D"]]:
    """Return the embeddings of the `COUNT` subjects that are ranked, by name."""
    sprites = sprites_of(asked)
    vectors = gallery(embedder, sprites)
    return {sprite.name: vector for sprite, vector in zip(sprites[:COUNT], vectors, strict=False)}


@torch.no_grad()
def recall_hits(
    embedder: Embedder, looks: Mapping[str, Tensor], images: Sequence[NDArray[np.uint8]], asked: Sequence[Case]
) -> list[list[bool]]:
    """Return for each picture whether each subject is most similar to the requested one, among those of `looks`."""
    names, vectors = list(looks), torch.stack(list(looks.values()))
    crops = [
        crop(shrink(image), case.picture.box(i))
        for image, case in zip(images, asked, strict=True)
        for i in range(len(case.subjects))
    ]
    best = iter((embedder(pixels(crops)) @ vectors.T).argmax(dim=1).tolist())
    return [[subject.sprite.name == names[next(best)] for subject in case.subjects] for case in asked]


def score(
    net: SubjectDiffusion, judge: Judge, embedder: Embedder, options: ScoreOptions, out: Path | None = None
) -> Iterator[Figure]:
    """Yield all figures as they are computed; with `out`, write the pictures as PNG files."""
    looks = subject_embeddings(embedder, options.asked)
    for subjects in (1, 2):
        requests = list(cases(subjects, options.asked))
        scenes = [case.picture for case in requests]
        for name in options.without:
            generated = generate(net, requests, options.sampling, WITHOUT[name], options.given)
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw_sheet(generated, requests)).save(out / f"{subjects} without {name}.png")
            hits = {
                "R@1": recall_hits(embedder, looks, generated, requests),
                "background": judge_pictures(judge, generated, scenes)["background"],
            }
            of = {"pictures": "generated", "subjects": str(subjects), "given": options.given.value, "without": name}
            yield from (share_of_hits(of, criterion, own) for criterion, own in hits.items())
        of = {"pictures": "real", "subjects": str(subjects), "given": "", "without": "nothing"}
        real = [one.image for one in scenes]
        yield share_of_hits(of, "R@1", recall_hits(embedder, looks, real, requests))
        yield share_of_hits(of, "background", judge_pictures(judge, real, scenes)["background"])


def draw_sheet(made: Sequence[NDArray[np.uint8]], asked: Sequence[Case], columns: int = 10) -> NDArray[np.uint8]:
    """Return up to 60 pictures in a grid, each below its references."""
    tiles = [
        np.concatenate([*_references(case, image.shape[0]), image]) for image, case in zip(made, asked, strict=True)
    ][:60]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows)


def _references(case: Case, side_px: int) -> list[NDArray[np.uint8]]:
    images = [np.where(s.mask[..., None], s.image, np.uint8(255)) for s in case.subjects]
    size = (side_px, side_px)
    return [np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8) for image in images]
