"""Shards: whole or not at all, stamped, in key order, and read a row group at a time."""

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.storage import sweep
from labeling.errors import ShardCorrupt, ShardStale
from labeling.sdd.arrow import record_of, schema_of
from labeling.sdd.footer import stamp_in
from labeling.sdd.schema import (
    Caption,
    Entities,
    Image,
    LedgerRow,
    ListedUrl,
    Nouns,
    RemovedNoun,
    SddRow,
    State,
    Verdict,
)
from labeling.sdd.shards import ROWS_PER_GROUP, ShardStore
from tests.factories import SHARD, candidate, downloaded, image, key, listed, refused
from tests.processes import wait_until


@pytest.fixture
def store(tmp_path):
    return ShardStore(str(tmp_path))


def captions(count, text="a dog"):
    return [Caption(key=key(n), caption=f"{text} {n}") for n in range(1, count + 1)]


def test_rows_come_back_as_they_were(store):
    rows = [Entities(key=key(n), candidates=(candidate(), candidate(fill=0.0))) for n in range(1, 4)]
    rows = [replace(r, candidates=tuple(replace(c, score=0.5) for c in r.candidates)) for r in rows]
    assert store.write("entities", SHARD, rows, Entities, "stamp") == {"kept": 3}
    read = list(store.read(Entities, ["entities"], SHARD))
    assert [r.key for r in read] == [r.key for r in rows]
    assert [(c.segment is None, c.score) for c in read[0].candidates] == [(False, 0.5), (True, 0.5)]
    assert read[0].candidates[0].segment.mask == rows[0].candidates[0].segment.mask


def test_outcomes_are_read_apart_rows_and_verdicts(store):
    outcomes = [image(1), refused(2), image(3), refused(4, State.DROPPED, "small")]
    counts = store.write_outcomes("images", SHARD, outcomes, Image, "stamp")
    assert counts == {"kept": 2, "failed": 1, "dropped": 1}
    assert store.stamp("images", SHARD)[:2] == ("stamp", counts)
    assert list(store.read(Image, ["images"], SHARD)) == [image(1), image(3)]
    assert store.verdicts("images", SHARD) == {
        key(2): Verdict(state="failed", reason="ValueError", detail="detail of 2"),
        key(4): Verdict(state="dropped", reason="small", detail="detail of 4"),
    }


