"""The test of an evaluator on photographs: it must find what publications print for DreamBench's 158 real images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evaluation.benchmarks.benchmark import Benchmark
from evaluation.protocols import EncoderSpec, Protocol
from evaluation.run import Embed, Networks, photo_bounds
from evaluation.scoring import Embedded, References, Scorer

PUBLISHED = {"facebook/dino-vits16": 0.774, "openai/clip-vit-base-patch32": 0.885}
"""Mean similarity of different photos of a subject, by the encoder's weights (DreamBooth, Table 1)."""
TOLERANCE = 0.01
"""Allowed distance from the published value. The publication names neither its variant of CLIP nor whether a photo is
compared with itself; the photographs here may have been scaled down."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What an encoder finds on the photographs."""

    encoder: str
    """Name of the encoder."""
    found: float
    """Mean over subjects of the mean similarity of different photos (i ≠ j)."""
    over_pairs: float
    """Mean over all pairs of different photos."""
    published: float | None
    """Published value; None for an encoder that no publication uses."""

    @property
    def passed(self) -> bool | None:
        """Whether the found value is near the published one; None if there is none."""
        return None if self.published is None else abs(self.found - self.published) <= TOLERANCE

    @property
    def line(self) -> str:
        """Result in one line."""
        text = f"{self.encoder}: {self.found:.3f} by subject, {self.over_pairs:.3f} over pairs"
        if self.published is None:
            return f"{text}; it is neither DINO nor CLIP, so there is no published value"
        verdict = "passed" if self.passed else "FAILED"
        return f"{text}; published {self.published:.3f} ± {TOLERANCE:g}: {verdict}"


def run_self_test(
    benchmark: Benchmark, references: References, protocols: Sequence[Protocol], networks: Networks, embed: Embed
) -> Iterator[SelfTest]:
    """Yield the result of each encoder that compares subjects.

    Raises:
        ImagesError: a photo cannot be read.
        EncoderWeightsError: an embedding is NaN or infinite.
    """
    specs = list(dict.fromkeys(spec for protocol in protocols for spec in protocol.subject_encoders))
    photos = [path for paths in references.values() for path in paths]
    images = dict(zip(specs, embed([networks.images[spec] for spec in specs], photos), strict=True))
    scorer = Scorer(benchmark, protocols[0].model_copy(update={"scale": 1.0}), references, Embedded(images, {}))
    for spec in specs:
        bounds = photo_bounds(scorer, spec)
        yield SelfTest(spec.name, bounds.macro, bounds.micro, _published(spec, benchmark))


def _published(spec: EncoderSpec, benchmark: Benchmark) -> float | None:
    return PUBLISHED.get(spec.weights) if benchmark.name.startswith("dreambench") else None
