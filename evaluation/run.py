"""An evaluation: embed images, photos and prompts, score, and write one file for each protocol.

Interrupted, it resumes from the cache of embeddings, which is keyed by content, and writes the same files.

    OUT/PROTOCOL/scores.parquet     rows of `evaluation.results`
    OUT/regions/                    cut-outs of the subjects' regions, if presence is judged
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from evaluation.benchmarks.benchmark import Benchmark
from evaluation.embeddings import Embeddings, Unreadable
from evaluation.encoders.encoder import Embedding, ImageEncoder, TextEncoder
from evaluation.encoders.face import FaceEncoder, embed_faces, embed_reference_face
from evaluation.errors import EvaluationError
from evaluation.identity_scores import identity_scores
from evaluation.images import GeneratedFile
from evaluation.protocols import EncoderSpec, Protocol
from evaluation.region_scores import calibrate_presence, region_scores
from evaluation.regions import Regions, SubjectDetector, cut_regions, input_boxes, region_files
from evaluation.results import FILE, Bounds, Evaluation, Header, read_evaluation, write_evaluation
from evaluation.scores.copying import copy_bounds
from evaluation.scoring import Embedded, References, Scorer, input_index

_PROMPTS_AT_ONCE = 64
Embed = Callable[[Sequence[ImageEncoder], Sequence[Path]], list[Embeddings]]
"""Embeds files with each encoder."""


@dataclass(frozen=True)
class Networks:
    """Networks of an evaluation."""

    images: Mapping[EncoderSpec, ImageEncoder]
    """Encoder of images for each spec that the protocols name."""
    prompts: Mapping[EncoderSpec, TextEncoder] = field(default_factory=dict)
    """Encoder of prompts for each `Protocol.prompt_encoder`."""
    faces: FaceEncoder | None = None
    """Embeds faces, for protocols that compare them."""
    detector: SubjectDetector | None = None
    """Finds subjects in images, for presence and box fidelity."""


@dataclass(frozen=True)
class Submission:
    """Images of one method for a benchmark."""

    method: str
    """Name of the model or folder that made the images."""
    benchmark: Benchmark
    """Subjects, prompts and boxes."""
    files: Sequence[GeneratedFile]
    """A place for each image of the benchmark."""
    references: References
    """Files of the subjects' photos."""


def evaluate(
    submission: Submission,
    protocols: Sequence[Protocol],
    networks: Networks,
    out: Path,
    embed: Embed,
) -> list[Evaluation]:
    """Score images by each protocol and write the results.

    Args:
        submission: images and benchmark.
        protocols: the protocols.
        networks: encoders of all protocols.
        out: folder of the results.
        embed: embeds files; `partial(embed_files, cache=cache)` does it in this process.

    Raises:
        ImagesError: images are missing or unreadable, and a protocol refuses that; or a photo is unreadable.
        EncoderWeightsError: an embedding is NaN or infinite.
        EvaluationError: `out` holds the evaluation of another method or benchmark.
    """
    for protocol in protocols:
        _refuse_another(out / protocol.name, submission)
    regions = cut_regions(submission.files, submission.benchmark, out / "regions", networks.detector)
    specs = list(dict.fromkeys(spec for protocol in protocols for spec in image_specs(protocol)))
    encoders = [networks.images[spec] for spec in specs]
    found = embed(encoders, _all_files(submission, regions))
    images = dict(zip(specs, found, strict=True))
    evaluations = []
    for protocol in protocols:
        prompts = _embed_prompts(submission.benchmark, protocol, networks)
        faces = _faces(submission, protocol, networks)
        embedded = Embedded({spec: images[spec] for spec in image_specs(protocol)}, prompts, faces)
        scorer = Scorer(submission.benchmark, protocol, submission.references, embedded)
        evaluation = _score(submission, scorer, networks, regions)
        write_evaluation(evaluation, out / protocol.name)
        evaluations.append(evaluation)
    return evaluations


def _score(submission: Submission, scorer: Scorer, networks: Networks, regions: Mapping[str, Regions]) -> Evaluation:
    scorer.refuse_problems(submission.files)
    protocol = scorer.protocol
    judged = bool(regions) and bool(protocol.subject_encoders) and len(submission.references) > 1
    threshold = calibrate_presence(scorer, protocol.subject_encoders[0]) if judged else None
    detector, photos = networks.detector, submission.references
    inputs = {} if detector is None else input_boxes(submission.benchmark, photos, detector)
    scores = [*scorer.likeness(submission.files), *region_scores(scorer, submission.files, regions, threshold, inputs)]
    weights = {spec.name: networks.images[spec].weights_hash for spec in image_specs(protocol)}
    if protocol.faces and networks.faces is not None:
        scores += identity_scores(scorer, submission.files, _reference_faces(submission, networks.faces))
        weights[networks.faces.name] = networks.faces.weights_hash
    benchmark = submission.benchmark
    header = Header(
        method=submission.method,
        benchmark=benchmark.name,
        benchmark_title=benchmark.title,
        benchmark_source=benchmark.source,
        benchmark_hash=benchmark_hash(benchmark),
        benchmark_notes=benchmark.notes,
        images=benchmark.image_count,
        images_per_case=benchmark.images_per_case,
        photos_hash=_hash_of_files(submission.references),
        protocol=protocol,
        weights=weights,
        bounds={spec.metric: photo_bounds(scorer, spec) for spec in protocol.subject_encoders},
        detector=None if networks.detector is None or not regions else networks.detector.name,
        presence_threshold=threshold,
        cut_prompts=_cut_prompts(benchmark, protocol, networks),
        unscored=scorer.problems(submission.files),
    )
    return Evaluation(header, tuple(scores), {file.name: str(file.path or "") for file in submission.files})