def test_a_shard_without_rows_is_a_shard(store):
    assert store.write_outcomes("images", SHARD, [], Image, "stamp") == {}
    assert store.write("sdd", SHARD, [], SddRow, "stamp") == {}
    assert list(store.read(Image, ["images"], SHARD)) == list(store.read(SddRow, ["sdd"], SHARD)) == []
    assert store.stamp("sdd", SHARD)[:2] == ("stamp", {})
    assert store.verdicts("images", SHARD) == {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned:
    key: bytes
    caption: str
    media_type: str
    image: bytes


def test_columns_come_from_whichever_layer_has_them(store):
    downloaded(store.root, [image(1), refused(2), image(3), image(4)])
    rows = [Caption(key=key(1), caption="one"), refused(3), Caption(key=key(4), caption="four")]
    store.write_outcomes("captions", SHARD, rows, Caption, "stamp")
    read = list(store.read(Captioned, ["images", "captions"], SHARD))
    assert [(r.key, r.caption, r.image) for r in read] == [
        (key(1), "one", image(1).image),
        (key(4), "four", image(4).image),
    ]


def test_only_the_columns_asked_for_are_read(store):
    downloaded(store.root, [image(1)])
    path = Path(store.path("images", SHARD).path)
    column = pq.read_metadata(path).row_group(0)
    pictures = next(column.column(i) for i in range(column.num_columns) if column.column(i).path_in_schema == "image")
    whole = bytearray(path.read_bytes())
    whole[pictures.data_page_offset : pictures.data_page_offset + 16] = b"\xff" * 16
    path.write_bytes(whole)

    @dataclass(frozen=True)
    class Sizes:
        key: bytes
        width_px: int

    assert list(store.read(Sizes, ["images"], SHARD)) == [Sizes(key(1), 64)]
    with pytest.raises(ShardCorrupt):
        list(store.read(Image, ["images"], SHARD))


def test_a_table_is_written_as_its_rows_are_but_in_one_row_group(store):
    rows = [listed(n) for n in range(1, 2 * ROWS_PER_GROUP + 3)]
    table = pa.Table.from_pylist([record_of(row) for row in rows], schema=schema_of(ListedUrl))
    counts = store.write_table("urls", SHARD, table, ListedUrl, "stamp")
    assert (type(counts), counts) == (dict, {"kept": len(rows)}), (
        "reports copy it with `asdict`, which breaks a Counter"
    )
    assert list(store.read(ListedUrl, ["urls"], SHARD)) == rows
    assert [g.num_rows for g in columns_of(store.path("urls", SHARD))[0]] == [len(rows)]
    with pytest.raises(ShardCorrupt, match=f"key {key(1).hex()} comes after {key(2).hex()}; keys must rise"):
        store.write_table("urls", "shard-00001", table.take(pa.array([1, 0, 2])), ListedUrl, "stamp")
    with pytest.raises(FileExistsError):
        store.write_table("urls", SHARD, table, ListedUrl, "stamp")


def columns_of(path):
    metadata = pq.read_metadata(path.path)
    groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
    return groups, {c.path_in_schema: c for g in groups for c in map(g.column, range(g.num_columns))}


def test_files_are_laid_out_for_their_readers(store):
    rows = [image(n, b"x" * 3000) if n % 3 else refused(n) for n in range(1, 2 * ROWS_PER_GROUP + 3)]
    store.write_outcomes("images", SHARD, rows, Image, "stamp")
    groups, columns = columns_of(store.path("images", SHARD))
    assert [g.num_rows for g in groups] == [64, 64, 2]
    assert {path: c.compression for path, c in columns.items() if c.compression != "ZSTD"} == {"image": "UNCOMPRESSED"}
    assert [path for path, c in columns.items() if c.statistics is None] == ["image"]
    assert {p for p, c in columns.items() if c.has_dictionary_page} == {"state", "reason", "media_type"}
    assert all(c.has_offset_index for c in columns.values())
    assert all(c.has_column_index for path, c in columns.items() if path != "image")


def test_labels_are_dictionary_encoded_however_deep(store):
    row = Entities(key=key(1), candidates=(candidate(), candidate(label="cat")))
    store.write_outcomes("entities", SHARD, [row], Entities, "stamp")
    _, columns = columns_of(store.path("entities", SHARD))
    dictionaries = {path for path, c in columns.items() if c.has_dictionary_page}
    assert dictionaries == {"state", "reason", "candidates.list.element.label"}


def test_the_same_rows_make_the_same_bytes(store, tmp_path):
    stores = [store, ShardStore(str(tmp_path / "other"))]
    for each in stores:
        each.write("captions", SHARD, captions(100), Caption, "stamp")
    first, second = (Path(each.path("captions", SHARD).path).read_bytes() for each in stores)
    assert first == second


def test_a_file_says_what_it_is_and_what_it_was_made_from(store):
    store.write("urls", SHARD, [listed(1)], ListedUrl, "of the list")
    store.write_outcomes("images", SHARD, [image(1)], Image, "of the images")
    found = store.stamp("images", SHARD)
    assert (found.name, found.parent, found.dataset) == (f"images/{SHARD}", "of the list", "of the list")
    assert found.size == store.path("images", SHARD).stat().st_size
    store.write("urls", SHARD, [listed(1), listed(2)], ListedUrl, "of a longer list", replace=True)
    store.write_outcomes("images", SHARD, [image(1)], Image, "again", replace=True)
    found = store.stamp("images", SHARD)
    assert (found.parent, found.dataset) == ("of a longer list", "of the list")


def test_swapped_files_are_named(store):
    for shard in ("shard-00000", "shard-00001"):
        store.write_outcomes("captions", shard, captions(1), Caption, "stamp")
    first, second = (Path(store.path("captions", shard).path) for shard in ("shard-00000", "shard-00001"))
    first.rename(first.with_name("moved"))
    second.rename(first)
    first.with_name("moved").rename(second)
    with pytest.raises(ShardCorrupt, match=f"{first} was written as captions/shard-00001.parquet"):
        store.stamp("captions", "shard-00000")


def test_a_folder_in_the_place_of_a_file_is_named(store):
    store.path("captions", SHARD).mkdir(parents=True)
    with pytest.raises(ShardCorrupt, match=f"{store.path('captions', SHARD)} is a folder: move it away"):
        store.stamp("captions", SHARD)


def test_every_flipped_byte_of_a_footer_is_harmless_or_named(store):
    """Harmless are names of the program that wrote it, statistics, and the like, which `status --deep` looks at."""
    store.write("captions", SHARD, captions(3), Caption, "stamp")
    path, said = Path(store.path("captions", SHARD).path), []
    whole = path.read_bytes()
    begin = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for at in range(begin, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (0x80 if at % 2 else 0x01)]) + whole[at + 1 :])
        try:
            store.stamp("captions", SHARD)
        except ShardCorrupt as error:
            said.append(str(error))
    assert len(said) > (len(whole) - begin) / 2
    assert [message for message in said if "\n" in message or str(path) not in message] == []


