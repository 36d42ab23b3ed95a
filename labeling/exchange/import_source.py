"""Import of images and labels of other programs: a list of `file:` URLs, from which the ordinary stages go on."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from upath import UPath

from infra.storage import is_local, publish, publish_bytes, refuse_unwritable, storage_path
from infra.temporary import temporary_folder
from labeling.backends.load import load_captioner, load_segmenter
from labeling.build import LocalTaskRunner, build, download_part, with_absolute_paths
from labeling.config import LabelingConfig
from labeling.download.lists.url_list import plan_urls
from labeling.errors import ExchangeError
from labeling.exchange.folder_import import index_folder
from labeling.exchange.given_labels import GivenBoxStage, GivenLabelsConfig, GivenMaskStage, GivenNounStage
from labeling.sdd.removed import removed_urls
from labeling.sdd.schema import State
from labeling.sdd.shards import ShardStore
from labeling.source_index import SourceIndex, index_path
from labeling.stages.caption import CaptionStage
from labeling.steps import Step, chain_stages, weights_identity

SETTINGS = "import.toml"
"""File with the settings with which `build` labels the images."""


class LabelSource(Protocol):
    """Files of another program that label images."""

    @property
    def files(self) -> Sequence[Path]:
        """Files with labels and captions; a change of their content makes all layers but images/ stale."""

    def listing(self) -> str:
        """Return a text that changes with the images, if a folder lists them; else an empty one."""

    def fill(self, index: SourceIndex) -> None:
        """Read the files into an index."""


def import_folder(source: Path, config: LabelingConfig) -> dict[str, int]:
    """Make `urls/` and `images/` of a folder of images, and the settings with which `build` goes on.

    Args:
        source: folder of the images.
        config: settings of the dataset. Those that name the list and the folder are replaced.

    Returns:
        Number of images by state.

    Raises:
        ExchangeError: the source or the folder of the dataset is unusable.
        ShardStale: the dataset was made from other images, and `config.stale` is refuse.
        StageFailed: a file could not be made.
    """
    source, root = source.expanduser().absolute(), local_root(config)
    config = config_of_source(config, source, root)
    with temporary_folder("subject-diffusion-import-") as folder, SourceIndex.open(folder / "index") as index:
        index_folder(source, index)
        publish(list_path(root), index.write_list, replace=True)
    publish_bytes(root / SETTINGS, settings_toml(config, source).encode())
    return _make_images(config)


def import_labels(images: Path, source: LabelSource, config: LabelingConfig) -> dict[str, int]:
    """Make a dataset of labelled images: the labels stand for the results of the networks.

    Images without a caption are captioned, and boxes without a mask are masked, by the networks of `config`, which are
    loaded only if there are such images and boxes.

    Args:
        images: folder of the images.
        source: files with the labels.
        config: settings of the dataset, as for `import_folder`.

    Returns:
        Number of images by state.

    Raises:
        ExchangeError: a file or folder is unusable.
        ShardStale: the dataset was made from other images, labels or settings, and `config.stale` is refuse.
        StageFailed: a file could not be made.
    """
    images, root = images.expanduser().absolute(), local_root(config)
    if not images.is_dir():
        raise ExchangeError(f"{images} is not a folder: give the folder of the images with --images")
    config = config_of_source(config, images, root)
    index = index_path(root)
    digest = _digest(source.files)
    _make_index(index, f"{digest} {source.listing()}", source, root)
    return build(config, LocalTaskRunner(), steps_of_labels(config, GivenLabelsConfig(index=str(index), digest=digest)))


def steps_of_labels(config: LabelingConfig, labels: GivenLabelsConfig) -> list[Step]:
    """Return the stages from captions/ to entities/ for given labels."""
    caption = weights_identity("labeling.caption", config.caption)
    segment = weights_identity("labeling.segment", config.segment)
    return chain_stages(
        [
            (CaptionStage(config.caption, load_captioner), caption),
            (GivenNounStage(labels), ""),
            (GivenBoxStage(labels), ""),
            (GivenMaskStage(labels, config.segment, load_segmenter), f"{labels.digest} {segment}"),
        ]
    )


def _make_index(index: Path, digest: str, labels: LabelSource, root: UPath) -> None:
    """Make the index and the list of an import, unless they are those of the same files."""
    made_of = index.with_suffix(".digest")
    if made_of.exists() and made_of.read_text() == digest:
        return
    index.parent.mkdir(parents=True, exist_ok=True)
    unfinished = index.with_suffix(".tmp")
    unfinished.unlink(missing_ok=True)
    made_of.unlink(missing_ok=True)
    with SourceIndex.open(unfinished) as source:
        labels.fill(source)
        source.remove(removed_urls(ShardStore(str(root))))
        publish(list_path(root), source.write_list, replace=True)
    unfinished.replace(index)
    made_of.write_text(digest)


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ExchangeError(f"{path} cannot be read ({error.strerror}): give the path of the file") from error
    return digest.hexdigest()[:12]


def local_root(config: LabelingConfig) -> UPath:
    """Return the folder of the dataset.

    Raises:
        ExchangeError: it is in an object store.
        SettingsError: it is not writable.
    """
    root = storage_path(config.root)
    if not is_local(root):
        raise ExchangeError(f"{config.root} is not a local folder: import into one, and copy it afterwards")
    refuse_unwritable(root, "the dataset")
    return root


def list_path(root: UPath) -> UPath:
    """Return the path of the list of an import."""
    return root / "work" / "import" / "list.parquet"


def config_of_source(config: LabelingConfig, source: Path, root: UPath) -> LabelingConfig:
    """Return the settings with the list of the import and the folder of its images."""
    download = config.download.model_copy(update={"folder": str(source)})
    caption = config.caption.model_copy(update={"given": True})
    update = {"urls": str(list_path(root)), "download": download, "caption": caption}
    return with_absolute_paths(config.model_copy(update=update))


def settings_toml(config: LabelingConfig, source: Path) -> str:
    """Return a settings file with all settings of `config` that differ from their defaults."""
    tree = {"labeling": config.model_dump(mode="json", exclude_defaults=True, exclude_none=True)}
    return f"# Settings of the import of {source}, with which `build` labels its images.\n" + "".join(_tables(tree, ()))


def _tables(tree: Mapping[str, object], path: Sequence[str]) -> list[str]:
    """Return the tables of a settings tree as TOML. A JSON string, number, boolean or list is a TOML value."""
    inner = {key: value for key, value in tree.items() if isinstance(value, dict) and value}
    values = {key: value for key, value in tree.items() if key not in inner}
    head = f"\n[{'.'.join(path)}]\n" if values else ""
    lines = [f"{_toml_key(key)} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()]
    nested = (_tables(value, (*path, _toml_key(key))) for key, value in inner.items())
    return [head, *lines, *(text for table in nested for text in table)]


def _toml_key(key: str) -> str:
    return key if key.isidentifier() and key.isascii() else json.dumps(key, ensure_ascii=False)


def _make_images(config: LabelingConfig) -> dict[str, int]:
    shards = plan_urls(config)
    counts: Counter[str] = Counter()
    for first in range(0, len(shards), config.shards_per_part):
        for report in download_part(config, shards[first : first + config.shards_per_part]):
            counts.update(report.counts)
    return {state: counts[state] for state in State if counts[state]}
