"""Loaders of the networks that the stages' settings name.

Each function imports its backend only when called, in the worker that runs the network: PyTorch and spaCy take seconds
and hundreds of megabytes to import, and the process that plans a build needs neither.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from infra.config import Config
from labeling.config import (
    CaptionConfig,
    CaptionerBackend,
    DetectConfig,
    DetectorBackend,
    EmbedConfig,
    NounConfig,
    SegmentConfig,
    SegmenterBackend,
)
from labeling.stages.networks import Captioner, Detector, ImageEmbedder, Segmenter, Tagger

if TYPE_CHECKING:
    from torch import Tensor

    from labeling.backends.grounding_dino.detect import PreparedImage
    from labeling.backends.sam.predict import SamImage

_CAPTIONERS = {
    CaptionerBackend.BLIP2: "labeling.backends.blip2",
    CaptionerBackend.CHAT_API: "labeling.backends.chat_api",
    CaptionerBackend.FLORENCE2: "labeling.backends.florence2.caption",
}
_DETECTORS = {
    DetectorBackend.GROUNDINGDINO: "labeling.backends.grounding_dino.package",
    DetectorBackend.GROUNDING_DINO_HF: "labeling.backends.grounding_dino.huggingface",
    DetectorBackend.MM_GROUNDING_DINO: "labeling.backends.grounding_dino.huggingface",
    DetectorBackend.FLORENCE2: "labeling.backends.florence2.detect",
}
_SEGMENTERS = {
    SegmenterBackend.SEGMENT_ANYTHING: "labeling.backends.sam.package",
    SegmenterBackend.SAM_HF: "labeling.backends.sam.huggingface",
    SegmenterBackend.SAM2: "labeling.backends.sam.sam2",
}


def backend_module(config: Config) -> str | None:
    """Return the module that the network of these settings is imported from; None for settings without a network."""
    match config:
        case CaptionConfig():
            return _CAPTIONERS[config.backend]
        case NounConfig():
            return "labeling.backends.spacy_tagger"
        case DetectConfig():
            return _DETECTORS[config.backend]
        case EmbedConfig():
            return "labeling.backends.image_embedder"
        case SegmentConfig():
            return _SEGMENTERS[config.backend]
    return None


def backend_modules(configs: Iterable[Config]) -> list[str]:
    """Return the modules of `backend_module` for the networks of several stages, each once."""
    modules = [module for config in configs if (module := backend_module(config))]
    return list(dict.fromkeys(modules))


def load_captioner(config: CaptionConfig) -> "Captioner[Any]":
    """Load the captioner, in the backend and with the weights of `config`."""
    if config.backend is CaptionerBackend.CHAT_API:
        from labeling.backends.chat_api import ChatApiCaptioner

        return ChatApiCaptioner(config)
    if config.backend is CaptionerBackend.FLORENCE2:
        from labeling.backends.florence2.caption import Florence2Captioner

        return Florence2Captioner(config)
    from labeling.backends.blip2 import Blip2Captioner

    return Blip2Captioner(config)


def load_tagger(config: NounConfig) -> Tagger:
    """Load the spaCy pipeline of `config`."""
    from labeling.backends.spacy_tagger import SpacyTagger

    return SpacyTagger(config)


def load_detector(config: DetectConfig) -> "Detector[PreparedImage]":
    """Load the detector, in the backend and with the weights of `config`."""
    if config.backend is DetectorBackend.GROUNDINGDINO:
        from labeling.backends.grounding_dino.package import GroundingDinoPackageDetector

        return GroundingDinoPackageDetector(config)
    if config.backend is DetectorBackend.FLORENCE2:
        from labeling.backends.florence2.detect import Florence2Detector

        return Florence2Detector(config)
    from labeling.backends.grounding_dino.huggingface import GroundingDinoHfDetector

    return GroundingDinoHfDetector(config)


def load_embedder(config: EmbedConfig) -> "ImageEmbedder[Tensor]":
    """Load the embedder of images with the weights of `config`."""
    from labeling.backends.image_embedder import TransformersEmbedder

    return TransformersEmbedder(config)


def load_segmenter(config: SegmentConfig) -> "Segmenter[SamImage]":
    """Load the segmenter, in the backend and with the weights of `config`."""
    if config.backend is SegmenterBackend.SEGMENT_ANYTHING:
        from labeling.backends.sam.package import SegmentAnythingSegmenter

        return SegmentAnythingSegmenter(config)
    if config.backend is SegmenterBackend.SAM2:
        from labeling.backends.sam.sam2 import Sam2Segmenter

        return Sam2Segmenter(config)
    from labeling.backends.sam.huggingface import SamHfSegmenter

    return SamHfSegmenter(config)