@pytest.mark.parametrize("numbers", [(1, 1), (2, 1), (1, 3, 2)])
def test_keys_must_rise(store, numbers):
    rows = [Caption(key=key(n), caption="x") for n in numbers]
    with pytest.raises(ShardCorrupt, match=f"captions/{SHARD}: key .* must rise"):
        store.write("captions", SHARD, rows, Caption, "stamp")
    assert store.shards("captions") == []
    assert list(Path(store.root.path).rglob("*.tmp")) == []


def test_the_first_writer_wins_unless_replacing(store):
    store.write("captions", SHARD, captions(2, "first"), Caption, "1")
    with pytest.raises(FileExistsError):
        store.write("captions", SHARD, captions(2, "second"), Caption, "2")
    assert [r.caption for r in store.read(Caption, ["captions"], SHARD)] == ["first 1", "first 2"]
    store.write("captions", SHARD, captions(2, "third"), Caption, "3", replace=True)
    assert store.stamp("captions", SHARD).stamp == "3"
    assert [p.name for p in Path(store.root.path, "captions").iterdir()] == [f"{SHARD}.parquet"]


def test_a_writer_that_raises_leaves_nothing(store):
    def rows():
        yield from captions(100)
        raise RuntimeError("the network is gone")

    with pytest.raises(RuntimeError):
        store.write("captions", SHARD, rows(), Caption, "stamp")
    assert list(Path(store.root.path, "captions").iterdir()) == []


def test_a_file_of_other_settings_is_refused_with_the_cure(store):
    assert store.has("captions", SHARD, "3fa1") is False
    store.write("captions", SHARD, captions(1), Caption, "3fa1")
    assert store.has("captions", SHARD, "3fa1") is True
    with pytest.raises(ShardStale) as error:
        store.has("captions", SHARD, "77c0")
    for part in (str(store.path("captions", SHARD)), "3fa1", "77c0", "new root", "--set labeling.stale=rebuild"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def corrupt(path, how):
    whole = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "text":
        path.write_text("<html>not a shard</html>")
    elif how == "footer":
        path.write_bytes(whole[:-200] + b"\xff" * 150 + whole[-50:])
    elif how == "foreign":
        pq.write_table(pa.table({"key": [1]}), path)
    elif how == "version":
        path.write_bytes(re.sub(rb"(version\x18.)\d", rb"\g<1>9", whole, count=1))


@pytest.mark.parametrize(
    "counts", ["[]", "null", "[" * 100_000, '{"kept": 1e400}', '{"kept": null}', '{"kept": "x"}', '{"other": 1}']
)
def test_counts_in_a_footer_that_are_no_counts_are_refused(counts):
    with pytest.raises(ValueError, match="valid"):
        stamp_in({b"stamp": b"x", b"counts": counts.encode()})


@pytest.mark.parametrize("how", ["empty", "cut", "text", "footer", "foreign", "version"])
def test_a_corrupt_file_is_named_with_the_cure(store, how):
    store.write("captions", SHARD, captions(100), Caption, "stamp")
    corrupt(Path(store.path("captions", SHARD).path), how)
    with pytest.raises(ShardCorrupt) as error:
        store.stamp("captions", SHARD)
    assert str(store.path("captions", SHARD)) in str(error.value)
    assert re.search("move it away and run again|give a new root", str(error.value))
    assert "\n" not in str(error.value)


def test_damaged_data_is_named_with_the_cure(store):
    store.write("captions", SHARD, captions(100), Caption, "stamp")
    path = Path(store.path("captions", SHARD).path)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 400 + whole[404:])
    assert store.stamp("captions", SHARD).stamp == "stamp"
    with pytest.raises(ShardCorrupt, match=f"{re.escape(str(path))}.*move it away"):
        list(store.read(Caption, ["captions"], SHARD))


def test_damaged_text_is_named_with_the_cure(store):
    store.write_outcomes("captions", SHARD, [Caption(key=key(1), caption="a dog")], Caption, "stamp")
    store.write_outcomes("nouns", SHARD, [Nouns(key=key(1), nouns=())], Nouns, "stamp")
    path = Path(store.path("captions", SHARD).path)
    whole = path.read_bytes()
    assert whole.count(b"a dog") > 0, "short texts are not compressed"
    path.write_bytes(whole.replace(b"a dog", b"a \xffog"))
    with pytest.raises(ShardCorrupt, match=f"{re.escape(str(path))}.*move it away"):
        list(store.read(Caption, ["captions", "nouns"], SHARD))


def test_a_layer_that_lacks_an_image_is_named(store):
    downloaded(store.root, [image(1), image(2)])
    store.write_outcomes("captions", SHARD, captions(3), Caption, "stamp")
    with pytest.raises(ShardCorrupt, match=r"images.*lacks 1 images, " + key(3).hex()):
        list(store.read(Captioned, ["images", "captions"], SHARD))
    store.write_outcomes("nouns", SHARD, [Nouns(key=key(9), nouns=())], Nouns, "stamp")
    with pytest.raises(ShardCorrupt, match=r"captions.*lacks the image " + key(9).hex() + " of nouns/"):
        list(store.read(Caption, ["captions", "nouns"], SHARD))


