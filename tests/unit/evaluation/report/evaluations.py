"""Evaluations of made-up scores."""

from collections.abc import Mapping, Sequence

from evaluation.protocol_catalog import DREAMBOOTH
from evaluation.protocols import Protocol
from evaluation.results import Bounds, Evaluation, Header
from evaluation.scores.image_score import ImageScore


def header(method: str = "Model", protocol: Protocol = DREAMBOOTH, **changes: object) -> Header:
    specs = (*protocol.subject_encoders, *filter(None, [protocol.prompt_encoder]))
    fields = {
        "method": method,
        "benchmark": "dreambench",
        "benchmark_title": "DreamBench",
        "benchmark_source": "google/dreambooth",
        "benchmark_hash": "0123456789ab",
        "images": 4,
        "images_per_case": 2,
        "photos_hash": "ba9876543210",
        "protocol": protocol,
        "weights": {spec.name: "ab" * 32 for spec in specs},
        "bounds": {
            spec.metric: Bounds(macro=0.774, micro=0.77, ordinary_copy=0.01, exact_copy=0.23)
            for spec in protocol.subject_encoders
        },
    }
    return Header.model_validate({**fields, **changes})


def evaluation(
    scores: Mapping[str, Sequence[float | None]],
    method: str = "Model",
    protocol: Protocol = DREAMBOOTH,
    **changes: object,
) -> Evaluation:
    """Return an evaluation from the scores of `cat/00/0`, `cat/00/1`, `dog/20/0` and `dog/20/1` by each metric."""
    places = [("cat/00", 0), ("cat/00", 1), ("dog/20", 0), ("dog/20", 1)]
    rows = tuple(
        ImageScore(case, index, case[:3], "place" if case[:3] == "cat" else "attribute", name, value, 5, reason)
        for name, values in scores.items()
        for (case, index), value in zip(places, values, strict=True)
        for reason in ["missing" if value is None else ""]
    )
    return Evaluation(header(method, protocol, **changes), rows, {f"{case}/{index}": "" for case, index in places})
