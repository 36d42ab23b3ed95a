"""Weights are identified by what they are, not by where they lie."""

import pytest

from labeling.weights import SAMPLE_BYTES, SAMPLES, package_id, weights_id


@pytest.fixture(autouse=True)
def _nothing_is_remembered():
    weights_id.cache_clear()
    yield
    weights_id.cache_clear()


def changed(path, change):
    """Whether the identity changes with `change`."""
    before = weights_id(str(path))
    change()
    weights_id.cache_clear()
    return weights_id(str(path)) != before


def test_a_file_is_identified_by_its_content(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"weights")
    (tmp_path / "b.pth").write_bytes(b"weights")
    assert weights_id(str(tmp_path / "a.pth")) == weights_id(str(tmp_path / "b.pth"))
    assert len(weights_id(str(tmp_path / "a.pth"))) == 12
    assert changed(tmp_path / "a.pth", lambda: (tmp_path / "a.pth").write_bytes(b"Weights"))


def test_a_folder_is_identified_by_its_files(tmp_path):
    folder = tmp_path / "blip2"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep" / "model.safetensors").write_bytes(b"weights")
    assert weights_id(str(folder)) == weights_id(str(folder), "any revision")
    assert changed(folder, lambda: (folder / "deep" / "model.safetensors").write_bytes(b"Weights"))
    assert changed(folder, lambda: (folder / "config.json").rename(folder / "settings.json"))
    assert changed(folder, lambda: (folder / "more.txt").touch())
    before = weights_id(str(folder))
    assert weights_id(str(folder.rename(tmp_path / "moved"))) == before


def test_content_does_not_move_between_files_unseen(tmp_path):
    for name, (first, second) in {"a": (b"12", b"3"), "b": (b"1", b"23")}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(first)
        (tmp_path / name / "y").write_bytes(second)
    assert weights_id(str(tmp_path / "a")) != weights_id(str(tmp_path / "b"))


def test_of_a_big_file_samples_from_first_to_last_byte_are_read(tmp_path):
    path, size = tmp_path / "big.pth", SAMPLE_BYTES * (SAMPLES + 4)
    with path.open("wb") as file:
        file.truncate(size)

    def write(place):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")

    assert changed(path, lambda: write(0))
    assert changed(path, lambda: write(size - 1))
    assert changed(path, lambda: write((size - SAMPLE_BYTES) // (SAMPLES - 1)))
    assert changed(path, lambda: write(size))


def test_a_hub_id_is_its_name_and_revision():
    assert weights_id("Salesforce/blip2-opt-2.7b", "main") == "hub:Salesforce/blip2-opt-2.7b@main"


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.pth").write_bytes(b"weights")
    assert weights_id("~/a.pth") == weights_id(str(tmp_path / "a.pth"))


def test_a_package_is_its_name_and_version(tmp_path):
    setting = "labeling.nouns.pipeline"
    assert package_id("numpy", setting).startswith("numpy==2.")
    (tmp_path / "pipeline").mkdir()
    assert package_id(str(tmp_path / "pipeline"), setting) == weights_id(str(tmp_path / "pipeline"))
