"""Loading of Florence-2 and of its processor."""

import torch
from transformers import AutoConfig, Florence2Config, Florence2ForConditionalGeneration, Florence2Processor

from infra.precision import Precision
from labeling.backends.runtime import pretrained_source, torch_dtype
from labeling.errors import BackendWeightsError


def load_florence2(
    name: str, revision: str, precision: Precision, setting: str, device: torch.device
) -> tuple[Florence2ForConditionalGeneration, Florence2Processor]:
    """Load network and processor.

    Args:
        name: folder or hub id.
        revision: revision of the hub id.
        precision: floating-point format of the network.
        setting: setting that names the checkpoint, for messages.
        device: device of the network.

    Raises:
        BackendWeightsError: the checkpoint does not load, is not Florence-2, or lacks weights.
    """
    with pretrained_source(name, setting) as source:
        described = AutoConfig.from_pretrained(source, revision=revision)
        if not isinstance(described, Florence2Config):
            raise BackendWeightsError(
                f"{setting}={name!r} holds a network of type {described.model_type!r}, not 'florence2': give a "
                "Florence-2 checkpoint such as florence-community/Florence-2-large"
            )
        processor = Florence2Processor.from_pretrained(source, revision=revision)
        net, report = Florence2ForConditionalGeneration.from_pretrained(
            source,
            revision=revision,
            dtype=torch_dtype(precision),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
        )
    if lacking := sorted(report["missing_keys"] | {key for key, *_ in report["mismatched_keys"]}):
        raise BackendWeightsError(
            f"{setting}={name!r} lacks {len(lacking)} weights of the Florence-2 that its config.json describes, or has "
            f"them in another size, the first is {lacking[0]!r}: download it again"
        )
    return net.eval().to(device), processor
