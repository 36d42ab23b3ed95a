"""Check the weights that the settings of a build name, without loading them: names, shapes and types of tensors.

Nothing is downloaded. A hub id is looked up in the local cache. Values of tensors are not read, so damage inside a
tensor is not found.
"""

from collections.abc import Iterator

from infra.weights.findings import CheckedPart
from labeling.config import CaptionerBackend, DetectConfig, DetectorBackend, LabelingConfig, SegmenterBackend


def check_labeling_weights(config: LabelingConfig) -> Iterator[CheckedPart]:
    """Yield each part whose weights the stages of a build load, in the order of the stages."""
    from labeling.backends.spacy_check import check_tagger

    yield from _check_captioner(config)
    yield check_tagger(config.nouns)
    yield from _check_detector(config.detect)
    yield _check_segmenter(config)
    if config.confirm.enabled:
        yield from _check_detector(config.confirm)
    if config.clean.near_duplicate_cosine is not None:
        from labeling.backends.image_embedder_check import check_embedder

        yield check_embedder(config.embed)


def _check_captioner(config: LabelingConfig) -> Iterator[CheckedPart]:
    if config.caption.backend is CaptionerBackend.BLIP2:
        from labeling.backends.blip2_check import check_captioner

        yield check_captioner(config.caption)
    elif config.caption.backend is CaptionerBackend.FLORENCE2:
        from labeling.backends.florence2 import check as florence2

        yield florence2.check_captioner(config.caption)


def _check_detector(config: DetectConfig) -> Iterator[CheckedPart]:
    if config.backend is DetectorBackend.GROUNDINGDINO:
        from labeling.backends.grounding_dino.package_check import check_package_detector

        yield from check_package_detector(config)
    elif config.backend is DetectorBackend.FLORENCE2:
        from labeling.backends.florence2 import check as florence2

        yield florence2.check_detector(config)
    else:
        from labeling.backends.grounding_dino.huggingface_check import check_hf_detector

        yield check_hf_detector(config)


def _check_segmenter(config: LabelingConfig) -> CheckedPart:
    if config.segment.backend is SegmenterBackend.SEGMENT_ANYTHING:
        from labeling.backends.sam.package_check import check_package_segmenter

        return check_package_segmenter(config.segment)
    if config.segment.backend is SegmenterBackend.SAM2:
        from labeling.backends.sam.sam2_check import check_sam2_segmenter

        return check_sam2_segmenter(config.segment)
    from labeling.backends.sam.huggingface_check import check_hf_segmenter

    return check_hf_segmenter(config.segment)
