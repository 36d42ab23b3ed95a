"""Embeddings find the earliest similar image, across shards and in any number of workers."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from labeling.build import find_similar_images
from labeling.cleaning.duplicates import find_duplicates
from labeling.cleaning.embedding import STORED
from labeling.cleaning.similar_images import SimilarImagesJob
from labeling.config import CleanConfig, Executor, LabelingConfig, RulesConfig, Workers
from labeling.execution.run import run_job
from labeling.finish import FinishJob
from labeling.removal import remove
from labeling.sdd.removed import Removal
from labeling.sdd.schema import EMBEDDINGS, SIMILAR, Embedding, Image, SimilarImage
from labeling.sdd.shards import Refused, ShardStore
from tests.factories import key, refused
from tests.unit.labeling.cleaning.labelled_images import LAYERS, hashed, verdicts, write_labelled

FAR = 0xF0F0_F0F0_F0F0_F0F0
"""A perceptual hash that differs from 0 in 32 bits."""
SHARDS: list[list[Image]] = [
    [hashed(1), hashed(2, FAR), hashed(3, FAR << 2 & 2**64 - 1, width_px=65)],
    [hashed(4, FAR << 1 & 2**64 - 1), hashed(5, FAR >> 4), hashed(6, FAR >> 1)],
]
DEGREES = {1: 0.0, 2: 80.0, 3: 10.0, 4: 85.0, 5: 200.0}
"""Directions of the embeddings in a plane; image 6 has none."""
CLEAN = CleanConfig(near_duplicate_cosine=0.98)
"""Similar are embeddings up to 11.5 degrees apart."""


def write_embeddings(root: Path, shards: Mapping[str, Sequence[int]], degrees: Mapping[int, float] = DEGREES) -> None:
    for shard, numbers in shards.items():
        rows: list[Embedding | Refused] = []
        for number in numbers:
            if number not in degrees:
                rows.append(refused(number))
                continue
            angle = np.radians(degrees[number])
            plane = np.array([np.cos(angle), np.sin(angle)])
            rows.append(Embedding(key=key(number), embedding=plane.astype(STORED).tobytes()))
        ShardStore(str(root)).write_outcomes(EMBEDDINGS, shard, rows, Embedding, "embeddings")


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    names = write_labelled(tmp_path, SHARDS)
    write_embeddings(tmp_path, dict(zip(names, ([1, 2, 3], [4, 5, 6]), strict=True)))
    return names


def job(root: Path, shards: Sequence[str]) -> SimilarImagesJob:
    return SimilarImagesJob(str(root), LAYERS, tuple(shards), 0.98)


def found(root: Path, shards: Sequence[str]) -> dict[int, tuple[int, str]]:
    rows = [row for shard in shards for row in ShardStore(str(root)).read(SimilarImage, (SIMILAR,), shard)]
    return {int.from_bytes(row.key, "big"): (int.from_bytes(row.original, "big"), row.shard) for row in rows}


def test_the_earliest_similar_image_is_found_across_shards(tmp_path: Path, shards: list[str]) -> None:
    run_job(job(tmp_path, shards), shards, Workers(), Executor.HERE)
    assert found(tmp_path, shards) == {1: (3, shards[0]), 4: (2, shards[0])}, "3 has more pixels than 1"
    (row,) = ShardStore(str(tmp_path)).read(SimilarImage, (SIMILAR,), shards[1])
    assert row.cosine == pytest.approx(np.cos(np.radians(5)), abs=1e-3)


def test_the_result_of_two_workers_is_that_of_all_pairs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = np.arange(60).reshape(3, 20)
    names = write_labelled(tmp_path, [[hashed(int(n)) for n in row] for row in numbers])
    degrees = {int(n): float(rng.uniform(0, 3600)) for n in numbers.ravel()}
    write_embeddings(tmp_path, {name: row.tolist() for name, row in zip(names, numbers, strict=True)}, degrees)
    run_job(job(tmp_path, names), names, Workers(count=2), Executor.HERE)
    angles = np.radians([degrees[n] for n in range(60)])
    plane = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(STORED).astype(np.float32)
    plane /= np.linalg.norm(plane, axis=1, keepdims=True)
    similar = np.tril(plane @ plane.T >= 0.98, -1)
    expected = {n: int(similar[n].argmax()) for n in range(60) if similar[n].any()}
    assert {n: original for n, (original, _) in found(tmp_path, names).items()} == expected


def test_a_dataset_that_grows_searches_only_for_its_new_shards(tmp_path: Path, shards: list[str]) -> None:
    first = run_job(job(tmp_path, shards[:1]), shards[:1], Workers(), Executor.HERE)
    both = run_job(job(tmp_path, shards), shards, Workers(), Executor.HERE)
    assert [report.reused for report in (*first, *both)] == [False, True, False]
    write_more = {shards[0]: [1, 2, 3]}
    (tmp_path / EMBEDDINGS / f"{shards[0]}.parquet").unlink()
    assert job(tmp_path, shards).expected_stamp(ShardStore(str(tmp_path)), shards[1]) is None
    write_embeddings(tmp_path, write_more)
    assert all(report.reused for report in run_job(job(tmp_path, shards), shards, Workers(), Executor.HERE))


def test_a_search_without_a_pair_logs_how_many_images_it_compared(
    tmp_path: Path, shards: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = LabelingConfig(root=str(tmp_path), clean=CleanConfig(near_duplicate_cosine=0.9999))
    with caplog.at_level(logging.INFO, "labeling.build"):
        find_similar_images(config, LAYERS, shards, shards)
    assert any(message.startswith("similar: no pairs among 5 images in ") for message in caplog.messages)


def test_similar_images_are_dropped_with_their_cosine(tmp_path: Path, shards: list[str]) -> None:
    run_job(job(tmp_path, shards), shards, Workers(), Executor.HERE)
    duplicates = find_duplicates(str(tmp_path), CLEAN, LAYERS, shards)
    finish = FinishJob(root=str(tmp_path), rules=RulesConfig(), layers=LAYERS, clean=CLEAN, duplicates=duplicates)
    judged = verdicts(finish, shards)
    assert {number: reason for number, (reason, _) in judged.items() if reason} == {
        1: "similar_embedding",
        4: "similar_embedding",
    }
    assert judged[4][1] == f"of {key(2).hex()} in shard-00000, cosine 0.996"
    both = CleanConfig(near_duplicate_cosine=0.98, near_duplicate_bits=16)
    assert find_duplicates(str(tmp_path), both, LAYERS, shards).keys() == set(shards)


def test_a_removed_image_leaves_the_search(tmp_path: Path, shards: list[str]) -> None:
    run_job(job(tmp_path, shards), shards, Workers(), Executor.HERE)
    finish = FinishJob(root=str(tmp_path), rules=RulesConfig(), layers=LAYERS)
    verdicts(finish, shards)
    gone = Removal(made_at="2026-11-30T12:00:00+00:00", urls=("https://example.com/3.jpg",), hosts=())
    list(remove(ShardStore(str(tmp_path)), "first", gone))
    assert ShardStore(str(tmp_path)).keys(EMBEDDINGS, shards[0]) == [key(1), key(2)]
    reports = run_job(job(tmp_path, shards), shards, Workers(), Executor.HERE)
    assert not any(report.reused for report in reports)
    assert found(tmp_path, shards) == {4: (2, shards[0])}
