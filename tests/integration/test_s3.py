"""The dataset on an object store, over the S3 protocol: a real server on loopback, real clients."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from flows.cli import app
from infra.storage import open_binary, publish, storage_path
from labeling.audit import audit, check_contents
from labeling.config import Executor, RulesConfig, Workers
from labeling.errors import ShardCorrupt
from labeling.execution.journal import Journal, journal_path
from labeling.execution.network_job import NetworkJob
from labeling.execution.progress import ProgressCounter
from labeling.execution.run import run_job
from labeling.finish import FinishJob
from labeling.removal import remove
from labeling.sdd.query import connect, funnel
from labeling.sdd.removed import Removal
from labeling.sdd.schema import Caption, Entities, Image, Nouns, SddRow
from labeling.sdd.shards import ShardStore
from labeling.steps import chain_stages
from labeling.validation.validate import Scope, validate
from tests.datasets import dataset_of_two
from tests.factories import candidate, downloaded, image, key
from tests.faulty_stage import FaultyConfig, FaultyStage
from tests.processes import PATIENCE_S, wait_until
from tests.sound_dataset import sound_dataset

boto3 = pytest.importorskip("boto3")
s3fs = pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")

BUCKET = "sdd"
SHARD = "shard-00000"


@pytest.fixture(scope="module")
def s3() -> Iterator[object]:
    """A client of a server on loopback; child processes find the server by the AWS_* variables."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        host, port = moto.get_host_and_port()
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "name")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client
        s3fs.S3FileSystem.clear_instance_cache()
    moto.stop()


@pytest.fixture
def root(s3, request) -> str:
    """A folder of its own for each test."""
    return f"s3://{BUCKET}/{request.node.name}"


