"""The world on disk and over HTTP."""

import http.client
import io
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from labeling.config import DownloadConfig
from labeling.sdd import masks
from labeling.sdd.arrow import row_of
from miniature.errors import WorldError
from miniature.world.names import labelled_names
from miniature.world.scenes import Pool, ScenesConfig, compose
from miniature.world.serve import METADATA, TRUTH, Truth, WorldConfig, world_server, write_world
from tests.processes import PATIENCE_S, Processes

COUNT = 24


def config(**values: Any) -> WorldConfig:
    scenes = ScenesConfig(width_px=(80, 120), height_px=(80, 120), pool=Pool.ALL)
    return WorldConfig(scenes=scenes, **{"port": 0, **values})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, COUNT, 4, config())
    return folder


def urls(folder: Path) -> list[str]:
    return pq.read_table(folder / METADATA)["URL"].to_pylist()


def test_the_list_has_the_columns_of_laion_aesthetics(world: Path) -> None:
    schema = pq.read_schema(world / METADATA)
    floats = dict.fromkeys(("punsafe", "pwatermark", "AESTHETIC_SCORE"), pa.float32())
    doubles = dict.fromkeys(("WIDTH", "HEIGHT", "similarity"), pa.float64())
    texts = dict.fromkeys(("URL", "TEXT"), pa.string())
    assert dict(zip(schema.names, schema.types, strict=True)) == {**texts, **doubles, "hash": pa.int64(), **floats}


def test_the_list_tells_the_size_of_every_image(world: Path) -> None:
    rows = pq.read_table(world / METADATA).to_pylist()
    assert len({row["URL"] for row in rows}) == len({row["hash"] for row in rows}) == COUNT
    for row in rows:
        with Image.open(world / urlsplit(row["URL"]).path[1:]) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert image.size == (row["WIDTH"], row["HEIGHT"])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_low_share_of_the_rows_falls_under_each_default_threshold(tmp_path: Path, share: float) -> None:
    table = pq.read_table(write_world(tmp_path, COUNT, 0, config(low_share=share)))
    limits = DownloadConfig()
    assert limits.min_aesthetic_score is not None
    assert (np.array(table["AESTHETIC_SCORE"]) < limits.min_aesthetic_score).mean() == share
    assert (np.array(table["punsafe"]) > limits.max_punsafe).mean() == share
    assert (np.array(table["pwatermark"]) > limits.max_pwatermark).mean() == share


def test_the_truth_is_that_of_the_scenes(world: Path) -> None:
    truths = [row_of(Truth, record) for record in pq.read_table(world / TRUTH).to_pylist()]
    assert [truth.url for truth in truths] == urls(world)
    for index, truth in enumerate(truths):
        scene = compose((4, index), config().scenes)
        assert (truth.caption, truth.background) == (scene.caption, scene.background)
        assert (truth.height_px, truth.width_px) == scene.image.shape[:2]
        for found, subject in zip(truth.subjects, scene.subjects, strict=True):
            assert (masks.decode(found.mask, truth.height_px, truth.width_px) == subject.mask).all()
            assert found.box == subject.box
            assert (found.name, found.class_word) == (subject.sprite.name, subject.sprite.class_word)
            assert found.label == subject.label
            assert found.held_out == subject.sprite.held_out


def test_pictures_are_those_of_the_scenes(world: Path) -> None:
    for index in range(4):
        with Image.open(world / "images" / f"{index:06d}.jpg") as image:
            off = np.asarray(image).astype(int) - compose((4, index), config().scenes).image
        assert np.abs(off).mean() < 8


