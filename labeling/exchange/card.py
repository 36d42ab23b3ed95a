"""The dataset card of Hugging Face, and the description in Croissant, of an exported dataset."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labeling.sdd.arrow import Record

_FIELDS = {
    "image": ("sc:ImageObject", "The encoded image, upright"),
    "caption": ("sc:Text", "The caption"),
    "key": ("sc:Text", "Key of the row in the dataset, 32 hex digits"),
    "url": ("sc:URL", "The place from which the image was downloaded or imported"),
    "width": ("sc:Integer", "Width in pixels"),
    "height": ("sc:Integer", "Height in pixels"),
}
_LIMITS = (
    "Captions, boxes and masks of a built dataset are the output of neural networks and contain their errors and "
    "biases; nobody has checked each of them. Labels are nouns of the captions, so what no caption names has no label. "
    "The scores are the confidence of the detector. Images may show people. Measure the share of errors on a sample "
    "before you rely on the labels."
)
_COLUMNS = """- `image`: the encoded image, upright
- `caption`: the caption
- `objects`: the entities: `label`, `bbox` (x0, y0, x1, y1 in pixels), `score`, `span` (of the label in the caption, in
  characters) and `segmentation`, a mask of the whole image in run lengths that `pycocotools.mask.decode` reads
- `key`, `url`, `width`, `height`: key and origin of the image, and its size in pixels"""
_LICENCES = (
    "The licence above is that of this collection as its publisher stated it. Each image keeps the licence of its "
    "origin, which this dataset does not record."
)
_FILE_SET = "parquet-files"
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "equivalentProperty": "cr:equivalentProperty",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification of Croissant 1.0 gives."""


@dataclass(frozen=True, slots=True)
class DatasetFigures:
    """What card and description tell about a dataset."""

    name: str
    licence: str
    """Identifier of the licence, such as cc-by-4.0."""
    images: int
    labels: Counter[str]
    """Number of entities by label."""
    rules: Record | None
    """Rules of App. B.1 with which the dataset was last built; None if no run is recorded."""

    @property
    def entities(self) -> int:
        """Number of entities."""
        return sum(self.labels.values())

    @property
    def summary(self) -> str:
        """The counts in a sentence."""
        return (
            f"{self.images:,} images with captions and {self.entities:,} entities of {len(self.labels):,} labels, "
            "each with a box and a mask."
        )


def card(figures: DatasetFigures) -> str:
    """Return the dataset card: the README of a repository of Hugging Face."""
    frequent = "".join(f"| {label} | {count:,} |\n" for label, count in figures.labels.most_common(20))
    rules = "".join(f"| `{name}` | {value} |\n" for name, value in (figures.rules or {}).items())
    return f"""---
pretty_name: {_quoted(figures.name)}
license: {figures.licence}
size_categories:
- {_size_category(figures.images)}
task_categories:
- text-to-image
- object-detection
- image-segmentation
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---

# {figures.name}

{figures.summary}

```python
from datasets import load_dataset

dataset = load_dataset("parquet", data_files="data/*.parquet", split="train")
```

## Columns

{_COLUMNS}

## Counts

| label | entities |
|---|--:|
{frequent}
The {min(20, len(figures.labels))} most frequent of {len(figures.labels):,} labels.

## Rules

{f"| setting | value |{chr(10)}|---|--:|{chr(10)}{rules}" if rules else "No run of the build is recorded."}
## Licences

{_LICENCES}

## Limits

{_LIMITS}
"""


def croissant(figures: DatasetFigures, files: Sequence[Path]) -> Record:
    """Return the description in Croissant 1.0, as JSON-LD.

    Args:
        figures: what it tells about the dataset.
        files: Parquet files of the export, in a folder `data`.
    """
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": figures.name,
        "version": "1.0.0",
        "description": f"{figures.summary} {_LIMITS}",
        "license": figures.licence,
        "distribution": [
            *(_file_object(path) for path in files),
            {
                "@id": _FILE_SET,
                "@type": "cr:FileSet",
                "encodingFormat": "application/x-parquet",
                "includes": "data/*.parquet",
            },
        ],
        "recordSet": [
            {
                "@id": "default",
                "@type": "cr:RecordSet",
                "field": [
                    {
                        "@id": f"default/{name}",
                        "@type": "cr:Field",
                        "dataType": kind,
                        "description": description,
                        "source": _source(name),
                    }
                    for name, (kind, description) in _FIELDS.items()
                ],
            }
        ],
    }


def _source(column: str) -> Record:
    source = {"fileSet": {"@id": _FILE_SET}, "extract": {"column": column}}
    return source | ({"transform": {"jsonPath": "bytes"}} if column == "image" else {})


def _file_object(path: Path) -> Record:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "@id": f"data/{path.name}",
        "@type": "cr:FileObject",
        "name": path.name,
        "contentUrl": f"data/{path.name}",
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": sha256,
    }


def _size_category(images: int) -> str:
    """Return the category of a number of images in the words of Hugging Face: 1K<n<10K."""
    limits = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    more = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))
    return next((name for limit, name in (*limits, *more) if images < limit), "n>1B")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
