"""The miniature benchmark of `evaluate`: consistent, with photos in files; it tells right pictures from wrong ones."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.checks import refuse_inconsistent
from evaluation.benchmarks.references import reference_files
from evaluation.config import EvaluationConfig
from evaluation.embedding_cache import EmbeddingCache
from evaluation.embeddings import embed_files
from evaluation.images import find_images
from evaluation.run import Networks, Submission, evaluate
from flows.evaluation.inputs import chosen_benchmark, chosen_protocols
from flows.experiment import EvaluationExperiment
from infra.config import load
from miniature.scoring.benchmark import PHOTOS, miniature_benchmark
from miniature.scoring.cases import cases
from miniature.scoring.embedder_encoder import EMBEDDER, MINIATURE, EmbedderEncoder
from tests.sprite_benchmark import write

COUNT = 8


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return miniature_benchmark(tmp_path_factory.mktemp("miniature") / "photos", COUNT)


def test_it_is_consistent_and_has_all_photos(bench: Benchmark):
    refuse_inconsistent(bench)
    assert [len(case.subjects) for case in bench.cases] == [1] * COUNT + [2] * COUNT
    assert bench.images_folder is not None
    assert {len(own) for own in reference_files(bench, bench.images_folder).values()} == {PHOTOS}


def test_a_model_is_given_the_reference_of_the_case_with_its_mask(bench: Benchmark):
    asked = next(cases(1)).subjects[0]
    assert bench.images_folder is not None
    photo = np.asarray(Image.open(bench.images_folder / bench.subjects[bench.cases[0].subjects[0]].input_image))
    assert np.array_equal(photo[..., :3], asked.image)
    assert np.array_equal(photo[..., 3] > 0, asked.mask)
    assert bench.cases[0].boxes == (asked.box,)


def test_photos_that_exist_are_kept_and_missing_ones_are_written_alike(bench: Benchmark):
    assert bench.images_folder is not None
    (kept, lost) = (bench.images_folder / name for name in next(iter(bench.subjects.values())).images[:2])
    before, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    assert miniature_benchmark(bench.images_folder, COUNT) == bench
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == content


def missing_share(bench: Benchmark, pictures: list[np.ndarray], folder: Path) -> float:
    """Share of pictures in which a subject is missing."""
    for case, picture in zip(bench.cases, pictures, strict=True):
        write(folder / "images" / case.name / "0.png", picture)
    assert bench.images_folder is not None
    references = reference_files(bench, bench.images_folder)
    submission = Submission("scenes", bench, find_images(folder / "images", bench), references)
    networks = Networks({EMBEDDER: EmbedderEncoder(Path("miniature/weights/embedder"))})
    embed = partial(embed_files, cache=EmbeddingCache(folder / "cache"))
    (found,) = evaluate(submission, [MINIATURE], networks, folder / "out", embed)
    return found.figures["Missing"].value


def test_the_scenes_show_their_subjects_and_those_of_other_cases_do_not(bench: Benchmark, tmp_path: Path):
    requests = [case for number in (1, 2) for case, _ in zip(cases(number), range(COUNT), strict=False)]
    scenes = [case.picture.scene.image for case in requests]
    assert missing_share(bench, scenes, tmp_path / "right") < 0.2
    assert missing_share(bench, [*scenes[3:], *scenes[:3]], tmp_path / "wrong") > 0.8


def test_the_settings_name_it(tmp_path: Path):
    config: EvaluationConfig = load(EvaluationExperiment, "miniature", ["evaluation.cases=2"]).evaluation
    chosen = chosen_benchmark(config, tmp_path)
    assert chosen.name == "miniature, 2 of 120 cases"
    assert chosen.images_folder == tmp_path / "photos"
    assert chosen_protocols(config, []) == [MINIATURE]
    sweep = load(EvaluationExperiment, "miniature_sensitivity").evaluation
    assert sweep.benchmark == config.benchmark
    assert len(sweep.sweep.variants(sweep.sample)) == 22
