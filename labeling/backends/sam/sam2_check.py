"""Check the weights of SAM 2 of transformers without loading them."""

from pathlib import Path

from transformers import Sam2Config, Sam2Model

from infra.weights.files import IMAGE_PROCESSOR, require_files
from infra.weights.findings import CheckedPart
from infra.weights.sources import HubSource
from labeling.backends.folder_check import FolderNetwork, check_folder
from labeling.backends.sam.sam2 import MODEL_TYPES, SETTING, read_preprocessing
from labeling.config import SegmentConfig

SOURCE = HubSource(hub_id="facebook/sam2.1-hiera-large", licence="Apache-2.0", files=("*.json", "*.safetensors"))


def check_sam2_segmenter(config: SegmentConfig) -> CheckedPart:
    """Check the network and the image processor of `config`."""
    expected = FolderNetwork("segmenter, SAM 2", SETTING, MODEL_TYPES, Sam2Model, SOURCE)
    return check_folder(expected, config.checkpoint, config.revision, _check_preprocessing)


def _check_preprocessing(folder: Path) -> None:
    require_files(folder, IMAGE_PROCESSOR)
    read_preprocessing(str(folder), "main", Sam2Config.from_pretrained(folder), str(folder))