def _faces(
    submission: Submission, protocol: Protocol, networks: Networks
) -> Mapping[Path, Embedding | Unreadable | None]:
    """Return the first face of each image; none if the protocol compares no faces."""
    if not protocol.faces or networks.faces is None:
        return {}
    return embed_faces(networks.faces, [file.path for file in submission.files if file.path is not None])


def _reference_faces(submission: Submission, encoder: FaceEncoder) -> dict[str, Embedding]:
    """Return the face of each person's input photo.

    Raises:
        ImagesError: a photo shows no face, or cannot be read.
    """
    people = submission.benchmark.subjects
    return {
        name: embed_reference_face(encoder, photos[input_index(people[name])])
        for name, photos in submission.references.items()
    }


def photo_bounds(scorer: Scorer, spec: EncoderSpec) -> Bounds:
    """Return the scores of the benchmark's own photos: different photos of a subject (i ≠ j), and copies.

    Raises:
        ImagesError: a photo cannot be read.
    """
    scale = scorer.protocol.scale
    means, sums, counts, copies = [], 0.0, 0, []
    for name, photos in scorer.references.items():
        if len(photos) > 1:
            similarities = scorer.photo_similarities(name, name, spec)
            different = similarities[~np.eye(len(photos), dtype=bool)]
            means.append(different.mean())
            sums, counts = sums + different.sum(), counts + len(different)
            copies.append(copy_bounds(similarities, input_index(scorer.benchmark.subjects[name])))
    if not means:
        return Bounds(macro=scale, micro=scale)  # a photo with itself: nothing else is known
    ordinary, exact = (scale * float(np.mean(column)) for column in zip(*copies, strict=True))
    return Bounds(
        macro=scale * float(np.mean(means)), micro=scale * sums / counts, ordinary_copy=ordinary, exact_copy=exact
    )


def benchmark_hash(benchmark: Benchmark) -> str:
    """Return 12 hex digits that change with the benchmark's subjects, cases and number of images."""
    parts = (sorted(benchmark.subjects.items()), benchmark.cases, benchmark.images_per_case)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _refuse_another(folder: Path, submission: Submission) -> None:
    if (folder / FILE).exists():
        header = read_evaluation(folder).header
        if (header.method, header.benchmark) != (submission.method, submission.benchmark.name):
            raise EvaluationError(
                f"{folder} holds the evaluation of {header.method!r} on {header.benchmark}: give another --out"
            )


def image_specs(protocol: Protocol) -> list[EncoderSpec]:
    """Return the encoders of images that a protocol takes, each once."""
    prompt = () if protocol.prompt_encoder is None else (protocol.prompt_encoder,)
    return list(dict.fromkeys((*protocol.subject_encoders, *prompt)))


def _all_files(submission: Submission, regions: Mapping[str, Regions]) -> list[Path]:
    generated = (file.path for file in submission.files if file.path is not None)
    photos = (path for paths in submission.references.values() for path in paths)
    return [*photos, *generated, *region_files(regions)]


def _embed_prompts(benchmark: Benchmark, protocol: Protocol, networks: Networks) -> dict[str, Float[np.ndarray, " D"]]:
    if protocol.prompt_encoder is None:
        return {}
    encoder = networks.prompts[protocol.prompt_encoder]
    prompts = _prompts(benchmark)
    vectors: dict[str, Float[np.ndarray, " D"]] = {}
    for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
        some = prompts[start : start + _PROMPTS_AT_ONCE]
        with torch.inference_mode():
            rows = encoder.embed_prompts(some).float().cpu().numpy()
        vectors.update(zip(some, rows, strict=True))
    return vectors


def _cut_prompts(benchmark: Benchmark, protocol: Protocol, networks: Networks) -> tuple[str, ...]:
    """Return the prompts that are longer than the protocol's encoder reads."""
    if protocol.prompt_encoder is None:
        return ()
    return tuple(networks.prompts[protocol.prompt_encoder].cut_prompts(_prompts(benchmark)))


def _prompts(benchmark: Benchmark) -> list[str]:
    return list(dict.fromkeys(case.prompt for case in benchmark.cases))


def _hash_of_files(references: Mapping[str, Iterable[Path]]) -> str:
    whole = hashlib.sha256()
    for name, paths in sorted(references.items()):
        whole.update(name.encode())
        for path in paths:
            whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()[:12]
