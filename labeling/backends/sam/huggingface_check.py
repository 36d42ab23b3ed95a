"""Check the weights of SAM of transformers without loading them."""

from pathlib import Path

from transformers import AutoConfig, SamModel

from infra.weights.files import IMAGE_PROCESSOR, require_files
from infra.weights.findings import CheckedPart
from infra.weights.sources import HubSource
from labeling.backends.folder_check import FolderNetwork, check_folder
from labeling.backends.sam.huggingface import SETTING, read_preprocessing
from labeling.config import SegmentConfig

SOURCE = HubSource(
    hub_id="facebook/sam-vit-huge",
    size_bytes=2_560_000_000,
    licence="Apache-2.0",
    files=("*.json", "*.safetensors"),
)


def check_hf_segmenter(config: SegmentConfig) -> CheckedPart:
    """Check the network and the image processor of `config`."""
    expected = FolderNetwork("segmenter, SAM", SETTING, "sam", SamModel, SOURCE)
    return check_folder(expected, config.checkpoint, config.revision, _check_preprocessing)


def _check_preprocessing(folder: Path) -> None:
    require_files(folder, IMAGE_PROCESSOR)
    side_px = AutoConfig.from_pretrained(folder).vision_config.image_size
    read_preprocessing(str(folder), "main", side_px, str(folder))
