"""Embedding of image files: equal to one by one, cached by content, bad files as reasons, nothing lost by a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from evaluation.embedding_cache import EmbeddingCache
from evaluation.embeddings import Embeddings, Unreadable, embed_files
from evaluation.errors import EncoderWeightsError, EvaluationError
from tests.small_encoder import SPEC, SmallEncoder


def write_images(folder: Path, count: int) -> list[Path]:
    """Write `count` different PNG files."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 12, 14, 3), np.uint8)
    paths = [folder / f"{i:05}.png" for i in range(count)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


def embed(encoder: SmallEncoder, paths: list[Path], folder: Path | None = None, **options: int) -> Embeddings:
    """Embed with one encoder."""
    return embed_files([encoder], paths, None if folder is None else EmbeddingCache(folder), **options)[0]


def same(found: Embeddings, expected: Embeddings) -> bool:
    """Return whether two results have the same paths in the same order, and the same values."""
    return list(found) == list(expected) and all(np.array_equal(found[path], expected[path]) for path in found)


def test_batches_give_what_single_images_give(tmp_path: Path) -> None:
    paths, encoder = write_images(tmp_path, 11), SmallEncoder()
    found = embed(encoder, paths, batch_size=4)
    assert encoder.batches == [4, 4, 3]
    assert list(found) == paths
    for path in paths:
        alone = encoder.embed_images(encoder.prepare(np.asarray(Image.open(path)))[None])[0].detach().numpy()
        np.testing.assert_allclose(found[path], alone, atol=1e-6)


def test_a_second_call_computes_nothing(tmp_path: Path) -> None:
    paths = write_images(tmp_path, 5)
    first = embed(SmallEncoder(), paths, tmp_path / "cache")
    again = SmallEncoder()
    assert same(embed(again, paths, tmp_path / "cache"), first)
    assert again.batches == []
    assert len(list((tmp_path / "cache").rglob("*.parquet"))) == 1


def test_the_cache_knows_files_by_content(tmp_path: Path) -> None:
    first, second = write_images(tmp_path, 2)
    embed(SmallEncoder(), [first], tmp_path / "cache")
    moved, encoder = tmp_path / "moved.png", SmallEncoder()
    moved.write_bytes(first.read_bytes())
    first.write_bytes(second.read_bytes())
    found = embed(encoder, [moved, first], tmp_path / "cache")
    assert encoder.batches == [1]
    np.testing.assert_allclose(list(found.values()), list(embed(SmallEncoder(), [moved, first]).values()), atol=1e-6)


def test_copies_are_embedded_once(tmp_path: Path) -> None:
    (first,), encoder = write_images(tmp_path, 1), SmallEncoder()
    copies = [tmp_path / f"copy {i}.png" for i in range(3)]
    for copy in copies:
        copy.write_bytes(first.read_bytes())
    found = embed(encoder, [first, *copies], tmp_path / "cache", batch_size=2)
    assert encoder.batches == [1]
    assert all(np.array_equal(one, found[first]) for one in found.values())


@pytest.mark.parametrize("other", [SmallEncoder(seed=1), SmallEncoder(spec=SPEC.model_copy(update={"resize_px": 12}))])
def test_other_weights_or_preprocessing_share_nothing(tmp_path: Path, other: SmallEncoder) -> None:
    paths = write_images(tmp_path, 3)
    first = embed(SmallEncoder(), paths, tmp_path / "cache")
    assert not same(embed(other, paths, tmp_path / "cache"), first)
    assert same(embed(SmallEncoder(), paths, tmp_path / "cache"), first)


def test_each_encoder_computes_only_what_its_cache_lacks(tmp_path: Path) -> None:
    paths = write_images(tmp_path, 6)
    embed(SmallEncoder(0), paths[:4], tmp_path / "cache")
    known, new = SmallEncoder(0), SmallEncoder(1)
    by_known, by_new = embed_files([known, new], paths, EmbeddingCache(tmp_path / "cache"))
    assert (known.batches, new.batches) == ([2], [6])
    np.testing.assert_allclose(list(by_known.values()), list(embed(SmallEncoder(0), paths).values()), atol=1e-6)
    assert same(by_new, embed(SmallEncoder(1), paths))


def test_batches_do_not_depend_on_what_is_cached(tmp_path: Path) -> None:
    paths, encoder = write_images(tmp_path, 6), SmallEncoder()
    embed(SmallEncoder(), paths[1:2], tmp_path / "cache")
    embed(encoder, paths, tmp_path / "cache", batch_size=2)
    assert encoder.batches == [1, 2, 2]


def test_an_embedding_is_written_once(tmp_path: Path) -> None:
    paths = write_images(tmp_path, 6)
    embed_files([SmallEncoder()], paths, EmbeddingCache(tmp_path / "cache", flush_s=0), batch_size=2)
    files = list((tmp_path / "cache").rglob("*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files] == [2, 2, 2]


def test_a_bad_file_is_a_reason(tmp_path: Path) -> None:
    (good,) = write_images(tmp_path, 1)
    missing, text, cut = tmp_path / "missing.png", tmp_path / "text.png", tmp_path / "cut.png"
    text.write_text("not an image")
    cut.write_bytes(good.read_bytes()[:-60])
    found = embed(SmallEncoder(), [missing, good, text, tmp_path, cut], tmp_path / "cache")
    reasons = {path: one.reason for path, one in found.items() if isinstance(one, Unreadable)}
    assert list(reasons) == [missing, text, tmp_path, cut]
    assert reasons[missing] == "No such file or directory"
    assert reasons[text].startswith("not_an_image: ")
    assert reasons[tmp_path] == "Is a directory"
    assert reasons[cut].startswith("truncated: ")


def test_an_embedding_that_is_not_finite_is_refused_with_its_file(tmp_path: Path) -> None:
    paths, encoder = write_images(tmp_path, 3), SmallEncoder()
    bright = tmp_path / "bright.png"
    Image.fromarray(np.full((12, 12, 3), 255, np.uint8)).save(bright)
    with torch.no_grad():
        encoder.layer.weight.fill_(torch.finfo(torch.float32).max / 150)  # overflows for a white image only
    with pytest.raises(EncoderWeightsError, match=r"bright\.png as NaN or infinity"):
        embed(encoder, [*paths, bright], tmp_path / "cache")
    assert all(np.isfinite(one).all() for one in embed(encoder, paths, tmp_path / "cache").values())


def test_the_progress_counts_every_file_once(tmp_path: Path) -> None:
    paths, seen = write_images(tmp_path, 5), list[tuple[int, int]]()
    embed_files(
        [SmallEncoder()], [*paths, paths[0]], batch_size=2, on_progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(i, 5) for i in range(1, 6)]


def test_an_error_keeps_what_was_embedded(tmp_path: Path) -> None:
    paths = write_images(tmp_path, 6)

    def stop(done: int, _: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_files([SmallEncoder()], paths, EmbeddingCache(tmp_path / "cache"), batch_size=2, on_progress=stop)
    resumed = SmallEncoder()
    embed(resumed, paths, tmp_path / "cache")
    assert resumed.batches == [2]


KILLED = """
import os, signal, sys
from pathlib import Path
from evaluation.embedding_cache import EmbeddingCache
from evaluation.embeddings import embed_files
from tests.small_encoder import SmallEncoder

def kill(done, total):
    if done == 7:
        os.kill(os.getpid(), signal.SIGKILL)

paths = sorted(Path(sys.argv[1]).glob("*.png"))
embed_files([SmallEncoder()], paths, EmbeddingCache(sys.argv[2], flush_s=0), batch_size=2, on_progress=kill)
"""


def test_a_killed_call_resumes(tmp_path: Path) -> None:
    paths, cache = write_images(tmp_path, 9), tmp_path / "cache"
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(cache)], env=os.environ, check=False)
    assert child.returncode == -signal.SIGKILL
    resumed = SmallEncoder()
    found = embed(resumed, paths, cache, batch_size=2)
    assert resumed.batches == [2, 1]
    assert same(found, embed(SmallEncoder(), paths, batch_size=2))


def test_a_damaged_file_of_the_cache_is_named(tmp_path: Path) -> None:
    paths, cache = write_images(tmp_path, 2), tmp_path / "cache"
    embed(SmallEncoder(), paths, cache)
    (file,) = cache.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(EvaluationError, match=rf"{file} is damaged \(.*\): delete it"):
        embed(SmallEncoder(), paths, cache)


def test_two_calls_may_fill_one_cache(tmp_path: Path) -> None:
    paths, cache = write_images(tmp_path, 4), EmbeddingCache(tmp_path / "cache")
    one, other = cache.of(SmallEncoder()), cache.of(SmallEncoder())
    for own, path in ((one, paths[0]), (other, paths[1])):
        own.add([path.read_bytes()[:32]], np.arange(6, dtype=np.float32)[None])
        own.flush()
    both = cache.of(SmallEncoder())
    assert both.get(paths[0].read_bytes()[:32]) is not None
    assert both.get(b"0" * 32) is None
