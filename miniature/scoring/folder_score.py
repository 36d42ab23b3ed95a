"""Scores a trained model on a folder of cut-outs from another world, by the public pipeline.

    subject-diffusion score folder STAMPS miniature/weights/subject_diffusion --words miniature/scoring/stamps.toml

Each cut-out is the reference as it is, and is requested by its class word, in a box, on a background of the miniature
world. The embedders, which have seen nothing of the folder, rank all cut-outs by similarity to what is in the box.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from miniature.scoring.case_scores import Judges
from miniature.scoring.cases import Case, TargetSubject, make_case
from miniature.scoring.cases_score import figures_of
from miniature.scoring.controls_score import generate_by_pipeline
from miniature.scoring.figures import Figure
from miniature.scoring.folder_subjects import read_cutout
from miniature.scoring.score_options import PlaceHint
from miniature.scoring.subject_score import draw_sheet
from miniature.world.sprites import Sprite
from model.inputs.reference import Subject
from model.pipeline import SubjectDiffusionPipeline

_SEED = 919


def score(
    pipeline: SubjectDiffusionPipeline, judges: Judges, folder: Path, subjects: Sequence[Sprite], out: Path | None
) -> Iterator[Figure]:
    """Yield all figures; with `out`, write a contact sheet of all pictures, each below its reference.

    Args:
        pipeline: the model.
        judges: networks that rank `subjects`.
        folder: folder of the cut-outs.
        subjects: the cut-outs, as `choose_subjects` returns them.
        out: folder for the contact sheet.
    """
    pipeline.set_progress_bar_config(disable=True)
    requests = [_case(folder, index, subject) for index, subject in enumerate(subjects)]
    generated = generate_by_pipeline(pipeline, requests, _boxed_subject)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_sheet(generated, requests)).save(out / "pictures.png")
    yield from figures_of("generated", PlaceHint.BOX.value, judges, generated, requests)
    yield from figures_of("real", "", judges, [case.picture.image for case in requests], requests)


def _case(folder: Path, index: int, subject: Sprite) -> Case:
    """Return a case of the subject, with the cut-out itself as its reference."""
    case = make_case((_SEED, index), [subject])
    image, mask = read_cutout(folder, subject)
    return replace(case, subjects=(replace(case.subjects[0], image=image, mask=mask),))


def _boxed_subject(one: TargetSubject) -> Subject:
    return Subject(one.image, one.label, one.mask, one.box)
