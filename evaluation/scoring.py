"""From embeddings to scores: every image of a benchmark by every metric of a protocol."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Float

from evaluation.benchmarks.benchmark import Benchmark, Case, Subject
from evaluation.embeddings import Embeddings, Unreadable
from evaluation.encoders.encoder import Embedding
from evaluation.errors import ImagesError, InvalidProtocol
from evaluation.images import GeneratedFile, name_some
from evaluation.protocols import Comparison, EncoderSpec, MissingImages, Protocol
from evaluation.scores import metrics
from evaluation.scores.copying import copy_scores
from evaluation.scores.image_score import ImageScore
from evaluation.scores.several_subjects import lowest_over_subjects, mean_over_subjects, product_over_subjects
from evaluation.scores.similarity import cosine_similarities

References = Mapping[str, tuple[Path, ...]]
"""Files of all photos of each subject, in the order of `Subject.images`."""


@dataclass(frozen=True)
class Embedded:
    """Embeddings of files and prompts for one protocol."""

    images: Mapping[EncoderSpec, Embeddings]
    """Embeddings of generated images, photos and regions by each encoder."""
    prompts: Mapping[str, Float[np.ndarray, " D"]]
    """Embeddings of prompts by the protocol's prompt encoder; empty if it has none."""
    faces: Mapping[Path, Embedding | Unreadable | None] = field(default_factory=dict)
    """First face of each image, None for an image without one; empty if the protocol compares no faces."""


