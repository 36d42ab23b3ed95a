"""The score on a user's folder of cut-outs: which files are taken, how they are drawn, and what is refused."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from miniature.errors import FolderError
from miniature.networks import base
from miniature.scoring.folder_subjects import choose_subjects, read_cutout
from miniature.training.pictures import pool
from miniature.world.scenes import Pool

WEIGHTS = Path(base.__file__).parents[1] / "weights"
WORDS = '[folders]\nbird = ["birds", "sea"]\nfruit = ["food"]\n'


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """A folder of five cut-outs, a mirrored copy, a picture without transparency, a small one and a damaged one."""
    sprites = iter(pool(Pool.HELD_OUT))
    for name in ("birds/a", "birds/b", "sea/c", "food/d", "food/e"):
        path = tmp_path / "stamps" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(io.BytesIO(next(sprites).webp)).save(path)
    birds = tmp_path / "stamps" / "birds"
    Image.open(birds / "a.png").save(birds / "a_mirror.png")
    Image.new("RGB", (99, 99)).save(birds / "opaque.png")
    Image.open(birds / "a.png").resize((63, 63)).save(birds / "small.png")
    (birds / "damaged.png").write_bytes((birds / "a.png").read_bytes()[:200])
    (tmp_path / "words.toml").write_text(WORDS)
    return tmp_path / "stamps"


def test_files_are_taken_from_each_word_in_turn_by_their_hash(stamps: Path):
    chosen = choose_subjects(stamps, stamps.parent / "words.toml", 5)
    birds, food = (
        sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        for names in (["birds/a.png", "birds/b.png", "sea/c.png"], ["food/d.png", "food/e.png"])
    )
    assert [one.name for one in chosen] == [birds[0], food[0], birds[1], food[1], birds[2]]
    assert [one.class_word for one in chosen] == ["bird", "fruit", "bird", "fruit", "bird"]
    assert chosen[0].class_article == "a"


def test_a_cutout_lies_in_the_middle_of_a_white_square(stamps: Path):
    wide = Image.new("RGBA", (100, 64), (200, 10, 10, 255))
    wide.putpixel((0, 0), (0, 0, 0, 0))
    wide.save(stamps / "food" / "d.png")
    chosen = choose_subjects(stamps, stamps.parent / "words.toml", 5)
    pixels, mask = read_cutout(stamps, next(one for one in chosen if one.name == "food/d.png"))
    assert pixels.shape == (100, 100, 3)
    assert np.flatnonzero(mask.any(1))[[0, -1]].tolist() == [18, 81]
    assert pixels[50, 50].tolist() == [200, 10, 10]
    assert pixels[5, 50].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("words", "count", "message"),
    [
        (WORDS, 6, "has 5 cut-outs in the sub-folders of"),
        ('[folders]\nbirds = ["birds"]\n', 2, "no class words: birds; the words are "),
        ('[folders]\nbird = ["brids"]\n', 2, "brids is no folder: correct the line of 'bird'"),
        ("bird = 1", 2, r"give a TOML file with a table \[folders\]"),
        ("[folders", 2, r"give a TOML file with a table \[folders\]"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(stamps: Path, words: str, count: int, message: str):
    (stamps.parent / "words.toml").write_text(words)
    with pytest.raises(FolderError, match=message):
        choose_subjects(stamps, stamps.parent / "words.toml", count)


def test_the_command_prints_figures_and_draws_a_contact_sheet(stamps: Path, tmp_path: Path):
    words = ["score", "folder", str(stamps), str(WEIGHTS / "subject_diffusion")]
    words += ["--words", str(tmp_path / "words.toml")]
    done = CliRunner().invoke(app, [*words, "--count", "3", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    (real,) = (line for line in lines if line[0] == "real" and line[2:4] == ["R@1", "1.000"])
    assert real[-1] == "3"
    assert any(line[:3] == ["generated", "1", "box"] for line in lines)
    with Image.open(tmp_path / "out" / "pictures.png") as sheet:
        assert sheet.size == (640, 128)
    refused = CliRunner().invoke(app, [*words, "--count", "9"])
    assert (refused.exit_code, refused.stdout) == (2, "")
