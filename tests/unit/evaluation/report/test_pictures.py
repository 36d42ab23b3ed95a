from pathlib import Path

from PIL import Image

from evaluation.report.pictures import SIDE_PX, extremes, side_by_side, spread, thumbnail, uncurated
from tests.unit.evaluation.report.evaluations import evaluation


def test_thumbnails_are_small_and_say_what_cannot_be_shown(tmp_path: Path) -> None:
    Image.new("RGB", (400, 200), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    shown = thumbnail(tmp_path / "a.png", "a", "0.5")
    (tmp_path / "a.webp").write_bytes(shown.webp)
    with Image.open(tmp_path / "a.webp") as image:
        assert image.size == (SIDE_PX, SIDE_PX // 2)
    assert shown.alt == "Image a 0.5"
    assert thumbnail(tmp_path / "b.png", "b").alt == "b: unreadable"
    assert thumbnail(None, "c").alt == "c: missing"


def test_best_and_worst_are_in_order_and_skip_images_without_a_score() -> None:
    gallery = extremes(evaluation({"DINO": [0.6, None, 0.2, 0.4]}), "DINO")
    assert [(label, [one.name for one in pictures]) for label, pictures in gallery.rows] == [
        ("Highest", ["cat/00/0", "dog/20/1", "dog/20/0"]),
        ("Lowest", ["dog/20/0", "dog/20/1", "cat/00/0"]),
    ]


def test_uncurated_images_do_not_depend_on_scores() -> None:
    photos = {"cat": (Path("cat.png"),), "dog": (Path("dog.png"),)}
    inputs = {"cat": 0, "dog": 0}
    good, bad = (evaluation({"DINO": values}) for values in ([0.9, 0.1, 0.5, 0.4], [0.1, 0.9, 0.2, 0.8]))
    assert uncurated(good, photos, inputs) == uncurated(bad, photos, inputs)
    assert [label for label, _ in uncurated(good, photos, inputs).rows] == ["cat", "dog"]


def test_methods_are_shown_on_the_same_cases() -> None:
    gallery = side_by_side([evaluation({"DINO": [0.5] * 4}), evaluation({"DINO": [0.5] * 4}, "Other")], 5)
    assert [(case, [one.name for one in pictures]) for case, pictures in gallery.rows] == [
        ("cat/00", ["Model", "Other"]),
        ("dog/20", ["Model", "Other"]),
    ]


def test_items_at_even_distances() -> None:
    assert spread("abcdefghij", 3) == ["a", "d", "g"]
    assert spread("ab", 3) == ["a", "b"]
