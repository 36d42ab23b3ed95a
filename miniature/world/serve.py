"""Writes a small world to disk and serves it over HTTP: JPEG scenes, a list with LAION-Aesthetics' columns, the truth.

If FOLDER holds no world, one is written first, with the sprites that the small networks know:

    subject-diffusion serve-world FOLDER --count 300 --seed 0 --port 8601

    FOLDER/images/000000.jpg ...    the scenes
    FOLDER/metadata.parquet         input of `build`: one row for each scene, with the columns of LAION-Aesthetics
    FOLDER/truth.parquet            one `Truth` for each scene, in the same order

The key of an image is a hash of its URL, so URLs must not change when a run is resumed. They contain the port that the
world was written for; `world_server` opens that port or fails if it is taken.
"""

import argparse
import errno
import io
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from infra.config import Config
from infra.ranges import Share
from labeling.sdd import masks
from labeling.sdd.arrow import Float32, Int32, Int64, Label, record_of, schema_of
from labeling.sdd.schema import Box, Mask
from miniature.errors import WorldError
from miniature.world.names import taught_scenes
from miniature.world.scenes import Pool, Scene, ScenesConfig, Subject, compose

HOST = "127.0.0.1"
METADATA = "metadata.parquet"
TRUTH = "truth.parquet"
Float64 = Annotated[float, pa.float64()]


class WorldConfig(Config):
    """Settings of a world."""

    scenes: ScenesConfig = ScenesConfig()
    """Appearance of the scenes."""
    jpeg_quality: int = Field(default=92, ge=1, le=100)
    """Quality of the JPEG files, 1 to 100."""
    port: int = Field(default=8601, ge=0, le=65535)
    """Port of every URL, and therefore part of the dataset's keys. 0 chooses a free port when the world is written;
    the world keeps it."""
    held_out_share: Share = 0.0
    """Share of scenes with held-out subjects only, 0 to 1, regardless of `scenes.pool` and `scenes.names`."""
    low_share: Share = 0.06
    """Share of rows, 0 to 1, that fail a default threshold of the download. It applies independently to each of three
    columns: AESTHETIC_SCORE below 5, `punsafe` above 0.5, `pwatermark` above 0.8."""
    untaught_scenes: int = Field(default=0, ge=0, le=100_000)
    """Number of scenes of held-out subjects on untaught backgrounds on which the score of labels measures masks, for
    each of the two sets of such backgrounds. The score composes them; they are not part of the world."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A row of the list, with the names and types of LAION-Aesthetics."""

    URL: str
    TEXT: str
    WIDTH: Float64
    HEIGHT: Float64
    similarity: Float64
    hash: Int64
    punsafe: Float32
    pwatermark: Float32
    AESTHETIC_SCORE: Float32


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueSubject:
    """Words and visible region of a subject of a scene."""

    name: Label
    class_word: Label
    label: Label
    """Word by which the caption calls it: its name or its class word."""
    held_out: bool
    """Whether no network is trained on it."""
    box: Box
    """Bounds of the mask."""
    mask: Mask
    """Visible part of the subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Ground truth of one image."""

    url: str
    caption: str
    background: Label
    width_px: Int32
    height_px: Int32
    subjects: tuple[TrueSubject, ...]
    """Subjects from left to right, as the caption names them."""


def write_world(folder: Path, count: int, seed: int, config: WorldConfig = WorldConfig()) -> Path:  # noqa: B008  # frozen
    """Write `count` scenes, their list and their truth, and return the path of the list.

    The same arguments write the same bytes, unless the port is 0.

    Raises:
        WorldError: `count` is less than 1.
    """
    if count < 1:
        raise WorldError(f"count is {count}, but a world has at least one scene: set it to 1 or more")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    port = config.port or _free_port()
    listings, truths = [], []
    for index in range(count):
        path = f"images/{index:06d}.jpg"
        rng = np.random.default_rng((seed, index, 1))
        held_out = rng.random() < config.held_out_share
        scene = compose((seed, index), _held_out(config.scenes) if held_out else config.scenes)
        (folder / path).write_bytes(jpeg(scene.image, config.jpeg_quality))
        url = f"http://{HOST}:{port}/{path}"
        listings.append(_listing(url, scene, rng, config.low_share))
        truths.append(scene_truth(url, scene))
    _write(folder / TRUTH, truths, Truth)
    _write(folder / METADATA, listings, Listing)
    return folder / METADATA


