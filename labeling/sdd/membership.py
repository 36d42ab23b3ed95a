"""Which files are a dataset's own. Readers refuse what somebody else put beside them, as they would count it."""

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
    """The shards that the layer has a file of, in order. Looks at names alone.

    Raises:
        ShardCorrupt: a file of the layer is no shard, or not one of the list.
    """
    refuse_unlisted_files(store, (layer,))
    return store.shards(layer)


def refuse_unlisted_files(store: ShardStore, layers: Iterable[str] = tuple(Layer)) -> None:
    """Look at the names of all files of these layers.

    Raises:
        ShardCorrupt: a file is no shard, or not one of the list.
    """
    listed = set(store.shards(Layer.URLS))
    for layer in layers:
        for name in store.names(layer):
            if not is_shard_name(name) or (listed and name not in listed):
                raise ShardCorrupt(foreign_file_message(store, layer, name))


def foreign_file_message(store: ShardStore, layer: str, name: str) -> str:
    """What to say of a file that is not in the list."""
    return f"{store.path(layer, name)} is no shard of this dataset, as {Layer.URLS}/ has none of its name: move it away"


def refuse_foreign_files(store: ShardStore) -> None:
    """Look at the names of all files, and at the footers of sdd/ and ledger/.

    Raises:
        ShardCorrupt: a file is damaged or not the dataset's.
    """
    refuse_unlisted_files(store)
    with ThreadPoolExecutor(_READERS) as readers:
        found = readers.map(partial(_product, store), store.shards(Layer.SDD))
        refuse_mixture(store, {shard: stamp.dataset for shard, stamp in found if stamp is not None})


def refuse_mixture(store: ShardStore, datasets: Mapping[str, str | None]) -> None:
    """Look whether the files of sdd/ are of one dataset.

    Args:
        datasets: by shard, what the footer of its file has as `Stamp.dataset`.

    Raises:
        ShardCorrupt: they are of several, or not of that of the list.
    """
    known = Counter(dataset for dataset in datasets.values() if dataset is not None)
    expected = store.dataset() or max(known, key=lambda dataset: known[dataset], default=None)
    for shard, dataset in datasets.items():
        if dataset not in (None, expected):
            raise ShardCorrupt(
                f"{store.path(Layer.SDD, shard)} is of the dataset {dataset}, this one is {expected}: move it away"
            )


def refuse_other_datasets(store: ShardStore, shards: Iterable[str]) -> None:
    """Look whether the files of these shards, in all layers, are of the dataset that most of them are of.

    Raises:
        ShardCorrupt: one is of another.
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
    """Look whether a file of sdd/ was made together with that of ledger/, which is the last of a shard to be written.

    Raises:
        ShardCorrupt: it was not.
    """
    ledger = store.stamp(Layer.LEDGER, shard)
    if ledger is not None and ledger.stamp != product.stamp:
        raise ShardCorrupt(
            f"{store.path(Layer.SDD, shard)} is stamped {product.stamp}, but {Layer.LEDGER}/ of the same shard "
            f"{ledger.stamp}: one is of another dataset or of other settings. Move that one away, and run the build "
            "again"
        )


def _product(store: ShardStore, shard: str) -> tuple[str, Stamp | None]:
    stamp = store.stamp(Layer.SDD, shard)
    if stamp is not None:
        refuse_unlike_ledger(store, shard, stamp)
    return shard, stamp