def test_the_same_arguments_write_the_same_bytes(world: Path, tmp_path: Path) -> None:
    port = urlsplit(urls(world)[0]).port
    write_world(tmp_path, COUNT, 4, config(port=port))
    files = sorted(path.relative_to(world) for path in world.rglob("*.*"))
    assert len(files) == COUNT + 2
    assert all((world / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_every_url_answers_with_its_file_and_nothing_is_printed(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with world_server(world) as base_url:
        for url in urls(world):
            assert url.startswith(f"{base_url}/images/")
            with urllib.request.urlopen(url) as answer:
                assert answer.headers["Content-Type"] == "image/jpeg"
                assert answer.read() == (world / urlsplit(url).path[1:]).read_bytes()
        with pytest.raises(HTTPError, match="404"):
            urllib.request.urlopen(f"{base_url}/images/none.jpg")
    assert capfd.readouterr() == ("", "")


def test_many_clients_keep_their_connections(world: Path) -> None:
    paths = [urlsplit(url).path for url in urls(world)]

    def fetch_all(netloc: str) -> tuple[list[int], int]:
        connection = http.client.HTTPConnection(netloc, timeout=PATIENCE_S)
        sizes, sockets = [], set()
        for path in paths:
            connection.request("GET", path)
            sizes.append(len(connection.getresponse().read()))
            assert connection.sock is not None
            sockets.add(connection.sock.getsockname())
        return sizes, len(sockets)

    with world_server(world) as base_url, ThreadPoolExecutor(48) as clients:
        answers = list(clients.map(fetch_all, [urlsplit(base_url).netloc] * 48))
    sizes = [(world / path[1:]).stat().st_size for path in paths]
    assert answers == [(sizes, 1)] * 48


def test_a_client_that_hangs_up_disturbs_nothing(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with world_server(world) as base_url:
        where = urlsplit(base_url)
        for _ in range(5):
            client = socket.create_connection((where.hostname, where.port))
            client.sendall(b"GET /images/000000.jpg HTTP/1.1\r\nHost: x\r\n\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not goodbye
            client.close()
        with urllib.request.urlopen(urls(world)[0]) as answer:
            assert Image.open(io.BytesIO(answer.read())).format == "JPEG"
    assert capfd.readouterr().err == ""


def test_a_world_is_served_again_where_its_urls_say(world: Path) -> None:
    with world_server(world) as first:
        pass
    with world_server(world) as second:
        assert first == second


def test_a_taken_port_is_named_with_the_cure(world: Path) -> None:
    with (
        world_server(world) as base_url,
        pytest.raises(WorldError, match=f"port {urlsplit(base_url).port} is taken.*--port"),
    ):
        world_server(world).__enter__()


def test_what_cannot_be_a_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match=r"metadata\.parquet is missing\. Write a world"):
        world_server(tmp_path).__enter__()
    with pytest.raises(WorldError, match="count is 0"):
        write_world(tmp_path, 0, 0)


@pytest.mark.parametrize("command", [["miniature.serve"], ["flows.cli", "serve-world"]])
def test_the_command_writes_serves_and_stops(command: list[str], tmp_path: Path, processes: Processes) -> None:
    words = [sys.executable, "-m", *command, str(tmp_path), "--count", "3", "--port", "0"]
    server = processes.start(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert "3 scenes at http://127.0.0.1:" in server.stdout.readline()
    with urllib.request.urlopen(urls(tmp_path)[2]) as answer:
        assert Image.open(io.BytesIO(answer.read())).size[0] >= 384
    server.send_signal(signal.SIGINT)
    assert server.wait(PATIENCE_S) == 0


def test_scenes_of_things_that_nothing_was_taught_are_mixed_in(tmp_path: Path) -> None:
    taught = ScenesConfig(width_px=(80, 120), height_px=(80, 120), names=labelled_names()[:5])
    write_world(tmp_path, 30, 4, WorldConfig(scenes=taught, port=0, held_out_share=0.5))
    kinds = [{s["held_out"] for s in row["subjects"]} for row in pq.read_table(tmp_path / TRUTH).to_pylist()]
    assert all(len(kind) == 1 for kind in kinds)
    assert 5 < sum(kind == {True} for kind in kinds) < 25
