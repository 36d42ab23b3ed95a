"""CPU-seconds of one download: `python -m tests.benchmarks.download_cost SIDE LIST OUT`.

SIDE is `ours` or `img2dataset`. The last line of the output has the CPU-seconds of all processes. This process adopts
orphans, so processes that are killed together with their parent count as well.
"""

import asyncio
import ctypes
import io
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES_PER_SHARD = 256
_PR_SET_CHILD_SUBREAPER = 36


def download_by_us(urls: str, out: str) -> int:
    """Download a list; return the number of images."""
    from labeling.config import DownloadConfig, LabelingConfig
    from labeling.download.lists.url_list import plan_urls
    from labeling.download.stage import download_shards

    config = LabelingConfig(
        root=out,
        urls=urls,
        images_per_shard=IMAGES_PER_SHARD,
        download=DownloadConfig(allow_private_hosts=True, min_side_px=32),
    )
    return sum(report.counts.get("kept", 0) for report in download_shards(config, plan_urls(config)))


def download_by_img2dataset(urls: str, out: str) -> int:
    """Download a list as img2dataset does by itself, without resizing; return the number of images."""
    import pyarrow.parquet as pq
    from img2dataset import download

    download(
        url_list=urls,
        input_format="parquet",
        url_col="URL",
        output_folder=out,
        output_format="parquet",
        number_sample_per_shard=IMAGES_PER_SHARD,
        processes_count=1,
        thread_count=8,
        resize_mode="no",
        disable_all_reencoding=True,
        enable_wandb=False,
        compute_hash="sha256",
    )
    return sum(pq.read_metadata(file).num_rows for file in Path(out).glob("*.parquet"))


def jpegs(count: int) -> list[bytes]:
    """Return different JPEGs of about 13 kB, 256 x 256 px."""
    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    return files


async def serve(ready: Path) -> None:
    """Serve JPEGs on a free port of 127.0.0.1, which is written to the file `ready`."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    answers = [head % len(body) + body for body in jpegs(64)]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
        writer.write(answers[int(path[1:-4]) % len(answers)])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    Path(ready).write_text(str(server.sockets[0].getsockname()[1]))
    await server.serve_forever()


def main(side: str, urls: str, out: str) -> None:
    """Download, and print the number of images and the CPU-seconds of all processes."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    images = (download_by_us if side == "ours" else download_by_img2dataset)(urls, out)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        print(images, sum(os.times()[:4]))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(Path(sys.argv[2])))
    else:
        main(*sys.argv[1:])