@dataclass(frozen=True)
class Scorer:
    """Scores images of one benchmark by one protocol."""

    benchmark: Benchmark
    protocol: Protocol
    references: References
    embedded: Embedded

    def likeness(self, files: Sequence[GeneratedFile]) -> Iterator[ImageScore]:
        """Yield the similarities to subjects and to the input photo, and to the prompt."""
        for case, own in by_case(files):
            for spec in self.protocol.subject_encoders:
                yield from self._subject_scores(case, own, spec)
            if self.protocol.prompt_encoder is not None:
                yield from self._prompt_scores(case, own, self.protocol.prompt_encoder)

    def problems(self, files: Iterable[GeneratedFile]) -> dict[str, str]:
        """Return the reason of each image that cannot be scored, by its name."""
        found = {file.name: self._problem(file) for file in files}
        return {name: reason for name, reason in found.items() if reason}

    def refuse_problems(self, files: Iterable[GeneratedFile]) -> None:
        """Check that every image can be scored, if the protocol asks for that.

        Raises:
            ImagesError: some cannot; the message names the first ten and their reasons.
        """
        if self.protocol.missing is MissingImages.REFUSE and (problems := self.problems(files)):
            names = name_some([f"{name} ({reason})" for name, reason in problems.items()])
            raise ImagesError(
                f"{len(problems)} of {self.benchmark.image_count} images of {self.benchmark.name} cannot be scored: "
                f"{names}; make them again, or leave them out with --allow-missing, which the report then shows"
            )

    def photo_similarities(self, subject: str, other: str, spec: EncoderSpec) -> Float[np.ndarray, "R S"]:
        """Return the similarities of all photos of one subject to all photos of another, or of the same."""
        return cosine_similarities(self._photos(subject, spec), self._photos(other, spec))

    def subject_similarities(
        self, embeddings: Float[np.ndarray, "N D"], subject: str, spec: EncoderSpec
    ) -> Float[np.ndarray, " N"]:
        """Return the mean similarity to the photos of a subject that the protocol compares with."""
        compared = compared_photos(self.benchmark.subjects[subject], self.protocol.comparison)
        return np.asarray(cosine_similarities(embeddings, self._photos(subject, spec)[compared]).mean(axis=1))

    def rows(
        self,
        files: Sequence[GeneratedFile],
        metric: metrics.Metric,
        values: Float[np.ndarray, " N"],
        pairs: int = 1,
    ) -> Iterator[ImageScore]:
        """Yield a row for each image; those that cannot be scored have no value, or 0 if the protocol says so.

        Args:
            files: images of one case.
            metric: the metric.
            values: scores of the images that can be scored, in order.
            pairs: comparisons behind each score.
        """
        scored = iter(values)
        for file in files:
            reason = self._problem(file)
            absent = 0.0 if self.protocol.missing is MissingImages.ZERO else None
            value = absent if reason else float(next(scored))
            subjects, group = "+".join(file.case.subjects), file.case.group
            yield ImageScore(file.case.name, file.index, subjects, group, metric.name, value, pairs, reason)

    def scorable(self, files: Iterable[GeneratedFile]) -> list[GeneratedFile]:
        """Return the images that can be scored."""
        return [file for file in files if not self._problem(file)]

    def vectors(self, files: Iterable[Path], spec: EncoderSpec) -> Float[np.ndarray, "N D"]:
        """Return the embeddings of files that have one."""
        return np.stack([np.asarray(self.embedded.images[spec][file], dtype=np.float64) for file in files])

    def _subject_scores(self, case: Case, files: Sequence[GeneratedFile], spec: EncoderSpec) -> Iterator[ImageScore]:
        images = self._image_vectors(files, spec)
        by_subject = np.stack([self.subject_similarities(images, name, spec) for name in case.subjects], axis=1)
        scale, compared = self.protocol.scale, self._compared_count(case)
        yield from self.rows(files, metrics.likeness(spec), scale * mean_over_subjects(by_subject), compared)
        if len(case.subjects) > 1:
            yield from self.rows(files, metrics.lowest(spec), scale * lowest_over_subjects(by_subject))
            yield from self.rows(files, metrics.product(spec), scale * product_over_subjects(by_subject))
        if all(len(self.references[name]) > 1 for name in case.subjects):
            copied = np.stack([self._copying(images, name, spec) for name in case.subjects], axis=1)
            yield from self.rows(files, metrics.copying(spec), scale * copied.mean(axis=1))

    def _copying(self, images: Float[np.ndarray, "N D"], name: str, spec: EncoderSpec) -> Float[np.ndarray, " N"]:
        similarities = cosine_similarities(images, self._photos(name, spec))
        return copy_scores(similarities, input_index(self.benchmark.subjects[name]))

    def _prompt_scores(self, case: Case, files: Sequence[GeneratedFile], spec: EncoderSpec) -> Iterator[ImageScore]:
        images = self._image_vectors(files, spec)
        values = cosine_similarities(images, self.embedded.prompts[case.prompt][None])[:, 0]
        if self.protocol.clip_text_at_zero:
            values = np.clip(values, 0, None)
        yield from self.rows(files, metrics.PROMPT, values * self.protocol.text_scale * self.protocol.scale)

    def _compared_count(self, case: Case) -> int:
        subjects = (self.benchmark.subjects[name] for name in case.subjects)
        return sum(len(compared_photos(subject, self.protocol.comparison)) for subject in subjects)

    def _image_vectors(self, files: Iterable[GeneratedFile], spec: EncoderSpec) -> Float[np.ndarray, "N D"]:
        paths = [file.path for file in self.scorable(files) if file.path is not None]
        return self.vectors(paths, spec) if paths else np.empty((0, spec.embedding_size))

    def _photos(self, subject: str, spec: EncoderSpec) -> Float[np.ndarray, "R D"]:
        for file in self.references[subject]:
            if isinstance(found := self.embedded.images[spec][file], Unreadable):
                raise ImagesError(f"{file}: this photo of {subject} cannot be read ({found.reason}): replace it")
        return self.vectors(self.references[subject], spec)

    def _problem(self, file: GeneratedFile) -> str:
        """Return why an image cannot be scored; empty if it can."""
        if file.path is None:
            return "missing"
        found = (by_path.get(file.path) for by_path in (*self.embedded.images.values(), self.embedded.faces))
        return next((f"unreadable: {one.reason}" for one in found if isinstance(one, Unreadable)), "")


def compared_photos(subject: Subject, comparison: Comparison) -> list[int]:
    """Return the numbers of the photos that an image of the subject is compared with.

    Raises:
        InvalidProtocol: none are left.
    """
    own = input_index(subject)
    numbers = list(range(len(subject.images)))
    match comparison:
        case Comparison.ALL_REFERENCES:
            return numbers
        case Comparison.ONE_IMAGE:
            return [own]
    if len(numbers) < 2:
        raise InvalidProtocol(
            f"{subject.name} has one photo, which is the input: a comparison with all but the input takes a second; "
            f"choose a protocol with another comparison"
        )
    return [number for number in numbers if number != own]


def input_index(subject: Subject) -> int:
    """Return the number of the input photo among the subject's photos."""
    return subject.images.index(subject.input_image)


def by_case(files: Iterable[GeneratedFile]) -> Iterator[tuple[Case, list[GeneratedFile]]]:
    """Yield each case with its images, which follow each other."""
    for _, own in groupby(files, key=lambda file: file.case.name):
        rows = list(own)
        yield rows[0].case, rows