@pytest.fixture
def no_credentials(tmp_path, monkeypatch) -> Iterator[None]:
    """No server, no AWS_* variables, and no files of the user's that hold what they lack."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("no_credentials")
@pytest.mark.parametrize(
    "words",
    [
        ["build", "--set", "labeling.root={root}", "--set", "labeling.urls=list.csv"],
        ["build", "--set", "labeling.root={out}/sdd", "--set", "labeling.urls={root}/list.csv"],
        ["status", "{root}"],
        ["inspect", "{root}", "FROM labels"],
        ["picture", "{root}", "{out}/a.png"],
        ["train", "--here", "--set", "training.data.dataset={root}", "--set", "training.out={out}/train"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_missing_credentials_are_named_in_one_line(tmp_path, words):
    done = CliRunner().invoke(app, [word.format(root="s3://bucket/sdd", out=tmp_path) for word in words])
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert "s3://bucket/sdd" in line
    assert "NoCredentialsError" in line
    assert "AWS_*" in line


def put(path, content, *, replace=False):
    publish(path, lambda file: file.write(content), replace=replace)


SIZES = [
    pytest.param(3, id="one PUT"),
    pytest.param(101 << 20, id="in parts", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("size", SIZES)
def test_the_first_of_two_writers_wins(s3, root, size):
    path = storage_path(root) / "file"
    put(path, b"1" * size)
    with pytest.raises(FileExistsError):
        put(path, b"2" * size)
    assert path.read_bytes()[:3] == b"111"
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)
    put(path, b"3" * size, replace=True)
    assert path.read_bytes()[:3] == b"333"


def test_a_store_may_refuse_in_other_words_than_amazon(root, monkeypatch):
    from moto.s3 import exceptions, responses

    path = storage_path(root) / "file"
    put(path, b"1")
    monkeypatch.setattr(responses, "PreconditionFailed", lambda condition: exceptions.PreconditionFailed(""))
    with pytest.raises(FileExistsError, match=f"{root}/file already exists"):
        put(path, b"2")


def test_other_troubles_of_a_store_are_told_as_they_are(root):
    with pytest.raises(FileNotFoundError, match="bucket"):
        put(storage_path("s3://no-such-bucket/file"), b"1")


def test_of_many_writers_at_once_one_wins(root):
    path, won = storage_path(root) / "file", []

    def write(content):
        try:
            put(path, content)
            won.append(content)
        except FileExistsError:
            pass

    writers = [threading.Thread(target=write, args=(f"{n}".encode(),)) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [path.read_bytes()] == won


def test_a_writer_that_raises_leaves_nothing(root):
    def fail(file):
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        publish(storage_path(root) / "file", fail, replace=False)
    assert not (storage_path(root) / "file").exists()
    with pytest.raises(FileNotFoundError), open_binary(storage_path(root) / "file"):
        pass


def test_shards_come_back_as_they_were(root):
    store = downloaded(root, [image(n) for n in range(1, 200)])
    assert store.shards("images") == [SHARD]
    assert store.stamp("images", SHARD).counts == {"kept": 199}
    assert list(store.read(Image, ["images"], SHARD)) == [image(n) for n in range(1, 200)]
    store.write("sdd", SHARD, [], SddRow, "1")
    with pytest.raises(FileExistsError):
        store.write("sdd", SHARD, [], SddRow, "2")
    assert store.stamp("sdd", SHARD).stamp == "1"


def test_a_damaged_object_is_named_with_the_cure(s3, root):
    downloaded(root, [image(1)])
    s3.put_object(Bucket=BUCKET, Key=f"{root.split('/', 3)[3]}/images/{SHARD}.parquet", Body=b"<html>")
    with pytest.raises(ShardCorrupt, match=f"{root}/images/{SHARD}.parquet is damaged.*move it away"):
        ShardStore(root).stamp("images", SHARD)


def test_what_other_processes_write_is_seen_at_once(s3, root):
    store = downloaded(root, [image(1)])
    assert store.shards("images") == [SHARD]
    assert store.shards("captions") == []
    assert store.stamp("images", "shard-00001") is None
    assert [p.name for p in store.root.iterdir()]
    folder = root.split("/", 3)[3]
    downloaded(f"{root}-other", [image(2)], "shard-00001")
    for copy in ("images/shard-00001.parquet", "captions/shard-00001.parquet"):
        source = f"{BUCKET}/{folder}-other/images/shard-00001.parquet"
        s3.copy_object(Bucket=BUCKET, CopySource=source, Key=f"{folder}/{copy}")
    assert store.shards("images") == [SHARD, "shard-00001"]
    assert store.shards("captions") == ["shard-00001"]
    assert store.stamp("images", "shard-00001").counts == {"kept": 1}


def test_a_shard_is_labelled_there(root):
    urls = [f"good {n}" for n in range(1, 12)]
    urls[4], urls[7] = "exit", "raise"
    store = downloaded(root, [image(n, b"", url) for n, url in enumerate(urls, start=1)])
    (step,) = chain_stages([(FaultyStage(FaultyConfig()), "")])
    workers = Workers(batch_size=4, batch_deadline_s=PATIENCE_S)
    job = NetworkJob(step=step, root=root, workers=workers, run="run", torch_threads=1)
    (report,) = run_job(job, [SHARD], workers, Executor.HERE)
    assert report.counts == {"kept": 9, "quarantined": 1, "failed": 1}
    kept = [row.caption for row in store.read(Caption, ["captions"], SHARD)]
    assert kept == [u for u in urls if u.startswith("good")]
    assert not journal_path(store.root, "captions", SHARD).exists()
    assert ProgressCounter(store, "captions", [SHARD]).count().done == 11
    (again,) = run_job(job, [SHARD], workers, Executor.HERE)
    assert again.reused


LABELLER = """
import sys
from labeling.config import Workers
from labeling.steps import chain_stages
from labeling.execution.network_job import NetworkJob
from tests.faulty_stage import FaultyConfig, FaultyStage