def test_a_column_that_no_layer_has_is_named(store):
    store.write_outcomes("captions", SHARD, captions(1), Caption, "stamp")
    with pytest.raises(ShardCorrupt, match=f"{SHARD}: no column media_type in captions"):
        list(store.read(Captioned, ["captions"], SHARD))


def test_the_shards_of_a_layer_are_listed_in_order(store):
    assert store.shards("captions") == []
    for name in ("shard-00010", "shard-00002"):
        store.write("captions", name, captions(1), Caption, "stamp")
    Path(store.root.path, "captions", ".shard-00003.parquet.0a1b.tmp").touch()
    Path(store.root.path, "captions", "foreign.parquet").touch()
    assert store.shards("captions") == ["shard-00002", "shard-00010"]


def test_rows_of_every_kind_of_file_can_be_written(store):
    store.write("urls", SHARD, [listed(1)], ListedUrl, "stamp")
    assert list(store.read(ListedUrl, ["urls"], SHARD)) == [listed(1)]
    line = LedgerRow(
        key=key(1),
        list_row=0,
        url="u",
        width_px=None,
        height_px=None,
        state=State.KEPT,
        stage="sdd",
        reason="",
        detail="",
        candidates=(),
        removed_nouns=None,
    )
    removed = (RemovedNoun(label="photo", reason="stop_word"),)
    lines = [line, replace(line, key=key(2), state=State.DROPPED, reason="repeats", removed_nouns=removed)]
    assert store.write("ledger", SHARD, lines, LedgerRow, "stamp") == {"kept": 1, "dropped": 1}
    assert list(store.read(LedgerRow, ["ledger"], SHARD)) == lines


def write_for_ever(root):
    """Write the same shard again and again, each time with other rows; to be killed."""
    store = ShardStore(root)
    for n in itertools.count():
        stamp = f"{os.getpid()}-{n}"
        store.write("captions", SHARD, captions(3 * ROWS_PER_GROUP, stamp), Caption, stamp, replace=True)


WRITERS = """
import os, sys
import pandas  # which the first Arrow table loads: here, once, and not in every writer
from tests.unit.labeling.sdd.test_shards import write_for_ever

for line in sys.stdin:
    if not (pid := os.fork()):
        write_for_ever(sys.argv[1])
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


def test_a_reader_never_sees_a_torn_file_whenever_the_writer_is_killed(store, processes):
    path, rng, torn = Path(store.path("captions", SHARD).path), random.Random(0), 0
    command = [sys.executable, "-c", WRITERS, str(store.root)]
    writers = processes.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(30):
        print("write", file=writers.stdin, flush=True)
        pid = int(writers.stdout.readline())
        try:
            wait_until(
                "a file", lambda pid=pid: whole_stamp(path).startswith(f"{pid}-"), lambda: writers.poll() is None
            )
            end = time.monotonic() + rng.uniform(0, 0.05)
            while time.monotonic() < end:
                whole_stamp(path)
        finally:
            os.kill(pid, signal.SIGKILL)
        assert writers.stdout.readline() == "ended\n"
        whole_stamp(path)
        torn += len(list(path.parent.glob(".*.tmp")))
        sweep(store.path("captions", SHARD))
        assert list(path.parent.iterdir()) == [path]
    assert torn > 0, "no kill hit a writer at work"


def whole_stamp(path):
    """The stamp of the file, all of whose rows are its own; nothing before there is a file."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        shard = pq.ParquetFile(file)
        stamp = shard.metadata.metadata[b"stamp"].decode()
        assert shard.read()["caption"].to_pylist() == [f"{stamp} {n}" for n in range(1, 3 * ROWS_PER_GROUP + 1)]
        return stamp


PEAK = """
import sys
from labeling.sdd.schema import Image
from labeling.sdd.shards import ShardStore

def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

rows = ShardStore(sys.argv[1]).read(Image, ["images"], "shard-00000")
first = next(rows)
before = peak()
print(1 + sum(1 for _ in rows), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_pictures_are_streamed(store):
    picture = random.Random(0).randbytes(300 << 10)
    rows = (replace(image(1, picture), key=key(n)) for n in range(1, 701))
    store.write_outcomes("images", SHARD, rows, Image, "stamp")
    size = Path(store.path("images", SHARD).path).stat().st_size
    out = subprocess.run([sys.executable, "-c", PEAK, str(store.root)], check=True, capture_output=True, text=True)
    count, growth = map(int, out.stdout.split())
    assert count == 700
    assert size > 200 << 20
    assert growth < size / 2
