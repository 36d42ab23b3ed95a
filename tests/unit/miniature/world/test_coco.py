"""Scenes with their true labels as files of COCO, which `import` makes a dataset of."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from miniature.world.coco import write_coco
from miniature.world.names import labelled_names, subject_names, tuning_names
from miniature.world.scenes import Scene, ScenesConfig, compose
from miniature.world.serve import WorldConfig
from miniature.world.sprites import sprites

COUNT, SEED = 6, 3
SCENES = ScenesConfig(width_px=(80, 120), height_px=(80, 120), subjects=(1, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder, COUNT, SEED, WorldConfig(scenes=SCENES))
    return folder


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    config = SCENES.model_copy(update={"names": subject_names()})
    return [compose((SEED, index), config) for index in range(COUNT)]


def test_boxes_masks_and_words_are_those_of_the_scenes(folder: Path, scenes: list[Scene]) -> None:
    read = COCO(str(folder / "instances.json"))
    for number, scene in enumerate(scenes, start=1):
        annotations = read.imgToAnns[number]
        assert [read.cats[one["category_id"]]["name"] for one in annotations] == [s.label for s in scene.subjects]
        for one, subject in zip(annotations, scene.subjects, strict=True):
            x, y, width, height = one["bbox"]
            assert (x, y, x + width, y + height) == (subject.box.x0, subject.box.y0, subject.box.x1, subject.box.y1)
            assert np.array_equal(read.annToMask(one) > 0, subject.mask)


def test_each_image_has_its_file_size_and_caption(folder: Path, scenes: list[Scene]) -> None:
    captions = json.loads((folder / "captions.json").read_text())
    assert [one["caption"] for one in captions["annotations"]] == [scene.caption for scene in scenes]
    assert [(one["height"], one["width"]) for one in captions["images"]] == [s.image.shape[:2] for s in scenes]
    assert all((folder / "images" / one["file_name"]).stat().st_size for one in captions["images"])


def test_no_dataset_has_the_subjects_that_scores_and_choices_are_made_on() -> None:
    held_out = {sprite.name for sprite in sprites() if sprite.held_out}
    assert not {*tuning_names(), *held_out} & {*subject_names(), *labelled_names()}
    assert len(held_out) + len(tuning_names()) + len(subject_names()) == len(sprites())
