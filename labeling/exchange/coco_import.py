"""Images and labels in the format of COCO: an instances file, and perhaps a captions file.

Objects with `iscrowd` are groups and are left out, as in rule 7 of App. B.1. Of several captions the first one counts.
https://cocodataset.org/#format-data
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from labeling.download.fetching.local_file import file_url
from labeling.errors import ExchangeError
from labeling.exchange.json_items import json_items
from labeling.exchange.labels import GivenLabel, RunLengths
from labeling.sdd.arrow import Record
from labeling.source_index import IdentifiedImage, ListedImage, SourceIndex

E = TypeVar("E", bound="_Entry")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Category(_Entry):
    id: int
    name: str


class _Image(_Entry):
    id: int
    file_name: str
    width: int | None = None
    height: int | None = None


class _Annotation(_Entry):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    segmentation: RunLengths | tuple[tuple[float, ...], ...] = ()
    iscrowd: int = 0


class _CaptionOf(_Entry):
    image_id: int
    caption: str


@dataclass(frozen=True, slots=True)
class CocoFiles:
    """Files of COCO."""

    instances: Path
    """File such as `instances_train2017.json`."""
    captions: Path | None = None
    """File such as `captions_train2017.json`; None if there is none."""

    @property
    def files(self) -> Sequence[Path]:
        """The files themselves."""
        return (self.instances, self.captions) if self.captions else (self.instances,)

    def listing(self) -> str:
        """Return an empty text: the instances list the images."""
        return ""

    def fill(self, index: SourceIndex) -> None:
        """Add the images, labels and captions to the index. Reads the files as streams.

        Raises:
            ExchangeError: a file is missing or malformed, or an entry names an unknown image or category.
        """
        categories = self._add_images(index)
        if not index.count_images():
            raise ExchangeError(f"{self.instances} lists no images: give an instances file of COCO")
        for name, item in json_items(self.instances, ("annotations",)):
            annotation = _validated(_Annotation, item, self.instances, name)
            image = _image_of(annotation.image_id, index, self.instances)
            if (label := categories.get(annotation.category_id)) is None:
                missing = f"no category {annotation.category_id}"
                raise ExchangeError(f"{self.instances}, annotations, id {item.get('id')}: {missing}")
            given = _given_label(annotation, label, image)
            index.add_labels([(image.url, given.model_dump_json(exclude_defaults=True))])
        if self.captions:
            _add_captions(self.captions, index)

    def _add_images(self, index: SourceIndex) -> dict[int, str]:
        """Add the images; return the labels of the categories by number."""
        categories: dict[int, str] = {}
        for name, item in json_items(self.instances, ("images", "categories")):
            if name == "images":
                _add_image(_validated(_Image, item, self.instances, name), index)
            else:
                category = _validated(_Category, item, self.instances, name)
                categories[category.id] = label_of(category.name)
        return categories


def label_of(name: str) -> str:
    """Return the label for the name of a category: lower case, words separated by spaces."""
    return " ".join(name.replace("_", " ").lower().split())


def _add_image(image: _Image, index: SourceIndex) -> None:
    url = file_url(PurePosixPath(image.file_name))
    size = None if image.width is None or image.height is None else (image.width, image.height)
    index.add_images([ListedImage(url, None)])
    index.add_identifier(str(image.id), IdentifiedImage(url, size))


def _add_captions(path: Path, index: SourceIndex) -> None:
    for name, item in json_items(path, ("annotations",)):
        caption = _validated(_CaptionOf, item, path, name)
        image = _image_of(caption.image_id, index, path)
        index.add_images([ListedImage(image.url, " ".join(caption.caption.split()) or None)])


def _image_of(number: int, index: SourceIndex, path: Path) -> IdentifiedImage:
    image = index.identified(str(number))
    if image is None:
        raise ExchangeError(f"{path} has an annotation of the image {number}, which the instances file does not list")
    return image


def _given_label(annotation: _Annotation, label: str, image: IdentifiedImage) -> GivenLabel:
    x, y, width, height = annotation.bbox
    return GivenLabel(
        label=label,
        box=(x, y, x + width, y + height),
        image_size=image.size,
        refusal="group" if annotation.iscrowd else "",
        run_lengths=annotation.segmentation if isinstance(annotation.segmentation, RunLengths) else None,
        polygons=() if isinstance(annotation.segmentation, RunLengths) else _polygons(annotation.segmentation),
    )


def _polygons(segmentation: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    """Return the outlines with an area; pycocotools would read four numbers as a box."""
    return tuple(points for points in segmentation if len(points) >= 6)


def _validated(entry: type[E], item: Record, path: Path, name: str) -> E:
    try:
        return entry.model_validate(item)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ExchangeError(f"{path}, {name}, id {item.get('id')}: {place}: {first['msg']}") from None
