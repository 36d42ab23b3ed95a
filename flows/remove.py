"""The verb `remove`: images out of a dataset, for good."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from flows.exit_codes import exit_on_storage_error
from flows.options import RootArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from labeling.removal import ShardRemoval
    from labeling.sdd.removed import Removal
    from labeling.sdd.shards import ShardStore


def remove(
    root: RootArgument,
    keys: Annotated[
        str | None, typer.Option("--keys", metavar="FILE", help="Text file with a key of 32 hex digits in each line.")
    ] = None,
    urls: Annotated[
        str | None, typer.Option("--urls", metavar="FILE", help="Text file with a URL in each line.")
    ] = None,
    hosts: Annotated[
        str | None,
        typer.Option("--hosts", metavar="FILE", help="Text file with a host in each line, which includes subdomains."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Reason, for the file in removed/.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the rows, and change nothing.")] = False,
) -> None:
    """Remove images from every layer of a dataset, and keep them out of later builds.

    Their rows of the list stay, with the verdict `dropped`, reason `removed`; `removed/` names their URLs and hosts. A
    key stands for its URL, with all rows that repeat it. Without a file, finishes a removal that was killed.
    """
    from labeling.removal import find_rows, pending_removals
    from labeling.removal import remove as remove_images
    from labeling.sdd.query import refuse_no_dataset
    from labeling.sdd.shards import ShardStore

    with exit_on_storage_error(root):
        refuse_no_dataset(root)
        store = ShardStore(root)
        removal = _removal(store, keys, urls, hosts, reason)
        if dry_run:
            typer.echo(f"{root}: {_sum(store, find_rows(store, removal.url_set))} would be removed")
            return
        if not (removal.urls or removal.hosts or pending_removals(store)):
            raise typer.BadParameter("give --keys, --urls or --hosts: no removal of this dataset is unfinished")
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:6]}"
        typer.echo(f"{root}: {_sum(store, remove_images(store, name, removal))} removed")


def _removal(store: ShardStore, keys: str | None, urls: str | None, hosts: str | None, reason: str) -> Removal:
    """Return the removal of the entries of these files.

    Raises:
        BadInput: a file is unusable, or the dataset lacks a key.
    """
    from labeling.download.lists.exclusions import read_hosts, read_keys, read_urls
    from labeling.removal import urls_of_keys
    from labeling.sdd.removed import Removal

    named = set(read_urls(urls, "--urls")) if urls else set()
    if keys:
        named |= urls_of_keys(store, read_keys(keys, "--keys"))
    return Removal(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
        urls=tuple(sorted(named)),
        hosts=tuple(sorted(read_hosts(hosts, "--hosts"))) if hosts else (),
    )


def _sum(store: ShardStore, removals: Iterator[ShardRemoval]) -> str:
    """Return the number of rows in words, and show the progress."""
    from labeling.removal import listed_shards

    listed = kept = shards = 0
    for removal in tqdm(removals, "removing", len(listed_shards(store)), unit="shard", disable=None):
        listed, kept, shards = listed + removal.listed, kept + removal.kept, shards + bool(removal.listed)
    return f"{listed:,} rows of the list and {kept:,} images of sdd/ in {shards:,} shards"
