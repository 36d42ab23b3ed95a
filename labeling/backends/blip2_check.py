"""Check the weights of BLIP-2 without loading them."""

from pathlib import Path

from transformers import Blip2ForConditionalGeneration

from infra.weights.files import IMAGE_PROCESSOR, VOCABULARY, require_files
from infra.weights.findings import CheckedPart
from infra.weights.sources import HubSource
from labeling.backends.blip2 import SETTING, read_processors
from labeling.backends.folder_check import FolderNetwork, check_folder
from labeling.config import CaptionConfig

SOURCE = HubSource(
    hub_id="Salesforce/blip2-opt-2.7b",
    size_bytes=14_980_000_000,
    licence="MIT; its language model OPT: Meta's OPT licence, which forbids commercial use",
    files=("*.json", "*.txt", "*.safetensors"),
)


def check_captioner(config: CaptionConfig) -> CheckedPart:
    """Check the network, the image processor and the tokenizer of `config`."""
    expected = FolderNetwork("captioner, BLIP-2", SETTING, "blip-2", Blip2ForConditionalGeneration, SOURCE)
    return check_folder(expected, config.checkpoint, config.revision, _check_processors)


def _check_processors(folder: Path) -> None:
    require_files(folder, VOCABULARY)
    require_files(folder, IMAGE_PROCESSOR)
    read_processors(str(folder), revision="main")
