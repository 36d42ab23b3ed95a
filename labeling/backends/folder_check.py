"""Check the checkpoint folder of a network of transformers, for all backends that load one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_utils import load_state_dict, str_to_torch_dtype

from infra.weights.compare import compare_as_transformers
from infra.weights.files import WeightsState, header_reader, open_folder, require_network
from infra.weights.findings import CheckedPart, Findings
from infra.weights.sources import HubSource, find_folder, folder_cure
from labeling.errors import BackendWeightsError

NAMES = ("model.safetensors", "pytorch_model.bin")
"""Names of a network's file, in the order in which transformers looks for them."""
HEADERS = header_reader(
    partial(torch.empty, device="meta"), str_to_torch_dtype, partial(load_state_dict, map_location="meta")
)
"""Reader of names, shapes and types of the tensors of a safetensors file or a pickle."""


@dataclass(frozen=True, slots=True)
class FolderNetwork:
    """A network of transformers, as a backend loads it from a folder or hub id."""

    part: str
    """What the network is for: "captioner"."""
    setting: str
    """Setting that names the folder."""
    model_type: str | tuple[str, ...]
    """Type of the network in config.json, or several whose weights the class loads."""
    network: Any
    """Class of the network."""
    source: HubSource
    """Weights that the settings name by default."""


def check_folder(
    expected: FolderNetwork, name: str, revision: str, check_rest: Callable[[Path], object]
) -> CheckedPart:
    """Check a folder, or a hub id in the local cache: its settings, its tensors, and the rest.

    Args:
        expected: the network.
        name: value of the setting.
        revision: revision of the hub id.
        check_rest: raises an error if tokenizer or processor of the folder do not load.
    """
    findings = Findings((BackendWeightsError,))
    with findings.collect():
        folder = find_folder(name, revision)
        with findings.collect():
            types = expected.model_type
            require_network(folder / "config.json", "model_type", *((types,) if isinstance(types, str) else types))
            opened = open_folder(folder, NAMES, HEADERS)
            findings.add_size(opened.size_bytes)
            config = expected.network.config_class.from_pretrained(folder)
            findings.add_differences(compare_as_transformers(opened.tensors, expected.network, config))
        if (folder / "config.json").is_file() and findings.state is not WeightsState.OTHER:
            with findings.collect():
                check_rest(folder)
    cure = folder_cure(name, revision, expected.source, expected.setting)
    return findings.part(expected.part, expected.setting, name, cure)
