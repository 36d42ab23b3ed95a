"""Export of a dataset in the format of another program."""

from collections.abc import Collection
from pathlib import Path

from labeling.errors import ExchangeError
from labeling.exchange.coco_export import export_coco
from labeling.exchange.examples import Examples
from labeling.exchange.export_folder import export_folder
from labeling.exchange.formats import ExportFormat
from labeling.exchange.hugging_face_export import export_hugging_face
from labeling.exchange.label_studio_export import export_label_studio
from labeling.exchange.webdataset_export import export_webdataset
from labeling.exchange.yolo_export import export_yolo
from labeling.sdd.pixels import UndecodableImage


def export_dataset(
    root: str,
    out: Path,
    format_: ExportFormat,
    val_share: float = 0.1,
    licence: str = "other",
    keys: Collection[bytes] | None = None,
) -> int:
    """Write a dataset in another format, and return the number of images.

    Args:
        root: folder of the dataset.
        out: folder to write; must not exist.
        format_: format to write.
        val_share: share of the images for validation, 0 to 1; only YOLO separates them.
        licence: identifier of the licence in the card for Hugging Face, such as cc-by-4.0.
        keys: keys of the images to write; None for all.

    Raises:
        ExchangeError: the dataset is empty or lacks a key, an image is damaged, or `out` exists or cannot be written.
        ShardCorrupt: a file is damaged, or not part of the dataset.
    """
    examples = Examples(root, keys)
    with export_folder(out, f"{format_} {val_share} {licence} {examples.identity}") as folder:
        try:
            match format_:
                case ExportFormat.COCO:
                    export_coco(examples, folder)
                case ExportFormat.YOLO:
                    export_yolo(examples, folder, val_share)
                case ExportFormat.WEBDATASET:
                    export_webdataset(examples, folder)
                case ExportFormat.LABEL_STUDIO:
                    export_label_studio(examples, folder)
                case ExportFormat.HF:
                    export_hugging_face(examples, folder, out.name, licence)
        except UndecodableImage as error:
            raise ExchangeError(
                f"an image of {root} is damaged ({error}): `subject-diffusion status --deep` names its file"
            ) from error
    return examples.count
