"""Check the checkpoint files of the groundingdino-py package without loading them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from accelerate import init_empty_weights
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from infra.weights.compare import compare
from infra.weights.files import (
    VOCABULARY,
    WeightsFault,
    WeightsState,
    folder_size,
    open_file,
    require_files,
    require_tensors,
)
from infra.weights.findings import CheckedPart, Findings
from infra.weights.sources import Cure, HubSource, file_cure, find_file, find_folder, folder_cure
from labeling.backends.folder_check import HEADERS
from labeling.backends.grounding_dino.package import (
    build,
    needed_weights,
    package_config,
    text_encoder,
    unpack_weights,
)
from labeling.config import DetectConfig
from labeling.errors import BackendWeightsError

CHECKPOINT_URL = (
    "https://github.com/IDEA-Research/GroundingDINO/releases/download/v0.1.0-alpha/groundingdino_swint_ogc.pth"
)
"""Checkpoint for the package's own configuration, GroundingDINO_SwinT_OGC.py."""
CHECKPOINT_BYTES = 693_997_677
TEXT_ENCODER = HubSource(
    hub_id="bert-base-uncased",
    size_bytes=700_000,
    licence="Apache-2.0",
    files=("config.json", "tokenizer*", "vocab.txt"),
)
_Text = tuple[PreTrainedTokenizerBase, PretrainedConfig]


def check_package_detector(config: DetectConfig) -> Iterator[CheckedPart]:
    """Yield the text encoder's settings, the package's configuration if one is named, and the checkpoint."""
    part, text = _check_text_encoder(config)
    yield part
    if config.package_config is not None:
        yield _check_package_config(config.package_config, config.table)
    yield _check_checkpoint(config, text)


def _check_text_encoder(config: DetectConfig) -> tuple[CheckedPart, _Text | None]:
    name, text, setting = config.text_encoder, None, f"{config.table}.text_encoder"
    findings = Findings((BackendWeightsError,))
    with findings.collect():
        folder = find_folder(name, None)
        findings.add_size(folder_size(folder))
        require_files(folder, VOCABULARY)
        text = text_encoder(str(folder), config.table)
    cure = folder_cure(name, None, TEXT_ENCODER, setting)
    return findings.part("detector's tokenizer, BERT", setting, name, cure), text


def _check_package_config(path: str, table: str) -> CheckedPart:
    findings = Findings((BackendWeightsError,))
    with findings.collect():
        package_config(path, table)
        findings.add_size(Path(path).expanduser().stat().st_size)
    cure = Cure("", "give a .py file of the package's config folder")
    return findings.part("detector's configuration", f"{table}.package_config", path, cure)


def _check_checkpoint(config: DetectConfig, text: _Text | None) -> CheckedPart:
    findings = Findings((BackendWeightsError,))
    with findings.collect():
        file = find_file(config.checkpoint)
        findings.add_size(file.stat().st_size)
        weights = _unpack(file)
        if text is None:
            raise WeightsFault(
                WeightsState.UNCHECKED,
                f"{file} opens, but it is compared with nothing, because {config.table}.text_encoder does not load",
            )
        with init_empty_weights():
            net = build(package_config(config.package_config, config.table), *text, config.table)
        findings.add_differences(compare(weights, needed_weights(net, weights)))
    cure = file_cure(config.checkpoint, CHECKPOINT_URL, CHECKPOINT_BYTES, "Apache-2.0")
    return findings.part("detector, Grounding DINO", f"{config.table}.checkpoint", config.checkpoint, cure)


def _unpack(file: Path) -> dict[str, Tensor]:
    content = open_file(file, HEADERS)
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise WeightsFault(WeightsState.OTHER, f"{file} is not a GroundingDINO checkpoint: no tensors under 'model'")
    return require_tensors(file, unpack_weights(content))
