"""Check the weights of Grounding DINO of transformers without loading them."""

from pathlib import Path

from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

from infra.weights.files import IMAGE_PROCESSOR, VOCABULARY, require_files
from infra.weights.findings import CheckedPart
from infra.weights.sources import HubSource
from labeling.backends.folder_check import FolderNetwork, check_folder
from labeling.backends.grounding_dino.huggingface import SETTING
from labeling.config import DetectConfig

SOURCE = HubSource(
    hub_id="IDEA-Research/grounding-dino-tiny",
    size_bytes=690_000_000,
    licence="Apache-2.0",
    files=("*.json", "*.txt", "*.safetensors"),
)


def check_hf_detector(config: DetectConfig) -> CheckedPart:
    """Check the network and the processor of `config`."""
    expected = FolderNetwork(
        "detector, Grounding DINO", SETTING, "grounding-dino", GroundingDinoForObjectDetection, SOURCE
    )
    return check_folder(expected, config.checkpoint, config.revision, _check_processor)


def _check_processor(folder: Path) -> None:
    require_files(folder, VOCABULARY)
    require_files(folder, IMAGE_PROCESSOR)
    GroundingDinoProcessor.from_pretrained(folder)
