"""Files of weights are found and opened by their headers; what is missing or damaged is named; no pickle runs code."""

import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers.modeling_utils import load_state_dict, str_to_torch_dtype

from infra.weights.files import (
    VOCABULARY,
    WeightsFault,
    WeightsState,
    header_reader,
    open_folder,
    read_settings,
    require_files,
    require_network,
)
from tests.hollow_weights import save_hollow, save_hollow_shards
from tests.unit.model.weights.test_files import LFS, Malicious

READ = header_reader(
    partial(torch.empty, device="meta"), str_to_torch_dtype, partial(load_state_dict, map_location="meta")
)
NAMES = ("model.safetensors", "pytorch_model.bin")
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(3, dtype=torch.float16)}


def fault(check: Callable[[], object], state: WeightsState) -> str:
    with pytest.raises(WeightsFault) as raised:
        check()
    assert raised.value.state is state
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def write(folder: Path, kind: str) -> None:
    if kind == "safetensors":
        save_file(TENSORS, folder / NAMES[0])
    elif kind == "shards":
        save_hollow_shards(folder, NAMES[0], TENSORS)
    else:
        torch.save(TENSORS, folder / NAMES[1], _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", ["safetensors", "shards", "zip", "legacy pickle"])
def test_names_shapes_and_types_are_read(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind)
    opened = open_folder(tmp_path, NAMES, READ)
    found = {name: (tensor.shape, tensor.dtype, tensor.device.type) for name, tensor in opened.tensors.items()}
    assert found == {name: (tensor.shape, tensor.dtype, "meta") for name, tensor in TENSORS.items()}
    files = [path for path in tmp_path.iterdir() if path.suffix != ".json"]
    assert opened.size_bytes == sum(path.stat().st_size for path in files)


def test_safetensors_come_before_a_pickle(tmp_path: Path) -> None:
    write(tmp_path, "safetensors")
    (tmp_path / NAMES[1]).write_bytes(b"garbage")
    assert open_folder(tmp_path, NAMES, READ).tensors.keys() == TENSORS.keys()


DAMAGE = {
    "truncated": lambda whole: whole[:-5],
    "header alone": lambda whole: whole[:10],
    "empty": lambda whole: b"",
    "garbage": lambda whole: b"garbage" * 50,
    "pointer": lambda whole: LFS,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy pickle"])
def test_a_damaged_file_is_named(tmp_path: Path, kind: str, damage: str) -> None:
    write(tmp_path, kind)
    (path,) = tmp_path.iterdir()
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    said = fault(lambda: open_folder(tmp_path, NAMES, READ), WeightsState.DAMAGED)
    assert said.startswith(f"{path} is ")
    assert ("git lfs pull" in said) == (damage == "pointer")


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save(TENSORS | {"x": Malicious(trap)}, tmp_path / NAMES[1])
    assert zipfile.is_zipfile(tmp_path / NAMES[1])
    assert "it was not run" in fault(lambda: open_folder(tmp_path, NAMES, READ), WeightsState.REFUSED)
    assert not trap.exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"a": {"b": torch.zeros(1)}}, "text"])
def test_a_pickle_of_other_things_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / NAMES[1])
    assert "in place of tensors" in fault(lambda: open_folder(tmp_path, NAMES, READ), WeightsState.OTHER)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path, "shards")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    said = fault(lambda: open_folder(tmp_path, NAMES, READ), WeightsState.INCOMPLETE)
    assert said == (
        f"{tmp_path} lacks 1 of the 2 files that model.safetensors.index.json lists: model-00002-of-00002.safetensors"
    )


@pytest.mark.parametrize("index", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_damaged_index_is_named(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json is damaged" in fault(
        lambda: open_folder(tmp_path, NAMES, READ), WeightsState.DAMAGED
    )


def test_an_empty_folder_is_incomplete(tmp_path: Path) -> None:
    said = fault(lambda: open_folder(tmp_path, NAMES, READ), WeightsState.INCOMPLETE)
    assert said == f"{tmp_path} has no model.safetensors or pytorch_model.bin"


def test_settings(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert fault(lambda: read_settings(path), WeightsState.INCOMPLETE) == f"{tmp_path} has no config.json"
    for content in (b"", b"\x93\x00", b"{", b"[]", b"null"):
        path.write_bytes(content)
        assert f"{path} is damaged" in fault(lambda: read_settings(path), WeightsState.DAMAGED)
    path.write_text(json.dumps({"model_type": "clip"}))
    require_network(path, "model_type", "clip")
    said = fault(lambda: require_network(path, "model_type", "sam"), WeightsState.OTHER)
    assert said == f"{path} describes a network of type 'clip', not 'sam'"


@pytest.mark.parametrize("names", VOCABULARY)
def test_a_vocabulary_is_one_of_several_sets_of_files(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        said = fault(lambda: require_files(tmp_path, VOCABULARY), WeightsState.INCOMPLETE)
        assert said == f"{tmp_path} has no tokenizer.json or vocab.json with merges.txt or vocab.txt"
        (tmp_path / name).touch()
    require_files(tmp_path, VOCABULARY)


def test_a_file_larger_than_the_disk_is_opened_by_its_header(tmp_path: Path) -> None:
    """A sparse file of 10 TB."""
    huge = {f"layer.{i}": torch.empty(500_000, 500_000, device="meta") for i in range(10)}
    save_hollow(tmp_path / NAMES[0], huge)
    opened = open_folder(tmp_path, NAMES, READ)
    assert opened.size_bytes > 1e13
    assert opened.tensors["layer.9"].shape == (500_000, 500_000)
