"""What the footer of a shard says of the file: which it is, what made it, and what is in it."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from labeling.sdd.schema import State
from labeling.sdd.seal import BLANK, KEY, sealed_size


class Stamp(NamedTuple):
    """What made a file, and what is in it. Files of earlier versions of the program lack what is None."""

    stamp: str
    counts: dict[str, int]
    """Rows by state; a plain layer has only `kept`."""
    parent: str | None = None
    """Stamp that the file of the layer before had when this one was made from it."""
    dataset: str | None = None
    """What the files of a dataset have in common: see `ShardStore.dataset`."""
    name: str | None = None
    """Layer and shard: "images/shard-00000"."""
    size: int | None = None
    """Bytes of the whole file."""

    def metadata(self) -> dict[str, str]:
        """The entries for a footer, with a blank for the file's seal."""
        known = {"stamp": self.stamp, "parent": self.parent, "dataset": self.dataset, "name": self.name, KEY: BLANK}
        return {"counts": json.dumps(self.counts)} | {key: value for key, value in known.items() if value is not None}


def stamp_in(metadata: Mapping[bytes, bytes]) -> Stamp:
    """What the entries of a footer say.

    Raises:
        ValueError: they are damaged.
    """
    try:
        found = {key.decode(): value.decode() for key, value in metadata.items()}
        is_sealed = KEY in found or "name" in found  # one without the other is damaged
        return Stamp(
            stamp=found["stamp"],
            counts={State(state).value: int(n) for state, n in json.loads(found["counts"]).items()},
            parent=found.get("parent"),
            dataset=found.get("dataset"),
            name=found["name"] if is_sealed else None,
            size=sealed_size(found[KEY]) if is_sealed else None,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its footer lacks {error}") from error
