"""Scores what the pipeline's controls do, on the 60 unseen subjects of `subject_score`.

    subject-diffusion score controls miniature/weights/subject_diffusion

Each experiment changes one argument of the pipeline and keeps the rest. Prompts, places and noise are those of
`subject_score`, with the target's own outline given, unless the experiment says otherwise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labeling.sdd.schema import Box
from miniature.networks.judge import Embedder, Judge
from miniature.scoring.base_score import judge_pictures
from miniature.scoring.cases import Case, TargetSubject, cases
from miniature.scoring.figures import Figure, Table, mean_by_image, share_of_hits
from miniature.scoring.score_options import Control, SubjectSet
from miniature.scoring.subject_score import recall_hits, subject_embeddings
from miniature.training.embedder import crop
from miniature.training.pictures import draw_alone, pixels, shrink
from model.inputs.reference import Subject
from model.pipeline import SubjectDiffusionOutput, SubjectDiffusionPipeline
from model.sampling.denoising import seeded_generators

Pictures = list[NDArray[np.uint8]]
TABLE = Table({"control": 13, "setting": 18}, name_width=10)
"""Table of the figures; `setting` is the value of the control."""
SEEDS = (0, 1000, 2000)
"""First seeds of the repeated samplings; the pictures of one sampling have consecutive seeds."""
_BATCH = 20
_FEATHER_PX = 4


@dataclass(frozen=True)
class Setup:
    """What all experiments use."""

    pipeline: SubjectDiffusionPipeline
    judge: Judge
    embedder: Embedder
    looks: Mapping[str, Tensor]
    """Mean embedding of each subject, by name."""
    cases: Sequence[Case]


def score(
    pipeline: SubjectDiffusionPipeline, judge: Judge, embedder: Embedder, asked: SubjectSet, controls: Sequence[Control]
) -> Iterator[Figure]:
    """Yield the figures of each control as they are computed."""
    pipeline.set_progress_bar_config(disable=True)
    setup = Setup(pipeline, judge, embedder, subject_embeddings(embedder, asked), list(cases(1, asked)))
    for control in controls:
        yield from _EXPERIMENTS[control](setup)


def _score_samplers(setup: Setup) -> Iterator[Figure]:
    settings: dict[str, dict[str, Any]] = {
        "DDIM, 25": {"scheduler": "DDIM", "num_inference_steps": 25},
        "DPM-Solver++, 20": {"scheduler": "DPMSolverMultistep", "num_inference_steps": 20},
        "UniPC, 20": {"scheduler": "UniPCMultistep", "num_inference_steps": 20},
    }
    for name, given in settings.items():
        repeated = [_generate(setup, first_seed=seed, **given) for seed in SEEDS]
        yield from _recall("sampler", name, setup, repeated)


def _score_photos(setup: Setup) -> Iterator[Figure]:
    for count in (1, 2, 4):
        yield from _recall("photos", str(count), setup, [_generate(setup, make=partial(_with_photos, count=count))])


def _score_strengths(setup: Setup) -> Iterator[Figure]:
    for strength in (0.0, 0.25, 0.5, 1.0, 1.5):
        pictures = _generate(setup, make=partial(_subject, strength=strength))
        yield from _likeness("strength", str(strength), setup, pictures)


def _score_interpolations(setup: Setup) -> Iterator[Figure]:
    for alpha in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        pictures = _generate(setup, interpolation=alpha)
        yield from _likeness("interpolation", str(alpha), setup, pictures)


def _score_into_photos(setup: Setup) -> Iterator[Figure]:
    """Put each subject into the scene of the next case, at the box of the subject there."""
    hits, kept = [], []
    for index, case in enumerate(setup.cases):
        scene = setup.cases[(index + 1) % len(setup.cases)]
        photo, (there,) = scene.picture.scene.image, scene.subjects
        subject = case.subjects[0]
        placed = Subject(subject.image, subject.label, subject.mask, box=there.box)
        result = setup.pipeline(
            case.prompt, [placed], image=photo, feather_px=_FEATHER_PX, generator=seeded_generators([index])
        )
        assert isinstance(result, SubjectDiffusionOutput)
        image = np.asarray(result.images[0])
        hits.append([_best(setup, shrink(image), scene.picture.box(0)) == subject.sprite.name])
        kept.append([bool((image == photo)[_outside(there, photo.shape[:2])].all())])
    of = {"control": "into a photo", "setting": "box"}
    yield share_of_hits(of, "R@1", hits)
    yield share_of_hits(of, "photo kept", kept)


_EXPERIMENTS: Mapping[Control, Callable[[Setup], Iterator[Figure]]] = {
    Control.SAMPLER: _score_samplers,
    Control.PHOTOS: _score_photos,
    Control.STRENGTH: _score_strengths,
    Control.INTERPOLATION: _score_interpolations,
    Control.INTO_PHOTO: _score_into_photos,
}


def _subject(one: TargetSubject, strength: float = 1.0) -> Subject:
    return Subject(one.image, one.label, one.mask, one.box, one.place, strength)


def _with_photos(one: TargetSubject, count: int) -> Subject:
    """Return the subject with further photos, in other poses."""
    drawn = [draw_alone(one.sprite, np.random.default_rng((7, index))) for index in range(count - 1)]
    images, masks = [one.image, *(image for image, _ in drawn)], [one.mask, *(mask for _, mask in drawn)]
    return Subject(images, one.label, masks, one.box, one.place)


def _generate(
    setup: Setup, make: Callable[[TargetSubject], Subject] = _subject, first_seed: int = 0, **given: Any
) -> Pictures:
    return generate_by_pipeline(setup.pipeline, setup.cases, make, first_seed, **given)


def generate_by_pipeline(
    pipeline: SubjectDiffusionPipeline,
    asked: Sequence[Case],
    make: Callable[[TargetSubject], Subject],
    first_seed: int = 0,
    **given: Any,
) -> Pictures:
    """Return a picture of each case, RGB, by the public pipeline.

    Args:
        pipeline: the model.
        asked: cases.
        make: converts a case's subject to the pipeline's.
        first_seed: seed of the first picture; the next ones follow.
        given: further arguments of the pipeline.
    """
    pictures: Pictures = []
    for first in range(0, len(asked), _BATCH):
        part = asked[first : first + _BATCH]
        result = pipeline(
            [case.prompt for case in part],
            [[make(subject) for subject in case.subjects] for case in part],
            generator=seeded_generators(range(first_seed + first, first_seed + first + len(part))),
            **given,
        )
        assert isinstance(result, SubjectDiffusionOutput)
        pictures += [np.asarray(image) for image in result.images]
    return pictures


def _recall(control: str, setting: str, setup: Setup, repeated: Sequence[Pictures]) -> Iterator[Figure]:
    """Yield R@1 and the share of right backgrounds over all samplings; the samplings of a case count as one image."""
    of = {"control": control, "setting": setting}
    hits = [recall_hits(setup.embedder, setup.looks, pictures, setup.cases) for pictures in repeated]
    yield share_of_hits(of, "R@1", [[one for own in of_case for one in own] for of_case in zip(*hits, strict=True)])
    scenes = [case.picture for case in setup.cases]
    places = [judge_pictures(setup.judge, pictures, scenes)["background"] for pictures in repeated]
    yield share_of_hits(
        of, "background", [[one for own in of_case for one in own] for of_case in zip(*places, strict=True)]
    )


def _likeness(control: str, setting: str, setup: Setup, pictures: Pictures) -> Iterator[Figure]:
    """Yield similarity to the subject, R@1, and the shares of right backgrounds and class words."""
    of = {"control": control, "setting": setting}
    crops = [crop(shrink(picture), case.picture.box(0)) for picture, case in zip(pictures, setup.cases, strict=True)]
    with torch.no_grad():
        vectors = setup.embedder(pixels(crops))
    own = [float(v @ setup.looks[c.subjects[0].sprite.name]) for v, c in zip(vectors, setup.cases, strict=True)]
    yield mean_by_image(of, "similarity", [[value] for value in own])
    yield share_of_hits(of, "R@1", recall_hits(setup.embedder, setup.looks, pictures, setup.cases))
    judged = judge_pictures(setup.judge, pictures, [case.picture for case in setup.cases])
    yield from (share_of_hits(of, name, hits) for name, hits in judged.items())


@torch.no_grad()
def _best(setup: Setup, picture: NDArray[np.uint8], box: Box) -> str:
    """Return the subject that the content of the box is most similar to."""
    names, vectors = list(setup.looks), torch.stack(list(setup.looks.values()))
    return names[int((setup.embedder(pixels([crop(picture, box)])) @ vectors.T).argmax())]


def _outside(there: TargetSubject, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels of the photo that lie beyond the border of the region."""
    height, width = shape
    x0, y0, x1, y1 = there.box
    region = np.ones(shape, dtype=np.uint8)
    region[int(y0 * height) : -int(-y1 * height // 1), int(x0 * width) : -int(-x1 * width // 1)] = 0
    return np.asarray(cv2.distanceTransform(region, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > _FEATHER_PX + 1)
