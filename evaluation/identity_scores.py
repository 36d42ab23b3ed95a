"""Scores of identity: the first face of each image against that of the input photo."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from evaluation.embeddings import Unreadable
from evaluation.encoders.encoder import Embedding
from evaluation.errors import InvalidProtocol
from evaluation.images import GeneratedFile
from evaluation.scores import metrics
from evaluation.scores.identity import identity_score
from evaluation.scores.image_score import ImageScore
from evaluation.scoring import Scorer, by_case


def identity_scores(
    scorer: Scorer, files: Sequence[GeneratedFile], references: Mapping[str, Embedding]
) -> Iterator[ImageScore]:
    """Yield the identity of each image.

    Args:
        scorer: faces of the images.
        files: generated images.
        references: face of each person's input photo.

    Raises:
        InvalidProtocol: a case has several people, of whom the first face of an image may be any.
    """
    for case, own in by_case(files):
        if len(case.subjects) > 1:
            raise InvalidProtocol(
                f"{scorer.protocol.name} compares one face, and {case.name} has {len(case.subjects)} people: "
                "choose a benchmark of one person a case, such as human"
            )
        faces = [scorer.embedded.faces[file.path] for file in scorer.scorable(own) if file.path is not None]
        reference = references[case.subjects[0]]
        values = [identity_score(face, reference) for face in faces if not isinstance(face, Unreadable)]
        yield from scorer.rows(own, metrics.FACES, scorer.protocol.scale * np.array(values))
