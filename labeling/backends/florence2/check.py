"""Check the weights of Florence-2 without loading them."""

from pathlib import Path

from transformers import Florence2ForConditionalGeneration, Florence2Processor

from infra.weights.files import IMAGE_PROCESSOR, VOCABULARY, require_files
from infra.weights.findings import CheckedPart
from infra.weights.sources import HubSource
from labeling.backends.florence2.caption import SETTING
from labeling.backends.folder_check import FolderNetwork, check_folder
from labeling.config import CaptionConfig, DetectConfig

SOURCE = HubSource(
    hub_id="florence-community/Florence-2-large", licence="MIT", files=("*.json", "*.txt", "*.safetensors")
)


def check_captioner(config: CaptionConfig) -> CheckedPart:
    """Check the network, the image processor and the tokenizer of the captioner."""
    return _check("captioner, Florence-2", SETTING, config.checkpoint, config.revision)


def check_detector(config: DetectConfig) -> CheckedPart:
    """Check the network, the image processor and the tokenizer of the detector."""
    return _check("detector, Florence-2", f"{config.table}.checkpoint", config.checkpoint, config.revision)


def _check(part: str, setting: str, checkpoint: str, revision: str) -> CheckedPart:
    expected = FolderNetwork(part, setting, "florence2", Florence2ForConditionalGeneration, SOURCE)
    return check_folder(expected, checkpoint, revision, _check_processor)


def _check_processor(folder: Path) -> None:
    require_files(folder, VOCABULARY)
    require_files(folder, IMAGE_PROCESSOR)
    Florence2Processor.from_pretrained(folder)
