"""Check the weights of the embedder of images without loading them."""

import json
from pathlib import Path

from transformers import AutoImageProcessor

from infra.weights.files import IMAGE_PROCESSOR, require_files
from infra.weights.findings import CheckedPart
from infra.weights.sources import HubSource
from labeling.backends.folder_check import FolderNetwork, check_folder
from labeling.backends.image_embedder import NETWORKS, SETTING
from labeling.config import EmbedConfig

SOURCE = HubSource(hub_id="facebook/dinov2-small", licence="Apache-2.0", files=("*.json", "*.safetensors"))


def check_embedder(config: EmbedConfig) -> CheckedPart:
    """Check the network and the image processor of `config`."""
    network = NETWORKS[_kind(config.checkpoint)]
    expected = FolderNetwork("embedder of images", SETTING, tuple(NETWORKS), network, SOURCE)
    return check_folder(expected, config.checkpoint, config.revision, _check_processor)


def _kind(checkpoint: str) -> str:
    """Return the type of network of a local folder; that of the default weights if it cannot be read."""
    try:
        kind = json.loads((Path(checkpoint).expanduser() / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = "dinov2"
    return kind if kind in NETWORKS else "dinov2"


def _check_processor(folder: Path) -> None:
    require_files(folder, IMAGE_PROCESSOR)
    AutoImageProcessor.from_pretrained(folder)
