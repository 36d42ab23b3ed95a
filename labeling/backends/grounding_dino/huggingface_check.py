"""Check the weights of Grounding DINO and MM Grounding DINO of transformers without loading them."""

from pathlib import Path

from transformers import GroundingDinoProcessor

from infra.weights.files import IMAGE_PROCESSOR, VOCABULARY, require_files
from infra.weights.findings import CheckedPart
from infra.weights.sources import HubSource
from labeling.backends.folder_check import FolderNetwork, check_folder
from labeling.backends.grounding_dino.huggingface import NETWORKS
from labeling.config import DetectConfig, DetectorBackend

FILES = ("*.json", "*.txt", "*.safetensors")
SOURCES = {
    DetectorBackend.GROUNDING_DINO_HF: HubSource(
        hub_id="IDEA-Research/grounding-dino-tiny", size_bytes=690_000_000, licence="Apache-2.0", files=FILES
    ),
    DetectorBackend.MM_GROUNDING_DINO: HubSource(
        hub_id="openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det", files=FILES
    ),
}
"""Weights of each backend."""
NAMES = {
    DetectorBackend.GROUNDING_DINO_HF: "detector, Grounding DINO",
    DetectorBackend.MM_GROUNDING_DINO: "detector, MM Grounding DINO",
}
"""Name of each backend's network in reports."""


def check_hf_detector(config: DetectConfig) -> CheckedPart:
    """Check the network and the processor of `config`."""
    network, source = NETWORKS[config.backend], SOURCES[config.backend]
    setting, kind = f"{config.table}.checkpoint", network.config_class.model_type
    expected = FolderNetwork(NAMES[config.backend], setting, kind, network, source)
    return check_folder(expected, config.checkpoint, config.revision, _check_processor)


def _check_processor(folder: Path) -> None:
    require_files(folder, VOCABULARY)
    require_files(folder, IMAGE_PROCESSOR)
    GroundingDinoProcessor.from_pretrained(folder)
