"""Checks of the layers of a shard against each other. The name of a function is the name of the check."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from labeling.sdd.arrow import Record
from labeling.sdd.layers import OUTCOMES
from labeling.sdd.removed import REMOVED, UrlSet, removal_names, removed_urls
from labeling.sdd.schema import Layer, State
from labeling.sdd.shards import PARENTS, ShardStore
from labeling.validation.contents import ShardContents
from labeling.validation.faults import Fault

LinkCheck = Callable[[ShardContents], Iterator[Fault]]
_SOURCES: Mapping[str, Layer] = {**PARENTS, Layer.LEDGER: Layer.URLS, Layer.SDD: Layer.LEDGER}
"""Layer whose kept rows are the rows of a layer."""
_COPIES: Mapping[tuple[Layer, Layer], tuple[str, ...]] = {
    (Layer.IMAGES, Layer.URLS): ("url", "alt_text", "similarity", "punsafe", "pwatermark", "aesthetic_score"),
    (Layer.SDD, Layer.IMAGES): (
        *("url", "alt_text", "similarity", "punsafe", "pwatermark", "aesthetic_score"),
        *("sha256", "perceptual_hash", "media_type", "width_px", "height_px"),
    ),
    (Layer.SDD, Layer.CAPTIONS): ("caption",),
    (Layer.LEDGER, Layer.URLS): ("url", "list_row"),
}
"""Columns that the first layer copies from the second."""


def same_rows(shard: ShardContents) -> Iterator[Fault]:
    """Check that a layer has the rows that the layer before kept.

    The rows of images/ and ledger/ are those of urls/, and the rows of sdd/ are the kept ones of ledger/. Those of
    embeddings/ are the kept ones of images/, and those of confirmations/ the kept ones of entities/.
    """
    for layer, file in shard.files.items():
        source = shard.files.get(_SOURCES.get(layer, layer))
        if source is None or source is file:
            continue
        expected = {record["key"] for record in source.records if source.is_kept(record)}
        for row, record in enumerate(file.records):
            if record["key"] not in expected:
                yield file.fault(f"is no kept row of {source.layer}/", row, "key")
        for key in sorted(expected - shard.by_key[layer].keys()):
            yield file.fault(f"lacks the key {key.hex()} of {source.layer}/")


def copied_columns(shard: ShardContents) -> Iterator[Fault]:
    """Check that a column that several layers have is the same in all of them."""
    for (layer, source), columns in _COPIES.items():
        file, originals = shard.files.get(layer), shard.by_key.get(source, {})
        for row, record in enumerate(file.records if file else ()):
            assert file is not None
            original = originals.get(record["key"])
            if original is None or (layer in OUTCOMES and not file.is_kept(record)):
                continue
            for column in columns:
                if record[column] != original[column]:
                    message = f"is {_text(record[column])}, but {_text(original[column])} in {source}/"
                    yield file.fault(message, row, column)


def ledger_verdicts(shard: ShardContents) -> Iterator[Fault]:
    """Check that the ledger has the verdict of the layer that refused an image, and else that of the rules."""
    file = shard.files.get(Layer.LEDGER)
    refusals = _refusals(shard)
    for row, record in enumerate(file.records if file else ()):
        assert file is not None
        stage, verdict = refusals.get(record["key"], (None, None))
        if verdict and stage:
            expected = (stage, verdict["state"], verdict["reason"])
            stored = (record["stage"], record["state"], record["reason"])
            if stored != expected:
                yield file.fault(f"is {' '.join(stored)}, but {stage}/ has {' '.join(expected[1:])}", row, "state")
        elif record["stage"] != Layer.SDD and set(OUTCOMES) <= shard.files.keys():
            yield file.fault(f"is {record['stage']}, but no layer refused the image", row, "stage")
        elif record["stage"] == Layer.SDD and record["state"] not in (State.KEPT, State.DROPPED):
            yield file.fault(f"is {record['state']}, but rules only drop", row, "state")


def removed_rows(shard: ShardContents) -> Iterator[Fault]:
    """Check that an image whose URL or host is in removed/ is in no layer, and that the ledger has the verdict."""
    stores = [file.store for file in shard.files.values()]
    removed = _read_removed(str(stores[0].root), tuple(removal_names(stores[0]))) if stores else UrlSet()
    for layer in (Layer.SDD, Layer.LEDGER):
        file = shard.files.get(layer)
        for row, record in enumerate(file.records if file else ()):
            assert file is not None
            if record.get("reason") != REMOVED and record["url"] in removed:
                yield file.fault("the URL is in removed/: finish the removal with `remove ROOT`", row, "url")


@lru_cache(maxsize=1)
def _read_removed(root: str, names: tuple[str, ...]) -> UrlSet:
    """Return the URLs of these removals, which are read once for all shards."""
    return removed_urls(ShardStore(root)) if names else UrlSet()


def _refusals(shard: ShardContents) -> dict[bytes, tuple[str, Record]]:
    """Return the layer that refused each image, with its row there."""
    return {
        record["key"]: (layer, record)
        for layer, file in shard.files.items()
        if layer in OUTCOMES
        for record in file.records
        if not file.is_kept(record)
    }


def _text(value: object) -> str:
    """Return a value in a message, at most 60 characters."""
    text = value.hex() if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


LINK_CHECKS: tuple[LinkCheck, ...] = (same_rows, copied_columns, ledger_verdicts, removed_rows)
"""Checks of the layers of a shard against each other."""
