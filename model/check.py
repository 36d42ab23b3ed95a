"""Check the weights of a model's settings, and the folder of a trained model, without loading them."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from infra.weights.compare import compare
from infra.weights.files import WeightsFault, WeightsState, read_settings
from infra.weights.findings import CheckedPart, Findings
from infra.weights.sources import Cure, find_local_folder
from model.config import ModelConfig
from model.errors import ModelError
from model.subject_diffusion import Networks, SubjectDiffusion
from model.weights.check import (
    Check,
    Place,
    check_base,
    check_image_encoder,
    check_shared_parts,
    check_visual_tower,
    open_part,
)
from model.weights.folders import (
    ADDED_WEIGHTS,
    UNET_FILE,
    LoadOptions,
    added_tensors,
    empty_parts,
    load_settings,
    read_defaults,
    stock_unet_tensors,
)

_CURE = Cure(
    "subject-diffusion export OUT/checkpoints/step-… FOLDER", "copy the folder again, or export its checkpoint again"
)


def check_model_weights(config: ModelConfig) -> Iterator[CheckedPart]:
    """Yield each part of the base, and the image encoder."""
    yield from check_base(config)
    yield check_image_encoder(config)


def check_trained_model(folder: str, variant: str | None = None) -> Iterator[CheckedPart]:
    """Yield each part of the folder of a trained model.

    Args:
        folder: the folder.
        variant: variant of the files, such as `fp16`; parts without files of it are read from their plain files.
    """
    place = Place("model", "--model", folder, partial(find_local_folder, folder), _CURE, LoadOptions(variant=variant))
    yield place.check("settings", _check_settings)
    yield place.check("UNet", _check_of_network(UNET_FILE, stock_unet_tensors))
    yield place.check("adapters", _check_of_network(ADDED_WEIGHTS, added_tensors))
    yield from check_shared_parts(place)
    yield place.check("image encoder", _check_image_encoder)


def _check_image_encoder(folder: Path, findings: Findings, options: LoadOptions) -> None:
    check_visual_tower(folder / "image_encoder", findings, options)


def _check_settings(folder: Path, findings: Findings, _: LoadOptions) -> None:
    read_settings(folder / "settings.json")
    load_settings(folder)
    read_defaults(folder)
    findings.add_size((folder / "settings.json").stat().st_size)


def _check_of_network(file: str, own_tensors: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> Check:
    """Return the check of a file with some of the whole model's tensors."""

    def check(folder: Path, findings: Findings, options: LoadOptions) -> None:
        path = folder / file
        tensors = open_part(path.parent, [path.name], findings, options)
        findings.add_differences(compare(tensors, own_tensors(_expected_tensors(folder))), strict=True)

    return check


def _expected_tensors(folder: Path) -> Mapping[str, Tensor]:
    """Return the tensors of the model that the folder's settings describe, on the meta device.

    Raises:
        WeightsFault: settings of a part are missing or damaged.
    """
    try:
        parts, config = empty_parts(folder), load_settings(folder)
    except ModelError as error:
        raise WeightsFault(
            WeightsState.UNCHECKED, f"the file opens, but it is compared with nothing: {error}"
        ) from error
    with torch.device("meta"):
        return SubjectDiffusion(Networks.build(parts, config)).state_dict()
