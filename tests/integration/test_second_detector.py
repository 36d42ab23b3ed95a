"""A second detector finds planted label errors, and `kill -9` while it runs and cleans loses and doubles nothing."""

import io
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from labeling.backends.load import load_detector
from labeling.build import label_part
from labeling.cleaning.second_detector import ConfirmInput, ConfirmStage
from labeling.config import CleanConfig, ConfirmConfig, LabelingConfig, RulesConfig, Stale
from labeling.finish import FinishJob
from labeling.sdd import masks
from labeling.sdd.schema import CONFIRMATIONS, Box, Candidate, Confirmation, Confirmations, LedgerRow, Noun, Segment
from labeling.sdd.shards import ShardStore
from labeling.steps import Step
from miniature.world.scenes import Scene, compose
from tests.corner_detector import load_corner_detector
from tests.factories import CAT, DOG, key, labelled
from tests.integration.test_cleaning import check_files
from tests.processes import Processes

pytestmark = pytest.mark.slow
SCENES = 200
KILLS = 20
WEIGHTS = Path(__file__).parents[2] / "miniature" / "weights" / "grounding_dino"


@dataclass(frozen=True)
class Planted:
    """A candidate with the kind of its error: none, moved or swapped."""

    kind: str
    confirmation: Confirmation


@pytest.fixture(scope="module")
def planted() -> list[Planted]:
    """Entities of scenes, of which a tenth is moved and a tenth has another label of its caption."""
    config = ConfirmConfig(enabled=True, backend="grounding_dino_hf", checkpoint=str(WEIGHTS), device="cpu")
    stage = ConfirmStage(config, load_detector)
    stage.setup()
    rng = random.Random(4)
    found: list[Planted] = []
    for seed in range(10_000, 10_000 + SCENES):
        scene = compose(seed)
        kinds, candidates = zip(*planted_candidates(scene, rng), strict=True)
        (row,) = stage.process([stage.prepare(query(scene, candidates))])
        found += [Planted(kind, each) for kind, each in zip(kinds, row.confirmations, strict=True)]
    return found


def planted_candidates(scene: Scene, rng: random.Random) -> Iterator[tuple[str, Candidate]]:
    for subject in scene.subjects:
        draw, box = rng.random(), subject.box
        candidate = Candidate(
            label=subject.label,
            span_start=0,
            span_end=1,
            score=1.0,
            box=box,
            segment=Segment(
                mask=masks.encode(subject.mask), area_px=int(subject.mask.sum()), predicted_iou=1.0, stability=1.0
            ),
        )
        others = [word for word in nouns(scene) if word != subject.label]
        if draw < 0.1:
            yield "swapped", replace(candidate, label=rng.choice(others))
        elif draw < 0.2:
            dx, dy = (box.x1 - box.x0) / 2, (box.y1 - box.y0) / 2
            moved = Box(x0=box.x0 + dx, y0=box.y0 + dy, x1=box.x1 + dx, y1=box.y1 + dy)
            yield "moved", replace(candidate, box=moved)
        else:
            yield "none", candidate


def nouns(scene: Scene) -> list[str]:
    return [*(subject.label for subject in scene.subjects), scene.background]


def query(scene: Scene, candidates: tuple[Candidate, ...]) -> ConfirmInput:
    file = io.BytesIO()
    Pillow.fromarray(scene.image).save(file, "PNG")
    words = tuple(Noun(label=word, span_start=0, span_end=1) for word in dict.fromkeys(nouns(scene)))
    return ConfirmInput(
        key=key(0), image=file.getvalue(), width_px=64, height_px=48, nouns=words, candidates=candidates
    )


def flagged(planted: list[Planted], kind: str, score: str, limit: float) -> float:
    """Return the share of entities of a kind whose score is below the limit."""
    scores = [getattr(each.confirmation, score) for each in planted if each.kind == kind]
    return float(np.mean([each < limit for each in scores]))


def test_scores_tell_planted_errors_from_right_labels(
    planted: list[Planted], capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = Counter(each.kind for each in planted)
    shares = {
        (score, kind): flagged(planted, kind, score, limit)
        for score, limit in (("confirmed_iou", 0.5), ("label_quality", 0.75))
        for kind in kinds
    }
    with capsys.disabled():
        print(f"\n{dict(kinds)}", *(f"\n{kind}: {score} flags {share:.3f}" for (score, kind), share in shares.items()))
    assert shares["confirmed_iou", "moved"] >= 0.95
    assert shares["confirmed_iou", "swapped"] >= 0.95
    assert shares["confirmed_iou", "none"] <= 0.6
    assert shares["label_quality", "swapped"] >= 10 * shares["label_quality", "none"]


SHARDS = [f"shard-{number:05}" for number in range(6)]
ALL_LAYERS = ("images", "captions", "nouns", "detections", "entities")
CLEAN = CleanConfig(min_confirmed_iou=0.2)
"""In place of the dog the corner detector has a box of IoU .17, in place of the cat one of .29."""


def write_dataset(root: Path) -> None:
    rng = random.Random(5)
    for number, shard in enumerate(SHARDS):
        found = {40 * number + n: rng.choice([(DOG, CAT), (DOG,), (CAT,)]) for n in range(40)}
        labelled(root, found, {}, shard)


def confirm_and_finish(root: str, identity: str) -> None:
    """Make all files again with the second detector of this identity; the killed process runs this."""
    confirm = Step(
        stage=ConfirmStage(ConfirmConfig(enabled=True), load_corner_detector), reads=ALL_LAYERS, identity=identity
    )
    label_part(LabelingConfig(root=root, stale=Stale.REBUILD), confirm, SHARDS, identity)
    job = FinishJob(root=root, rules=RulesConfig(), layers=ALL_LAYERS, replace=True, clean=CLEAN, confirm=confirm)
    assert [job.make(shard).error for shard in SHARDS] == [None] * len(SHARDS)


def test_the_second_detector_killed_at_random_moments(tmp_path: Path) -> None:
    rng = random.Random(6)
    write_dataset(tmp_path / "killed")
    write_dataset(tmp_path / "undisturbed")
    confirm_and_finish(str(tmp_path / "undisturbed"), "last")
    command = (
        "import sys; from tests.integration.test_second_detector import confirm_and_finish\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for identity in 'ab': confirm_and_finish(sys.argv[1], identity)"
    )
    with Processes() as processes:
        for _ in range(KILLS):
            process = processes.start([sys.executable, "-c", command, str(tmp_path / "killed")], stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.05, 4.0))
            process.kill()
            process.wait()
            check_files(ShardStore(str(tmp_path / "killed")))
    confirm_and_finish(str(tmp_path / "killed"), "last")
    mine, other = (ShardStore(str(tmp_path / name)) for name in ("killed", "undisturbed"))
    reasons: Counter[str] = Counter()
    for shard in SHARDS:
        for layer, row in ((CONFIRMATIONS, Confirmations), ("ledger", LedgerRow)):
            assert list(mine.read(row, (layer,), shard)) == list(other.read(row, (layer,), shard))
        reasons.update(row.reason for row in mine.read(LedgerRow, ("ledger",), shard))
    assert reasons.keys() == {"", "unconfirmed"}
