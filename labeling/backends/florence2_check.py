"""Check the weights of Florence-2 without loading them."""

from pathlib import Path

from transformers import Florence2ForConditionalGeneration, Florence2Processor

from infra.weights.files import IMAGE_PROCESSOR, VOCABULARY, require_files
from infra.weights.findings import CheckedPart
from infra.weights.sources import HubSource
from labeling.backends.florence2 import SETTING
from labeling.backends.folder_check import FolderNetwork, check_folder
from labeling.config import CaptionConfig

SOURCE = HubSource(
    hub_id="florence-community/Florence-2-large", licence="MIT", files=("*.json", "*.txt", "*.safetensors")
)


def check_florence2(config: CaptionConfig) -> CheckedPart:
    """Check the network, the image processor and the tokenizer of `config`."""
    expected = FolderNetwork("captioner, Florence-2", SETTING, "florence2", Florence2ForConditionalGeneration, SOURCE)
    return check_folder(expected, config.checkpoint, config.revision, _check_processor)


def _check_processor(folder: Path) -> None:
    require_files(folder, VOCABULARY)
    require_files(folder, IMAGE_PROCESSOR)
    Florence2Processor.from_pretrained(folder)
