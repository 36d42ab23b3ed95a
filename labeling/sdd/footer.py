"""The footer of a shard: the identity of the file, the settings that made it, and its counts."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from labeling.sdd.schema import State
from labeling.sdd.seal import KEY, PLACEHOLDER, sealed_size


class Stamp(NamedTuple):
    """Footer entries of a file. Entries that an earlier version of the program did not write are None."""

    stamp: str
    """Hash of the settings and weights that made the file, and of the stamp before it."""
    counts: dict[str, int]
    """Rows by state; a layer without states has only `kept`."""
    parent: str | None = None
    """Stamp of the file of the layer before, from which this one was made."""
    dataset: str | None = None
    """Identifier that all files of a dataset share: see `ShardStore.dataset`."""
    name: str | None = None
    """Layer and shard: "images/shard-00000"."""
    size: int | None = None
    """Size of the whole file, in bytes."""
    removed: str | None = None
    """Hash of the keys that were removed from the shard; None if none was."""

    def metadata(self) -> dict[str, str]:
        """Return the entries for a footer, with a placeholder for the file's seal."""
        known = {
            "stamp": self.stamp,
            "parent": self.parent,
            "dataset": self.dataset,
            "name": self.name,
            "removed": self.removed,
            KEY: PLACEHOLDER,
        }
        return {"counts": json.dumps(self.counts)} | {key: value for key, value in known.items() if value is not None}


def stamp_in(metadata: Mapping[bytes, bytes]) -> Stamp:
    """Return the stamp in the entries of a footer.

    Raises:
        ValueError: the entries are damaged.
    """
    try:
        entries = {key.decode(): value.decode() for key, value in metadata.items()}
        is_sealed = KEY in entries or "name" in entries  # one without the other is damaged
        return Stamp(
            stamp=entries["stamp"],
            counts={State(state).value: int(n) for state, n in json.loads(entries["counts"]).items()},
            parent=entries.get("parent"),
            dataset=entries.get("dataset"),
            name=entries["name"] if is_sealed else None,
            size=sealed_size(entries[KEY]) if is_sealed else None,
            removed=entries.get("removed"),
        )
    except KeyError as error:
        raise ValueError(f"its footer lacks {error}") from error
    except (TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its footer is invalid: {error}") from error
