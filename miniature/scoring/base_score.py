"""Scores a base's pictures: an independent judge checks the place and each subject's class against the caption.

    subject-diffusion score base miniature/weights/base

The captions describe scenes that no network was trained on. The scenes themselves are judged too; their score, `real`,
is an upper bound. The pictures are sampled with diffusers' own `StableDiffusionPipeline`.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from miniature.networks.judge import Judge
from miniature.scoring.figures import Figure, Table, share_of_hits
from miniature.training.judge import word_hits
from miniature.training.pictures import SCENES, ScenePicture, pixels, scene_picture, shrink

_SEED = 777
_BATCH = 32
CALLED = {"class word": 1.0, "name": 0.0}
"""Value of `class_word_share` for captions that call all subjects by this kind of word."""
TABLE = Table({"pictures": 9, "called by": 10, "subjects": 1}, name_width=10)
"""Table of the figures; `pictures` is "generated", or "real" for the scenes that the captions describe."""


def sample_scenes(called: str, subjects: int, count: int) -> list[ScenePicture]:
    """Return scenes of trained sprites, whose captions are the prompts."""
    scenes = SCENES.model_copy(update={"subjects": (subjects, subjects), "class_word_share": CALLED[called]})
    return [scene_picture((_SEED, subjects, i), scenes) for i in range(count)]


def load_base(folder: Path) -> StableDiffusionPipeline:
    """Load the pipeline of a base's folder, in float32, with its own scheduler.

    Raises:
        OSError: the folder holds no base.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: StableDiffusionPipeline, captions: Sequence[str], steps: int, guidance: float
) -> list[NDArray[np.uint8]]:
    """Sample a picture of each caption, square and RGB, with noise that depends on its index alone."""
    pictures: list[NDArray[np.uint8]] = []
    for first in range(0, len(captions), _BATCH):
        batch = list(captions[first : first + _BATCH])
        noise = [torch.Generator().manual_seed(_SEED + first + i) for i in range(len(batch))]
        images = pipeline(
            batch,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=noise,
            output_type="np",
        ).images
        pictures += list((255 * images).round().astype(np.uint8))
    return pictures


@torch.no_grad()
def judge_pictures(
    judge: Judge, images: Sequence[NDArray[np.uint8]], scenes: Sequence[ScenePicture]
) -> dict[str, list[list[bool]]]:
    """Return for each picture whether it shows the scene's place, and whether it shows each subject's class word."""
    place, word = judge(pixels([shrink(image) for image in images]))
    places, words = [], []
    for place_logits, word_logits, one in zip(place, word, scenes, strict=True):
        places.append([judge.places[int(place_logits.argmax())] == one.scene.background])
        own = {subject.sprite.class_word for subject in one.scene.subjects}
        words.append(word_hits(word_logits, [judge.class_words.index(word) for word in sorted(own)]))
    return {"background": places, "class word": words}


def hit_shares(pictures: str, called: str, subjects: int, hits: dict[str, list[list[bool]]]) -> list[Figure]:
    """Return the share of hits for each criterion."""
    of = {"pictures": pictures, "called by": called, "subjects": str(subjects)}
    return [share_of_hits(of, name, own) for name, own in hits.items()]


def score(
    pipeline: StableDiffusionPipeline, judge: Judge, count: int, steps: int, guidance: float, out: Path | None
) -> list[Figure]:
    """Return all figures, from `count` captions of each kind; with `out`, write the pictures of each kind as a PNG."""
    figures = []
    for subjects in (1, 2):
        for called in CALLED:
            scenes = sample_scenes(called, subjects, count)
            real = [one.image for one in scenes]
            generated = generate(pipeline, [one.scene.caption for one in scenes], steps, guidance)
            figures += hit_shares("generated", called, subjects, judge_pictures(judge, generated, scenes))
            figures += hit_shares("real", called, subjects, judge_pictures(judge, real, scenes))
            if out is not None:
                write_sheet(generated, out / f"{subjects} by {called}.png")
    return figures


def write_sheet(images: Sequence[NDArray[np.uint8]], path: Path, columns: int = 8) -> None:
    """Write up to 64 pictures side by side, in the order of their captions."""
    kept = list(images[:64])
    kept += [np.full_like(kept[0], 255)] * (-len(kept) % columns)
    rows = [np.concatenate(kept[i : i + columns], axis=1) for i in range(0, len(kept), columns)]
    sheet = np.concatenate(rows, axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), sheet[..., ::-1])