(step,) = chain_stages([(FaultyStage(FaultyConfig(seconds_per_row=0.1)), "")])
job = NetworkJob(step=step, root=sys.argv[1], workers=Workers(batch_size=4), run="first", torch_threads=1)
print(job.make("shard-00000").error)
"""


def test_a_killed_labeller_leaves_no_file_and_its_journal_is_taken_up(root, processes):
    store = downloaded(root, [image(n, b"", f"good {n}") for n in range(1, 61)])
    journal = journal_path(store.root, "captions", SHARD)
    labeller = processes.start([sys.executable, "-c", LABELLER, root], stdout=subprocess.PIPE, text=True)
    count = ProgressCounter(store, "captions", [SHARD]).count
    wait_until("8 captions", lambda: count().done >= 8, lambda: labeller.poll() is None)
    labeller.send_signal(signal.SIGKILL)
    assert labeller.stdout.read() == ""
    assert store.shards("captions") == []
    assert Journal.begin(journal, "second").suspects
    (step,) = chain_stages([(FaultyStage(FaultyConfig()), "")])
    job = NetworkJob(step=step, root=root, workers=Workers(batch_size=4), run="second", torch_threads=1)
    report = job.make(SHARD)
    job.close()
    assert (report.counts, report.error) == ({"kept": 60}, None)


def test_a_journal_is_read_by_the_next_process(root):
    path = journal_path(storage_path(root), "captions", SHARD)
    first = Journal.begin(path, "run")
    first.note_in_flight([key(1), key(2)], done=7)
    again = Journal.begin(path, "run")
    assert (again.attempts, again.done) == (2, 0)
    assert again.is_suspect(key(1))
    assert not again.is_suspect(key(3))
    again.remove()
    again.remove()
    assert Journal.begin(path, "run").attempts == 1


def test_its_files_are_compared(s3, root):
    dataset_of_two(root)
    found = audit(root)
    assert found.problems == ()
    assert [problem for _, problem in check_contents(found) if problem] == []
    folder = root.split("/", 3)[3]
    s3.delete_object(Bucket=BUCKET, Key=f"{folder}/captions/{SHARD}.parquet")
    flipped = bytearray(s3.get_object(Bucket=BUCKET, Key=f"{folder}/sdd/{SHARD}.parquet")["Body"].read())
    flipped[500] ^= 1
    s3.put_object(Bucket=BUCKET, Key=f"{folder}/sdd/{SHARD}.parquet", Body=bytes(flipped))
    found = audit(root)
    (missing,), (changed,) = found.problems, [problem for _, problem in check_contents(found) if problem]
    assert missing.startswith(f"{root}/captions/{SHARD}.parquet is missing")
    assert changed.startswith(f"{root}/sdd/{SHARD}.parquet has changed")


def test_duckdb_reads_it_in_place(root):
    store = downloaded(root, [image(1), image(2)])
    assert funnel(root) == []
    candidates = [(candidate((0, 0, 40, 40), size=(64, 48)),), (candidate((0, 0, 40, 40), fill=0.1, size=(64, 48)),)]
    captions = [Caption(key=key(n), caption=f"a dog {n}") for n in (1, 2)]
    store.write_outcomes("captions", SHARD, captions, Caption, "1")
    store.write_outcomes("nouns", SHARD, [Nouns(key=key(n), nouns=()) for n in (1, 2)], Nouns, "1")
    store.write_outcomes(
        "entities", SHARD, [Entities(key=key(n + 1), candidates=c) for n, c in enumerate(candidates)], Entities, "2"
    )
    report = FinishJob(root=root, rules=RulesConfig(), layers=("images", "captions", "entities")).make(SHARD)
    assert (report.error, report.counts) == (None, {"kept": 1, "dropped": 1})
    session = connect(root)
    sizes = session.execute("SELECT caption, octet_length(image) FROM sdd").fetchall()
    assert sizes == [("a dog 1", len(image(1).image))]
    assert session.execute("SELECT label, entities FROM labels").fetchall() == [("dog", 1)]
    assert {(row[0], row[2], row[3]) for row in funnel(root)} == {("kept", "", 1), ("dropped", "thin_mask", 1)}


def test_a_dataset_is_validated_and_images_are_removed(s3, root, tmp_path):
    local = sound_dataset(tmp_path / "sdd")
    for path in local.glob("*/*.parquet"):
        s3.upload_file(str(path), BUCKET, f"{root.removeprefix(f's3://{BUCKET}/')}/{path.relative_to(local)}")
    *_, found = validate(root, Scope(), workers=1)
    assert (found.faults, found.rows["urls"], found.shards) == ([], 11, 2)
    hosts = Removal(made_at="2026-11-30T12:00:00+00:00", hosts=("b.example",))
    assert [(each.listed, each.kept) for each in remove(ShardStore(root), "first", hosts)] == [(0, 0), (2, 2)]
    *_, found = validate(root, Scope(), workers=1)
    assert (found.faults, found.rows["sdd"], found.rows["ledger"]) == ([], 2, 11)
    assert list(remove(ShardStore(root), "second", hosts))[1].listed == 0
