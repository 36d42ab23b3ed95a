"""Checks that all files in a dataset's folder belong to the dataset.

Readers count every file of a layer, so they refuse files that something else put there.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from labeling.errors import ShardCorrupt
from labeling.sdd.footer import Stamp
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore, is_shard_name

_READERS = 16


def own_shards(store: ShardStore, layer: str) -> list[str]:
    """Return the shards that have a file in the layer, in order. Reads names only.

    Raises:
        ShardCorrupt: a file of the layer is not a shard of the list.
    """
    refuse_unlisted_files(store, (layer,))
    return store.shards(layer)


def refuse_unlisted_files(store: ShardStore, layers: Iterable[str] = tuple(Layer)) -> None:
    """Check the names of all files of these layers.

    Raises:
        ShardCorrupt: a file is not a shard of the list.
    """
    listed = set(store.shards(Layer.URLS))
    for layer in layers:
        for name in store.names(layer):
            if not is_shard_name(name) or (listed and name not in listed):
                raise ShardCorrupt(foreign_file_message(store, layer, name))


def foreign_file_message(store: ShardStore, layer: str, name: str) -> str:
    """Return the error message about a file that is not a shard of the dataset."""
    path = store.path(layer, name)
    return f"{path} is not a shard of this dataset: {Layer.URLS}/ has no file of this name. Move it away"


def refuse_foreign_files(store: ShardStore, layer: str) -> None:
    """Check the footers of all files of a layer; those of sdd/ are also compared with ledger/.

    Raises:
        ShardCorrupt: a file is damaged or not part of the dataset.
    """
    with ThreadPoolExecutor(_READERS) as readers:
        stamps = readers.map(partial(_checked_stamp, store, layer), store.shards(layer))
        refuse_mixture(store, {shard: stamp.dataset for shard, stamp in stamps if stamp is not None}, layer)


def refuse_mixture(store: ShardStore, datasets: Mapping[str, str | None], layer: str = Layer.SDD) -> None:
    """Check that the files of a layer belong to one dataset.

    Args:
        store: the dataset's folder.
        datasets: `Stamp.dataset` of each shard's file.
        layer: the layer.

    Raises:
        ShardCorrupt: they belong to several datasets, or to another than the list.
    """
    known = Counter(dataset for dataset in datasets.values() if dataset is not None)
    expected = store.dataset() or max(known, key=lambda dataset: known[dataset], default=None)
    if len(datasets) > 1 and len(known) == 1 and expected not in known:
        raise ShardCorrupt(
            f"{store.root / layer} is of the dataset {next(iter(known))}, but {Layer.URLS}/ is of {expected}: put back "
            "the files of this dataset"
        )
    for shard, dataset in datasets.items():
        if dataset not in (None, expected):
            raise ShardCorrupt(
                f"{store.path(layer, shard)} is of the dataset {dataset}, this one is {expected}: move it away"
            )


def refuse_other_datasets(store: ShardStore, shards: Iterable[str]) -> None:
    """Check that the files of these shards, in all layers, belong to the dataset of most of them.

    Raises:
        ShardCorrupt: a file belongs to another dataset.
    """
    places = [(layer, shard) for shard in shards for layer in Layer]
    with ThreadPoolExecutor(_READERS) as readers:
        stamps = dict(zip(places, readers.map(lambda place: store.stamp(*place), places), strict=True))
    known = Counter(stamp.dataset for stamp in stamps.values() if stamp is not None and stamp.dataset is not None)
    expected = max(known, key=lambda dataset: known[dataset], default=None)
    for place, stamp in stamps.items():
        if stamp is not None and stamp.dataset not in (None, expected):
            raise ShardCorrupt(
                f"{store.path(*place)} is of the dataset {stamp.dataset}, the others are of {expected}: move it away, "
                "or put back the file of this dataset"
            )


def refuse_unlike_ledger(store: ShardStore, shard: str, product: Stamp) -> None:
    """Check that a file of sdd/ was made together with that of ledger/, the last file of a shard to be written.

    Raises:
        ShardCorrupt: the two have different stamps.
    """
    ledger = store.stamp(Layer.LEDGER, shard)
    if ledger is not None and ledger.stamp != product.stamp:
        raise ShardCorrupt(
            f"{store.path(Layer.SDD, shard)} is stamped {product.stamp}, but {Layer.LEDGER}/ of the same shard "
            f"{ledger.stamp}: one is of another dataset or of other settings. Move that one away, and run the build "
            "again"
        )


def _checked_stamp(store: ShardStore, layer: str, shard: str) -> tuple[str, Stamp | None]:
    stamp = store.stamp(layer, shard)
    if stamp is not None and layer == Layer.SDD:
        refuse_unlike_ledger(store, shard, stamp)
    return shard, stamp
