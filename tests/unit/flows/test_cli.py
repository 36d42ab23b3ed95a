"""Verbs that read a dataset: their one-line messages for missing, foreign and damaged files."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from labeling.config import LabelingConfig, RulesConfig
from labeling.execution.record import record_run
from tests.datasets import FOREIGN, dataset_of_two, flip
from tests.factories import entity, finished, sdd_row

OLD = Path(__file__).parents[2] / "golden" / "sdd_version_1"


def refused(*words: str) -> str:
    """Run a verb that is refused and return its one-line message."""
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2, done.exception or done.output
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture
def dataset(tmp_path):
    finished(tmp_path / "sdd", [sdd_row(1, [entity((8, 8, 32, 40))])])
    return str(tmp_path / "sdd")


@pytest.mark.parametrize("words", [["status"], ["inspect"], ["inspect", "FROM labels"]])
def test_a_folder_that_is_no_dataset_is_named(tmp_path, words):
    verb, *sql = words
    line = refused(verb, str(tmp_path / "typo"), *sql)
    assert f"{tmp_path}/typo: not a dataset" in line
    assert "labeling.root" in line
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("words", [["status"], ["inspect", "FROM labels"], ["picture", "x.png"]])
@pytest.mark.parametrize(("root", "cure"), [("foo://x", "foo"), ("abfs://x", "adlfs")])
def test_a_storage_that_is_not_there_is_named(words, root, cure):
    verb, *rest = words
    line = refused(verb, root, *rest)
    assert f"error: {root}: " in line
    assert cure in line.removeprefix(f"error: {root}: ")


@pytest.mark.parametrize("name", ["picture.foo", "picture", "no/such/folder/picture.png", "sdd"])
def test_a_picture_that_cannot_be_written_is_named(dataset, tmp_path, name):
    line = refused("picture", dataset, str(tmp_path / name))
    assert f"{tmp_path}/{name}: " in line
    assert ".png" in line.removeprefix(f"{tmp_path}/{name}: ")
    assert not (tmp_path / name).is_file()


@pytest.mark.parametrize("root", ["file", "file/sdd", "/proc/sdd"])
def test_a_root_that_cannot_be_written_is_named(tmp_path, root):
    """The first root is a file; in the others not even the superuser can make a folder."""
    (tmp_path / "file").touch()
    (tmp_path / "list.csv").write_text("URL\nhttp://127.0.0.1:1/a.jpg\n")
    given = [f"labeling.root={tmp_path / root}", f"labeling.urls={tmp_path / 'list.csv'}"]
    line = refused("build", *(word for setting in given for word in ("--set", setting)))
    assert f"labeling.root {tmp_path / root} cannot be written" in line


@pytest.fixture
def two(tmp_path) -> Path:
    return dataset_of_two(tmp_path / "sdd")


@pytest.mark.parametrize("words", [["inspect", "FROM labels"], ["picture", "x.png"]])
@pytest.mark.parametrize("kind", ["folder", "link to nothing", "loop of links"])
def test_a_folder_or_link_in_place_of_a_shard_is_named(two, words, kind):
    path = two / "sdd" / "shard-00000.parquet"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop of links" else "/nowhere")
    verb, *rest = words
    assert str(path) in refused(verb, str(two), *rest)


TRAIN = ["train", "--here", "--set", "training.gpu=false", "--set", "training.out={out}", "--set"]
READERS = {
    "inspect": ["inspect", "{root}", "FROM labels"],
    "picture": ["picture", "{root}", "{out}.png"],
    "train": [*TRAIN, "training.data.dataset={root}"],
    "cache": ["cache", *TRAIN[1:], "training.data.dataset={root}", "--set", "training.data.cache.views=1"],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", FOREIGN)
def test_every_reader_refuses_a_foreign_shard(two, tmp_path, kind, reader):
    spoil, name = FOREIGN[kind]
    spoil(two)
    line = refused(*(word.format(root=two, out=tmp_path / "out") for word in READERS[reader]))
    assert f"{two}/{name}.parquet " in line


@pytest.mark.parametrize("layer", ["sdd", "ledger"])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_a_shard_of_other_settings(two, tmp_path, layer, reader):
    """The foreign shard is of a dataset from the same list: names are equal, stamps differ."""
    other = dataset_of_two(tmp_path / "other" / "sdd", rules=RulesConfig(max_repeats=1))
    shutil.copy(other / layer / "shard-00001.parquet", two / layer)
    line = refused(*(word.format(root=two, out=tmp_path / "out") for word in READERS[reader]))
    assert f"{two}/sdd/shard-00001.parquet is stamped" in line


QUERIES = {
    "urls": "SELECT count(*) FROM urls",
    "images": "FROM images",
    "captions": "WITH c AS (FROM Captions) SELECT 1 FROM c",
    "nouns": 'CREATE TEMP TABLE t AS FROM "nouns"',
    "detections": "SELECT 1; PIVOT detections ON label USING count(*)",
    "entities": "FROM read_parquet(getvariable('root') || '/entities/*.parquet')",
    "ledger": "SELECT 1",
}


@pytest.mark.parametrize("layer", QUERIES)
def test_inspect_refuses_a_foreign_shard_of_each_layer_that_it_reads(two, tmp_path, layer):
    inspect = ["inspect", str(two), "--csv", QUERIES[layer]]
    assert CliRunner().invoke(app, inspect).exit_code == 0
    other = dataset_of_two(tmp_path / "other" / "sdd", "another list")
    shutil.copy(other / layer / "shard-00001.parquet", two / layer)
    done = CliRunner().invoke(app, inspect)
    assert done.exit_code == 2, done.exception
    assert f"error: {two}/{layer}/shard-00001.parquet is " in done.stderr
    assert CliRunner().invoke(app, ["inspect", str(two), "FROM labels"]).exit_code == (2 if layer == "ledger" else 0)


def test_inspect_names_a_foreign_list_rather_than_each_shard(two, tmp_path):
    other = dataset_of_two(tmp_path / "other" / "sdd", "another list")
    shutil.copy(other / "urls" / "shard-00000.parquet", two / "urls")
    assert f"{two}/sdd is of the dataset list, but urls/ is of another list" in refused("inspect", str(two), "SELECT 1")


@pytest.mark.parametrize("kind", FOREIGN)
def test_status_names_a_foreign_shard_and_fails(two, kind):
    spoil, name = FOREIGN[kind]
    spoil(two)
    done = CliRunner().invoke(app, ["status", str(two)])
    assert done.exit_code == 1, done.exception
    assert f"wrong: {two}/{name}.parquet " in done.stderr
    assert "| sdd | " in done.stdout


def test_status_compares_checksums_if_asked(two):
    path = two / "images" / "shard-00001.parquet"
    flip(path, 1000)
    assert CliRunner().invoke(app, ["status", str(two)]).exit_code == 0
    done = CliRunner().invoke(app, ["status", "--deep", str(two)])
    assert (done.exit_code, done.stderr.count("wrong: ")) == (1, 1)
    assert f"{path} has changed" in done.stderr


def test_status_names_a_ledger_whose_rows_cannot_be_read(two):
    path = two / "ledger" / "shard-00000.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 400 + content[404:])
    done = CliRunner().invoke(app, ["status", str(two)])
    assert done.exit_code == 1
    assert f"wrong: {path} is damaged" in done.stderr
    assert "| ledger | 1 of 2 |" in done.stdout


def test_status_says_which_files_have_no_checksum(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    done = CliRunner().invoke(app, ["status", "--deep", str(tmp_path / "old")])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "13 of 13 files have no checksum" in done.stdout


def test_a_message_holds_no_credentials(tmp_path):
    urls = "memory://user:5ec4e7@host/list.csv?X-Amz-Signature=5ec4e7"
    line = refused("build", "--set", f"labeling.root={tmp_path}/sdd", "--set", f"labeling.urls={urls}")
    assert "list.csv" in line
    assert "5ec4e7" not in line


@pytest.mark.parametrize("option", ["--columns", "--count"])
def test_a_picture_larger_than_memory_is_refused(dataset, tmp_path, option):
    done = CliRunner().invoke(app, ["picture", dataset, str(tmp_path / "a.png"), option, "1000000"])
    assert done.exit_code == 2
    assert option in done.stderr
    assert not (tmp_path / "a.png").exists()


WRITING = [
    "COPY (SELECT 1) TO '{root}/sdd/shard-00000.parquet'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{root}/sdd/shard-00000.parquet'",
    "EXPLAIN (ANALYZE, FORMAT json) COPY (SELECT 1) TO '{root}/sdd/shard-00000.parquet'",
    "EXPLAIN /* here */ ANALYZE COPY (SELECT 1) TO '{root}/sdd/shard-00000.parquet'",
    "FROM labels; COPY (SELECT 1) TO '{root}/sdd/shard-00000.parquet'",
    "PREPARE overwrite AS COPY (SELECT 1) TO '{root}/sdd/shard-00000.parquet'",
    "EXPORT DATABASE '{root}/sdd'",
    "ATTACH '{root}/sdd/database.db'",
]


@pytest.mark.parametrize("sql", WRITING)
def test_a_query_cannot_write_over_shards(dataset, tmp_path, sql):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = CliRunner().invoke(app, ["inspect", dataset, sql.format(root=dataset)])
    assert done.exit_code == 2
    assert "--unsafe" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("sql", ["FROM read_csv('{other}')", "SET enable_external_access = true", "INSTALL httpfs"])
def test_a_query_reads_the_dataset_alone(dataset, tmp_path, sql):
    other = tmp_path / "other.csv"
    other.write_text("name\nsecret\n")
    done = CliRunner().invoke(app, ["inspect", dataset, sql.format(other=other)])
    assert done.exit_code == 2
    assert "secret" not in done.output


def test_unsafe_lifts_it(dataset, tmp_path):
    out = tmp_path / "labels.csv"
    assert CliRunner().invoke(app, ["inspect", dataset, f"COPY labels TO '{out}'", "--unsafe"]).exit_code == 0
    assert "dog" in out.read_text()


def test_a_dataset_can_be_read_without_its_other_layers(dataset, tmp_path):
    done = CliRunner().invoke(app, ["inspect", dataset, "FROM labels"])
    assert done.exit_code == 0
    assert "dog" in done.stdout
    assert CliRunner().invoke(app, ["status", dataset]).exit_code == 0
    assert CliRunner().invoke(app, ["picture", dataset, str(tmp_path / "a.png")]).exit_code == 0
    assert (tmp_path / "a.png").is_file()


def test_status_shows_the_state_of_the_last_runs(dataset):
    with record_run(LabelingConfig(root=dataset), [], shards=1) as running:
        while_running = CliRunner().invoke(app, ["status", dataset]).stdout
    done = CliRunner().invoke(app, ["status", dataset]).stdout
    assert f"| {running.name} | running |" in while_running
    assert f"| {running.name} | done |" in done
    running.write("running")  # as a killed run leaves it
    killed = CliRunner().invoke(app, ["status", dataset]).stdout
    assert f"| {running.name} | killed |" in killed