@contextmanager
def world_server(folder: Path) -> Iterator[str]:
    """Serve a written world over loopback HTTP inside the block, and yield the base URL.

    Raises:
        WorldError: `folder` holds no world, or its port is taken.
    """
    port = _port_of(folder)
    try:
        server = _Server((HOST, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise WorldError(
            f"port {port} is taken, and the URLs in {folder / METADATA} contain it. Stop the program that listens "
            "there, or remove that folder and write it again with another --port (its images then count as new ones)"
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    """Serves the files of a folder over persistent connections."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are separate writes; with Nagle, a file waits 40 ms for an ACK
    timeout = 60.0

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a build requests hundreds of files."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _held_out(scenes: ScenesConfig) -> ScenesConfig:
    return scenes.model_copy(update={"pool": Pool.HELD_OUT, "names": ()})


def _free_port() -> int:
    with _Server((HOST, 0), _Handler) as server:
        return int(server.server_address[1])


def _port_of(folder: Path) -> int:
    path = folder / METADATA
    if not path.exists():
        raise WorldError(f"{path} is missing. Write a world there first: subject-diffusion serve-world {folder}")
    url: str = pq.read_table(path, columns=["URL"])["URL"][0].as_py()
    port = urlsplit(url).port
    assert port is not None, f"{path} was not written by write_world"
    return port


def jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """Encode `image` [H, W, 3] as a JPEG file without chroma subsampling."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:4:4")
    return file.getvalue()


def _listing(url: str, scene: Scene, rng: np.random.Generator, low_share: float) -> Listing:
    low_score, unsafe, watermarked = rng.random(3) < low_share
    height, width = scene.image.shape[:2]
    return Listing(
        URL=url,
        TEXT=_alt_text(scene, rng),
        WIDTH=float(width),
        HEIGHT=float(height),
        similarity=rng.uniform(0.28, 0.42),
        hash=int(rng.integers(-(2**63), 2**63 - 1)),
        punsafe=rng.uniform(0.51, 1.0) if unsafe else 0.49 * rng.beta(1, 12),
        pwatermark=rng.uniform(0.81, 1.0) if watermarked else 0.79 * rng.beta(1, 4),
        AESTHETIC_SCORE=rng.uniform(4.5, 4.99) if low_score else 5.01 + 2 * rng.beta(2, 4),
    )


def _alt_text(scene: Scene, rng: np.random.Generator) -> str:
    """Return a text as in an alt attribute: the name of one subject among unrelated words."""
    name = scene.subjects[rng.integers(len(scene.subjects))].sprite.name
    forms = ("{} stock illustration", "Cute 3D {} | free download", "IMG_{:04d} {}", "{}", "Wallpaper {} HD")
    form = forms[rng.integers(len(forms))]
    return form.format(int(rng.integers(10_000)), name) if ":04d" in form else form.format(name.title())


def scene_truth(url: str, scene: Scene) -> Truth:
    """Return the truth of the image of `scene` at `url`."""
    height, width = scene.image.shape[:2]
    return Truth(
        url=url,
        caption=scene.caption,
        background=scene.background,
        width_px=width,
        height_px=height,
        subjects=tuple(_true_subject(subject) for subject in scene.subjects),
    )


def _true_subject(subject: Subject) -> TrueSubject:
    return TrueSubject(
        name=subject.sprite.name,
        class_word=subject.sprite.class_word,
        label=subject.label,
        held_out=subject.sprite.held_out,
        box=subject.box,
        mask=masks.encode(subject.mask),
    )


def _write(path: Path, rows: Iterable[object], row: type) -> None:
    pq.write_table(pa.Table.from_pylist([record_of(r) for r in rows], schema=schema_of(row)), path)


def serve_world(folder: Path, count: int, seed: int, port: int) -> None:
    """Serve the world in `folder` until Ctrl-C. Write `count` scenes of known subjects first if there is no world yet.

    Raises:
        WorldError: `count` is less than 1, or the port of the URLs is taken.
    """
    metadata = folder / METADATA
    if not metadata.exists():
        write_world(folder, count, seed, WorldConfig(port=port, scenes=taught_scenes()))
    with suppress(KeyboardInterrupt), world_server(folder) as base_url:
        count = pq.read_metadata(metadata).num_rows
        print(f"{count} scenes at {base_url}, listed in {metadata}; press Ctrl-C to stop", flush=True)
        threading.Event().wait()


def main() -> None:
    """Run the command line. `subject-diffusion serve-world` takes the same options."""
    parser = argparse.ArgumentParser(description="Write a small world and serve it until stopped.")
    parser.add_argument("folder", type=Path)
    new = parser.add_argument_group("options of a new world")
    new.add_argument("--count", type=int, default=300, help="number of scenes (default: %(default)s)")
    new.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    new.add_argument("--port", type=int, default=8601, help="port of the URLs; 0: a free one (default: %(default)s)")
    options = parser.parse_args()
    if options.port not in range(1 << 16):
        parser.error(f"--port {options.port}: give 0 to 65535")
    try:
        serve_world(options.folder, options.count, options.seed, options.port)
    except WorldError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
