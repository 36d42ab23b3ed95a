"""Writes scenes with their true captions, boxes and masks in the format of COCO, for `subject-diffusion import`.

    python -m miniature.world.coco out/miniature_marks/world --scenes 12000 --seed 7

    FOLDER/images/000000.jpg ...    scenes
    FOLDER/instances.json           boxes and masks
    FOLDER/captions.json            captions

The small labelling networks know 274 things. A dataset of more things takes its labels from the scenes.
"""

import argparse
import logging
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from pycocotools import mask as coco

from infra.config import Config, load
from infra.logs import setup_logs
from labeling.exchange.coco_export import JsonLists
from labeling.sdd.arrow import Record
from miniature.cli_errors import exit_on_bad_input
from miniature.world.names import subject_names
from miniature.world.scenes import Scene, ScenesConfig, Subject, compose
from miniature.world.serve import WorldConfig, jpeg
from miniature.world.sprites import sprites

log = logging.getLogger("miniature.world.coco")
_LOG_EVERY = 1000


class WorldExperiment(Config):
    """The table that this command reads from a settings file."""

    world: WorldConfig = WorldConfig()
    """Scenes. Empty `world.scenes.names` stand for all subjects that the generator may be trained on."""


def write_coco(folder: Path, scenes: int, seed: int, config: WorldConfig) -> None:
    """Write scenes and their labels."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    words = sorted({word for sprite in sprites() for word in (sprite.name, sprite.class_word)})
    categories = {word: number for number, word in enumerate(words, start=1)}
    head: Record = {"info": {"description": "Scenes of the miniature world"}}
    named: Record = {"categories": [{"id": number, "name": word} for word, number in categories.items()]}
    lists, ids = ("images", "annotations"), count(1)
    shown = config.scenes.model_copy(update={"names": config.scenes.names or subject_names()})
    with (
        JsonLists(folder / "instances.json", head | named, lists) as instances,
        JsonLists(folder / "captions.json", head, lists) as captions,
    ):
        for number, scene in enumerate(_scenes(scenes, seed, shown), start=1):
            name = f"{number - 1:06d}.jpg"
            (folder / "images" / name).write_bytes(jpeg(scene.image, config.jpeg_quality))
            height, width = scene.image.shape[:2]
            image = {"id": number, "file_name": name, "width": width, "height": height}
            for file in (instances, captions):
                file.add("images", image)
            captions.add("annotations", {"id": number, "image_id": number, "caption": scene.caption})
            for subject in scene.subjects:
                of = {"id": next(ids), "image_id": number, "category_id": categories[subject.label]}
                instances.add("annotations", of | _annotation(subject))


def _scenes(number: int, seed: int, config: ScenesConfig) -> Iterator[Scene]:
    for index in range(number):
        yield compose((seed, index), config)
        if (index + 1) % _LOG_EVERY == 0:
            log.info("%d of %d scenes", index + 1, number)


def _annotation(subject: Subject) -> Record:
    box, encoded = subject.box, coco.encode(subject.mask.astype("uint8", order="F"))
    return {
        "bbox": [box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0],
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
        "iscrowd": 0,
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write scenes with their true labels in the format of COCO.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", default="miniature_marks", help="settings, of which the table `world` counts")
    parser.add_argument("--scenes", type=int, default=12_000, help="number of scenes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="default: %(default)s")
    options = parser.parse_args()
    setup_logs()
    with exit_on_bad_input(parser):
        write_coco(options.folder, options.scenes, options.seed, load(WorldExperiment, options.config, ()).world)


if __name__ == "__main__":
    main()
