"""The verb `cutout`: each bad input gets one line that names the file and the cure, and no file is written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from model.pipeline import Subject

NO_NETWORKS = [
    "--set",
    "labeling.detect.checkpoint=no/such/dino",
    "--set",
    "labeling.segment.checkpoint=no/such/sam",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A photo, a cut-out, masks, and files that are neither."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    inside = np.zeros((60, 80), np.uint8)
    inside[15:45, 20:60] = 255
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    Image.fromarray(np.dstack([pixels, inside])).save(tmp_path / "cutout.png")
    Image.fromarray(inside).save(tmp_path / "mask.png")
    Image.fromarray(inside.T).save(tmp_path / "turned.png")
    Image.fromarray(inside * 0).save(tmp_path / "empty.png")
    Image.fromarray(pixels).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:700])
    (tmp_path / "text.jpg").write_text("not a photo")
    return tmp_path


def invoke(folder: Path, *words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["cutout", *(word.replace("@", f"{folder}/") for word in words), *NO_NETWORKS])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_a_photo_with_transparency_becomes_a_subject_without_a_network(folder):
    code, text, errors = invoke(folder, "@cutout.png", "--label", "red dog", "--preview", "@preview.png")
    assert (code, errors) == (0, "")
    assert text == (
        f"{folder}/cutout.cutout.png: red dog, 25.0% of the photo, in the box 0.25,0.25,0.75,0.75: "
        "from the photo's own transparency; no network ran\n"
    )
    subject = Subject(Image.open(folder / "cutout.cutout.png"), "red dog")
    assert subject.layout_input.outline.sum() == 30 * 40
    assert Image.open(folder / "preview.png").size == (80, 60)


def test_a_mask_cuts_a_photo_without_a_network(folder):
    code, text, _ = invoke(folder, "@photo.jpg", "--label", "dog", "--mask", "@mask.png", "--out", "@dog.png")
    assert code == 0
    assert "from the mask; no network ran" in text
    rgba = np.asarray(Image.open(folder / "dog.png"))
    np.testing.assert_array_equal(rgba[..., 3], np.asarray(Image.open(folder / "mask.png")))
    np.testing.assert_array_equal(rgba[..., :3], np.asarray(Image.open(folder / "photo.jpg")))


BAD = {
    "missing photo": (["@none.jpg"], "@none.jpg is missing: give the path of an image"),
    "folder": (["@", "--out", "@a.png"], " is not a file: give"),
    "no image": (["@text.jpg"], "@text.jpg cannot be used as an image (UnidentifiedImageError"),
    "cut": (["@cut.jpg"], "@cut.jpg cannot be used as an image (OSError: image file is truncated"),
    "missing mask": (["@photo.jpg", "--mask", "@none.png"], "@none.png is missing"),
    "mask that is no image": (["@photo.jpg", "--mask", "@text.jpg"], "@text.jpg cannot be used"),
    "mask of another size": (["@photo.jpg", "--mask", "@turned.png"], "@photo.jpg is 80x60, its mask 60x80: give"),
    "empty mask": (["@photo.jpg", "--mask", "@empty.png"], "@photo.jpg has a mask without a pixel inside: give"),
    "blank label": (["@photo.jpg", "--label", " "], "the label ' ' is blank: name the subject"),
    "box of words": (["@photo.jpg", "--box", "left"], "--box left: give four shares of the photo"),
    "box of three": (["@photo.jpg", "--box", "0,0,1"], "@photo.jpg: the box (0.0, 0.0, 1.0) does not lie"),
    "box outside": (["@photo.jpg", "--box", "0,-0.1,1,1"], "does not lie in the photo: give left, top, right, bottom"),
    "box of pixels": (["@photo.jpg", "--box", "8,6,40,30"], "0.1,0.1,0.5,0.5 if these are pixels of 80x60"),
    "mask and box": (["@cutout.png", "--mask", "@mask.png", "--box", "0,0,1,1"], "give one of mask, box and candidate"),
    "out of another kind": (["@cutout.png", "--out", "@dog.jpg"], "--out @dog.jpg: a cut-out is transparent"),
    "out over the photo": (["@cutout.png", "--out", "@cutout.png"], "--out @cutout.png is also the photo"),
    "out over the mask": (["@photo.jpg", "--mask", "@mask.png", "--out", "@mask.png"], "--out @mask.png is also"),
    "preview over the cut-out": (["@cutout.png", "--out", "@a.png", "--preview", "@a.png"], "--preview @a.png is also"),
    "no folder": (["@cutout.png", "--out", "@none/dog.png"], "--out @none/dog.png: there is no folder @none"),
    "no folder of the preview": (
        ["@cutout.png", "--preview", "@none/p.png"],
        "--preview @none/p.png: there is no folder",
    ),
    "no weights": (["@photo.jpg"], "labeling.detect.checkpoint='no/such/dino'"),
    "no weights of the segmenter": (["@photo.jpg", "--box", "0,0,1,1"], "labeling.segment.checkpoint='no/such/sam'"),
    "unknown setting": (["@photo.jpg", "--set", "labeling.detect.box=1"], "labeling.detect.box: unknown setting"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(folder, kind):
    words, message = BAD[kind]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    label = [] if "--label" in words else ["--label", "dog"]
    code, text, errors = invoke(folder, *words, *label)
    assert (code, text) == (2, "")
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert message.replace("@", f"{folder}/") in line
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_an_output_that_is_a_folder_is_refused(folder):
    (folder / "dog.png").mkdir()
    code, _, errors = invoke(folder, "@cutout.png", "--label", "dog", "--out", "@dog.png")
    assert code == 2
    assert f"--out {folder}/dog.png cannot be written" in errors
