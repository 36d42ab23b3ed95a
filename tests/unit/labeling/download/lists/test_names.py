"""Names of shards."""

from labeling.download.lists.names import shard_name, shard_number


def test_names_of_shards() -> None:
    assert [shard_number(shard_name(number)) for number in (0, 99_999, 586_000)] == [0, 99_999, 586_000]
