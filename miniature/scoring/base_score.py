"""Scores a base's pictures by the independent judge: is the place that the caption names, is the subject of its class?

    subject-diffusion score base miniature/weights/base

Captions are those of scenes that nobody trained on, and the scenes themselves are judged too: no base can be expected
to do better than `real`. The pictures come from diffusers' own `StableDiffusionPipeline`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from miniature.networks.judge import Judge
from miniature.scoring.figures import Figure, Table, share_of_hits
from miniature.training.judge import found_words
from miniature.training.pictures import SCENES, SIDE_PX, Shown, pixels, shown

_SEED = 777
_BATCH = 32
CALLED = {"class word": 1.0, "name": 0.0}
"""What captions call their subjects by, and the setting of scenes that makes them."""


TABLE = Table({"pictures": 9, "called by": 10, "subjects": 1}, name_width=10)
"""`pictures` are generated, or real: the scenes that the captions are of."""


def asked(called: str, subjects: int, count: int) -> list[Shown]:
    """Scenes of trained sprites, whose captions are asked for."""
    scenes = SCENES.model_copy(update={"subjects": (subjects, subjects), "class_word_share": CALLED[called]})
    return [shown((_SEED, subjects, i), scenes) for i in range(count)]


def load_base(folder: Path) -> Any:
    """The pipeline of a base's folder, float32, with its own scheduler.

    Raises:
        OSError: there is none.
    """
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: Any, captions: Sequence[str], steps: int, guidance: float) -> list[NDArray[np.uint8]]:
    """A picture of each caption, RGB, [64, 64, 3]; its noise is its number's."""
    made: list[NDArray[np.uint8]] = []
    for first in range(0, len(captions), _BATCH):
        batch = list(captions[first : first + _BATCH])
        noise = [torch.Generator().manual_seed(_SEED + first + i) for i in range(len(batch))]
        images = pipeline(
            batch,
            height=SIDE_PX,
            width=SIDE_PX,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=noise,
            output_type="np",
        ).images
        made += list((255 * images).round().astype(np.uint8))
    return made


@torch.no_grad()
def judged(judge: Judge, images: Sequence[NDArray[np.uint8]], wanted: Sequence[Shown]) -> dict[str, list[list[bool]]]:
    """Of each picture: whether it has its place, and whether each of its subjects' class words is seen in it."""
    place, word = judge(pixels(images))
    places, words = [], []
    for place_logits, word_logits, one in zip(place, word, wanted, strict=True):
        places.append([judge.places[int(place_logits.argmax())] == one.scene.background])
        own = {subject.sprite.class_word for subject in one.scene.subjects}
        words.append(found_words(word_logits, [judge.class_words.index(word) for word in sorted(own)]))
    return {"background": places, "class word": words}


def figures(pictures: str, called: str, subjects: int, right: dict[str, list[list[bool]]]) -> list[Figure]:
    """The shares of what is right."""
    of = {"pictures": pictures, "called by": called, "subjects": str(subjects)}
    return [share_of_hits(of, name, hits) for name, hits in right.items()]


def score(pipeline: Any, judge: Judge, count: int, steps: int, guidance: float, out: Path | None) -> list[Figure]:
    """All figures, of `count` captions of each kind; with `out`, also the pictures of each kind as one PNG."""
    found = []
    for subjects in (1, 2):
        for called in CALLED:
            wanted = asked(called, subjects, count)
            real = [one.image for one in wanted]
            made = generate(pipeline, [one.scene.caption for one in wanted], steps, guidance)
            found += figures("generated", called, subjects, judged(judge, made, wanted))
            found += figures("real", called, subjects, judged(judge, real, wanted))
            if out is not None:
                write_sheet(made, out / f"{subjects} by {called}.png")
    return found


def write_sheet(images: Sequence[NDArray[np.uint8]], path: Path, columns: int = 8) -> None:
    """Up to 64 pictures side by side, each pixel twice as large, in the order of their captions."""
    kept = list(images[:64])
    kept += [np.full_like(kept[0], 255)] * (-len(kept) % columns)
    rows = [np.concatenate(kept[i : i + columns], axis=1) for i in range(0, len(kept), columns)]
    sheet = np.concatenate(rows, axis=0).repeat(2, axis=0).repeat(2, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), sheet[..., ::-1])
