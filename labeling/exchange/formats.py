"""Formats of other programs, in a module that imports nothing, for the command line."""

from enum import StrEnum


class ExportFormat(StrEnum):
    """Format of an export."""

    COCO = "coco"
    """COCO's instances and captions in JSON, with images."""
    YOLO = "yolo"
    """Boxes and outlines of Ultralytics YOLO in text files, with images."""
    WEBDATASET = "webdataset"
    """Tar files with an image, its caption and its objects per sample."""
    LABEL_STUDIO = "label-studio"
    """Tasks of Label Studio with the entities as predictions, and images."""
    HF = "hf"
    """Parquet files for Hugging Face `datasets`, with a dataset card and a description in Croissant."""


class ImportFormat(StrEnum):
    """Format of an import."""

    FOLDER = "folder"
    """Images of a folder, with captions beside them or without."""
    COCO = "coco"
    """COCO's instances in JSON, with captions or without."""
    OPENIMAGES = "openimages"
    """Boxes of Open Images in CSV, with masks and captions or without."""
    LABEL_STUDIO = "label-studio"
    """Corrections of an existing dataset: the JSON export of a project of Label Studio."""
