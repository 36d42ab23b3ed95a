"""Damaged files are refused in one line that names the file, the tensor and the cure; no pickle runs its code."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from model.errors import ModelWeightsError
from model.weights.files import (
    check_numbers,
    check_tensors,
    read_json,
    read_pickled_tensors,
    read_safetensors,
    report_damage,
)

TENSORS = {"visual.weight": torch.arange(6.0).reshape(2, 3), "visual.bias": torch.zeros(3), "text": torch.ones(1)}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


class Malicious:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(ModelWeightsError) as error:
        read()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_whole_files_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    assert read_safetensors(tmp_path / "a.safetensors", "visual.").keys() == {"weight", "bias"}
    for number, is_zip in enumerate((True, False)):
        path = tmp_path / f"{number}.bin"
        torch.save(TENSORS, path, _use_new_zipfile_serialization=is_zip)
        assert torch.equal(read_pickled_tensors(path)["visual.weight"], TENSORS["visual.weight"])
    (tmp_path / "a.json").write_text('{"format": 1}')
    assert read_json(tmp_path / "a.json") == {"format": 1}


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda whole: whole[:-5], "not fully covered"),
        (lambda whole: whole[:10], "header"),
        (lambda whole: b"", "header too small"),
        (lambda whole: b"garbage" * 50, "header too large"),
        (lambda whole: LFS, "git lfs pull"),
    ],
    ids=["truncated", "header alone", "empty", "garbage", "pointer"],
)
def test_damaged_safetensors(tmp_path: Path, damage: Callable[[bytes], bytes], kind: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(damage(path.read_bytes()))
    said = refusal(lambda: read_safetensors(path))
    assert said.startswith(f"{path} is not a whole safetensors file (")
    assert kind in said
    assert said.endswith("copy or download it again")


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "model.bin"
    torch.save(TENSORS | {"x": Malicious(trap)}, path)
    assert f"{path} is refused (UnpicklingError): it is damaged, or a pickle of more" in refusal(
        lambda: read_pickled_tensors(path)
    )
    path.write_bytes(pickle.dumps(Malicious(trap)))
    refusal(lambda: read_pickled_tensors(path))
    assert not trap.exists()
    pickle.loads(path.read_bytes())
    assert trap.exists(), "the trap works"


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, "text"])
def test_a_pickle_of_other_things_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.bin")
    assert "give safetensors" in refusal(lambda: read_pickled_tensors(tmp_path / "model.bin"))


@pytest.mark.parametrize("content", [b"", b"garbage", LFS, None], ids=["empty", "garbage", "pointer", "truncated"])
def test_a_damaged_pickle_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.bin"
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    assert str(path) in refusal(lambda: read_pickled_tensors(path))


@pytest.mark.parametrize("content", [b"", b"\x93\x00", b'{"a": ', b"[]", b"null", b'"text"'])
def test_json_that_is_not_settings_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    assert refusal(lambda: read_json(path)).startswith(f"{path} is damaged: it ")


def test_a_missing_file_stays_an_os_error(tmp_path: Path) -> None:
    for read in (read_json, read_safetensors, read_pickled_tensors):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "nothing")


def changed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    return {**TENSORS, name: tensor}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"text": TENSORS["text"]}, "file: 2 tensors are missing or unexpected, such as visual.bias"),
        (changed("nobody", torch.zeros(1)), "file: 1 tensors are missing or unexpected, such as nobody"),
        (changed("text", torch.zeros(2, 1)), r"file: text is \[2, 1\], but its settings require \[1\]"),
        (changed("text", torch.zeros(1, dtype=torch.int64)), "file: text is of torch.int64, not of floating-point"),
        (changed("visual.bias", torch.tensor([0, torch.nan, 0])), "file: 1 of 3 values of visual.bias are NaN or inf"),
        (changed("visual.bias", torch.tensor([torch.inf, -torch.inf, 0])), "file: 2 of 3 values of visual.bias are"),
    ],
)
def test_tensors_that_do_not_fit(found: dict[str, Tensor], said: str) -> None:
    with pytest.raises(ModelWeightsError, match=f"{said}.*copy or download it again"):
        check_tensors("file", found, TENSORS)


def test_large_numbers_are_numbers() -> None:
    check_numbers("file", {"a": torch.full((100,), 3e38), "b": torch.full((9,), 6e4, dtype=torch.float16)})
    check_tensors("file", TENSORS, {name: tensor.to("meta") for name, tensor in TENSORS.items()})


def test_a_library_s_error_becomes_that_of_the_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(LFS)

    def load() -> None:
        with report_damage(tmp_path):
            json.loads("no")

    assert refusal(load).startswith(f"{tmp_path / 'model.safetensors'} is not")
    (tmp_path / "model.safetensors").unlink()
    assert refusal(load).startswith(f"{tmp_path} does not load with its config.json (JSONDecodeError: Expecting value")
    (tmp_path / "config.json").unlink()
    with pytest.raises(json.JSONDecodeError):
        load()
