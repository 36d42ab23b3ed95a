"""Images, thumbnails, stories and files of keys."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from labeling.errors import ExplorerError
from labeling.explorer.browse import Place
from labeling.explorer.key_files import KeyFormat, key_file
from labeling.explorer.pictures import THUMBNAIL_PX, Pictures
from labeling.explorer.story import json_values, outline, story
from labeling.sdd import masks
from labeling.sdd.shards import ShardStore
from tests.datasets import NEXT, dataset_of_two
from tests.factories import SHARD, entity, finished, image, jpeg, key, sdd_row

KEPT, DROPPED, ABSENT = Place(NEXT, key(22)), Place(SHARD, key(9)), Place(SHARD, key(7))


@pytest.fixture
def store(tmp_path) -> ShardStore:
    return ShardStore(str(dataset_of_two(tmp_path / "sdd")))


@pytest.fixture
def pictures(store, tmp_path) -> Pictures:
    return Pictures(store, tmp_path / "cache")


@pytest.mark.parametrize("place", [KEPT, DROPPED])
def test_images_of_kept_and_dropped_rows_are_those_of_their_keys(pictures, place):
    stored = pictures.stored(place)
    number = int.from_bytes(place.key, "big")
    assert (stored.media_type, stored.encoded) == ("image/jpeg", image(number).image)


def test_an_image_that_was_not_downloaded_is_named(pictures):
    for place in (ABSENT, Place("shard-00009", key(1))):
        with pytest.raises(ExplorerError, match=f"{place.key.hex()} of {place.shard} has no image"):
            pictures.thumbnail(place)


def test_a_thumbnail_is_small_upright_and_made_once(tmp_path):
    turned = io.BytesIO()
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.open(io.BytesIO(jpeg(1, (1600, 1200)))).save(turned, "JPEG", exif=tags)
    store = finished(tmp_path / "sdd", [sdd_row(1, [entity((0, 0, 9, 9))], turned.getvalue())])
    place = Place(SHARD, key(1))
    made = Pictures(store, tmp_path / "cache").thumbnail(place)
    assert (Image.open(io.BytesIO(made)).format, Image.open(io.BytesIO(made)).size) == ("WEBP", (240, THUMBNAIL_PX))
    (file,) = (tmp_path / "cache").rglob("*.webp")
    file.write_bytes(b"cached")
    assert Pictures(store, tmp_path / "cache").thumbnail(place) == b"cached"
    whole = Pictures(store, tmp_path / "cache").upright(place)
    assert (whole.media_type, Image.open(io.BytesIO(whole.encoded)).size) == ("image/png", (1200, 1600))


def test_a_damaged_image_is_named(tmp_path):
    store = finished(tmp_path / "sdd", [sdd_row(1, [entity((0, 0, 9, 9))], b"no image")])
    with pytest.raises(ExplorerError, match=f"the image {key(1).hex()} cannot be decoded"):
        Pictures(store, tmp_path / "cache").thumbnail(Place(SHARD, key(1)))


def test_a_story_has_the_row_of_every_layer_that_the_image_reached(store):
    kept = json.loads(json.dumps(json_values(story(store, KEPT))))
    assert list(kept) == ["urls", "images", "captions", "nouns", "detections", "entities", "sdd", "ledger"]
    assert kept["urls"]["key"] == KEPT.key.hex()
    assert "image" not in kept["images"]
    assert kept["sdd"]["entities"][0]["mask"]["outline"].startswith("M")
    assert kept["entities"]["candidates"][0]["segment"]["mask"].keys() == {"outline"}
    failed = story(store, DROPPED)
    assert list(failed) == ["urls", "images", "captions", "ledger"]
    assert (failed["captions"]["state"], failed["captions"]["reason"]) == ("failed", "ValueError")


def test_an_image_that_the_dataset_lacks_is_named(store):
    with pytest.raises(ExplorerError, match=rf"ledger/ has no image {key(99).hex()} in {NEXT}"):
        story(store, Place(NEXT, key(99)))


def test_an_outline_encloses_the_pixels_of_its_mask():
    mask = np.zeros((40, 60), bool)
    mask[5:30, 10:50] = True
    mask[10:20, 20:30] = False
    mask[35, 55] = True
    drawn = np.zeros((400, 600), np.uint8)
    loops = [np.array([p.split() for p in loop.strip(" MZ").split("L")], float) for loop in _loops(mask)]
    cv2.fillPoly(drawn, [(10 * loop).astype(np.int32) for loop in loops], 1)  # even-odd, as the page fills
    assert (drawn[5::10, 5::10].astype(bool) == mask).all()


def _loops(mask: np.ndarray) -> list[str]:
    return [loop for loop in outline(masks.encode(mask)).split("Z") if loop.strip()]


def test_files_of_keys_name_the_images(tmp_path: Path):
    places = [KEPT, DROPPED]
    assert key_file(places, KeyFormat.TXT).decode().split() == [place.key.hex() for place in places]
    rows = pq.read_table(io.BytesIO(key_file(places, KeyFormat.PARQUET))).to_pylist()
    assert [(row["shard"], row["key"]) for row in rows] == places
