"""The choices behind a report's scores, complete: the protocol, its encoders, the benchmark and the weights."""

from collections.abc import Iterator

from evaluation.protocols import EncoderSpec, Protocol
from evaluation.results import Header
from infra.report.document import Table


def choices_table(header: Header) -> Table:
    """Return every choice as a table of names and values."""
    return Table(
        f"Every choice behind the scores by “{header.protocol.name}”",
        ("Choice", "Value"),
        (*_benchmark(header), *_protocol(header.protocol), *_networks(header)),
    )


def _benchmark(header: Header) -> Iterator[tuple[str, str]]:
    yield "Images by", header.method
    yield "Benchmark", f"{header.benchmark_title} ({header.benchmark}, hash {header.benchmark_hash})"
    yield "Its source", header.benchmark_source
    yield "Images", f"{header.images:,}, {header.images_per_case} a case; {len(header.unscored):,} could not be scored"
    yield "Photos of the subjects", f"hash {header.photos_hash}"
    for note in header.benchmark_notes:
        yield "Note on the benchmark", note


def _protocol(protocol: Protocol) -> Iterator[tuple[str, str]]:
    yield "Protocol", f"{protocol.title} ({protocol.name}, hash {protocol.fingerprint()})"
    yield "Its source", protocol.source
    yield "Compared with", protocol.comparison.replace("_", " ")
    yield "Average", protocol.average
    yield "Images without a score", protocol.missing.replace("_", " ")
    yield "Negative similarity to the prompt", "counts as 0" if protocol.clip_text_at_zero else "counts as it is"
    yield "Factor on CLIP-T", f"{protocol.text_scale:g}"
    yield "Factor on all scores", f"{protocol.scale:g}"
    for note in protocol.notes:
        yield "Note on the protocol", note


def _networks(header: Header) -> Iterator[tuple[str, str]]:
    protocol = header.protocol
    for spec in protocol.subject_encoders:
        yield f"Encoder of {spec.metric}", _encoder(spec, header)
    if protocol.prompt_encoder is not None:
        yield "Encoder of CLIP-T", _encoder(protocol.prompt_encoder, header)
        yield "Prompts longer than it reads, so cut", "; ".join(header.cut_prompts) or "none"
    if protocol.faces:
        others = sorted(header.weights.keys() - {spec.name for spec in protocol.subject_encoders})
        yield "Encoder of faces", "; ".join(f"{name}, weights SHA-256 {header.weights[name][:16]}" for name in others)
    yield "Detector of subjects", header.detector or "none: regions are the requested boxes, where there are any"
    if header.presence_threshold is not None:
        yield (
            "A region shows a subject from",
            f"similarity {header.presence_threshold:.3f}, which best tells this benchmark's photos apart",
        )


def _encoder(spec: EncoderSpec, header: Header) -> str:
    return (
        f"{spec.name}: {spec.weights}, {spec.architecture}, {spec.embedding_size} values, {spec.activation}, "
        f"{spec.dtype}; shorter side to {spec.resize_px} px ({spec.interpolation}), centre {spec.crop_px} px, "
        f"mean {_values(spec.mean)}, std {_values(spec.std)}; weights SHA-256 {header.weights[spec.name][:16]}"
    )


def _values(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
