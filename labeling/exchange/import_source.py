"""Import of images and labels of other programs: a list of `file:` URLs, from which the ordinary stages go on."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from upath import UPath

from infra.storage import is_local, publish, publish_bytes, refuse_unwritable, storage_path
from infra.temporary import temporary_folder
from labeling.build import download_part, with_absolute_paths
from labeling.config import LabelingConfig
from labeling.download.lists.url_list import plan_urls
from labeling.errors import ExchangeError
from labeling.exchange.folder_import import index_folder
from labeling.exchange.source_index import SourceIndex
from labeling.sdd.schema import State

log = logging.getLogger(__name__)
SETTINGS = "import.toml"
"""File with the settings with which `build` labels the images."""


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
