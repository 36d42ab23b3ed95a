"""An evaluation from settings: make the images or find them, score them, write the reports."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.entities import cut_entities
from evaluation.benchmarks.references import reference_files
from evaluation.config import EvaluationConfig, SampleConfig
from evaluation.embedding_cache import EmbeddingCache
from evaluation.embeddings import Progress, embed_files
from evaluation.encoders.encoder import ImageEncoder
from evaluation.errors import EvaluationError
from evaluation.images import find_images
from evaluation.protocols import Protocol
from evaluation.ray_embedding import embed_on_ray
from evaluation.regions import SubjectDetector
from evaluation.report.report import evaluation_report, write_report
from evaluation.report.sweep import sweep_report
from evaluation.results import Evaluation, write_json
from evaluation.run import Embed, Submission, evaluate
from evaluation.scoring import References, input_index
from flows.evaluation.inputs import chosen_benchmark, chosen_protocols, photos_folder
from flows.evaluation.making import ImageFolder, benchmark_jobs, store_outcomes
from flows.evaluation.networks import load_networks
from flows.evaluation.self_test import SelfTest, run_self_test
from flows.generation.cutouts import SubjectCutter
from flows.generation.images import read_job
from flows.generation.job import GenerationJob
from flows.generation.jobs import Failure, JobLine, split_tasks
from flows.generation.machine import Machine
from flows.generation.options import Executor
from infra.report.document import Document


@dataclass(frozen=True)
class Terminal:
    """How an evaluation talks to its user."""

    say: Callable[[str], None]
    """Called with each remark."""
    images: Progress
    """Called with the number of images made, and of all."""
    files: Progress
    """Called with the number of embedded files, and of all."""


@dataclass(frozen=True)
class Session:
    """One run of `subject-diffusion evaluate`."""

    config: EvaluationConfig
    imitated: Sequence[str]
    """Published evaluators to imitate, each in a table of its own."""
    references: Path | None
    """Folder of the subjects' photos; None for that of the benchmark's file, or of SD_DREAMBENCH_DIR."""
    machine: Machine
    """The model, and where things run; `machine.out` is the folder of the results."""
    cache: Path
    """Folder of the embeddings' cache."""
    cutter: SubjectCutter
    """Cuts subjects out of their input photos."""
    detector: SubjectDetector | None
    """Finds subjects in the images; None to judge only the regions that were asked for."""
    terminal: Terminal

    def score_folder(self, images: Path, method: str) -> tuple[Path, Path]:
        """Score a folder of images and return the paths of its reports.

        Raises:
            EvaluationError: benchmark, protocol, images or weights are unusable.
        """
        benchmark, references = self._benchmark()
        protocols = chosen_protocols(self.config, self.imitated)
        networks = load_networks(protocols, self.config.encoders, self.machine.device, self.detector)
        submission = Submission(method, benchmark, find_images(images, benchmark, self.config.layout), references)
        evaluations = evaluate(submission, protocols, networks, self.machine.out, self.embed(protocols))
        return self._write(evaluations, evaluation_report(evaluations, references, _inputs(benchmark)))

    def make_and_score(self, method: str) -> tuple[Path, Path]:
        """Make the images of each setting, score them, and return the paths of the reports.

        Raises:
            EvaluationError: benchmark, protocol, images or weights are unusable.
            GenerationError: the model does not load, or an image cannot be written.
        """
        benchmark, references = self._benchmark()
        variants = self.config.sweep.variants(self.config.sample)
        protocols = chosen_protocols(self.config, self.imitated)
        networks = load_networks(protocols, self.config.encoders, self.machine.device, self.detector)
        scored = {}
        for name, sample in variants.items():
            folder = self.machine.out if len(variants) == 1 else self.machine.out / name
            self._make(benchmark, references, sample, folder / "images")
            title = method if len(variants) == 1 else f"{method}, {name}"
            submission = Submission(title, benchmark, find_images(folder / "images", benchmark), references)
            scored[name] = evaluate(submission, protocols, networks, folder, self.embed(protocols))
            document = evaluation_report(scored[name], references, _inputs(benchmark))
            reports = write_report(document, folder)
        if len(scored) == 1:
            write_json(next(iter(scored.values())), self.machine.out / "scores.json")
            return reports
        every = [one for evaluations in scored.values() for one in evaluations]
        return self._write(every, sweep_report(method, scored))

    def self_test(self) -> Iterator[SelfTest]:
        """Yield what each encoder finds on the photos themselves.

        Raises:
            EvaluationError: benchmark, photos or weights are unusable.
        """
        benchmark, references = self._benchmark()
        protocols = chosen_protocols(self.config, self.imitated)
        networks = load_networks(protocols, self.config.encoders, self.machine.device)
        yield from run_self_test(benchmark, references, protocols, networks, self.embed(protocols))

    def embed(self, protocols: Sequence[Protocol]) -> Embed:
        """Return what embeds files: in this process, or on Ray."""
        if self.machine.executor is Executor.LOCAL:
            return partial(embed_files, cache=EmbeddingCache(self.cache), on_progress=self.terminal.files)
        return partial(
            embed_on_ray,
            make_encoders=partial(_make_encoders, list(protocols), self.config, self.machine.device),
            cache=self.cache,
            workers=self.machine.workers,
            gpus=self.machine.on_gpus,
            on_progress=self.terminal.files,
        )

    def _benchmark(self) -> tuple[Benchmark, References]:
        benchmark = chosen_benchmark(self.config, self.machine.out)
        photos = photos_folder(benchmark, self.references)
        if any(subject.region is not None for subject in benchmark.subjects.values()):
            photos, benchmark = (
                self.machine.out / "entities",
                cut_entities(benchmark, photos, self.machine.out / "entities"),
            )
        return benchmark, reference_files(benchmark, photos)

    def _make(self, benchmark: Benchmark, references: References, sample: SampleConfig, folder: Path) -> None:
        """Make the images of one setting that do not exist."""
        images = ImageFolder(folder)
        failures: dict[str, str] = {}
        done = 0

        def show(part: float) -> None:
            self.terminal.images(done + int(part), benchmark.image_count)

        def read(line: JobLine) -> GenerationJob:
            return self.cutter.cut_subjects(read_job(line.job, line.folder))

        def fail(failure: Failure) -> None:
            failures[failure.source] = failure.message

        def count() -> None:
            nonlocal done
            done += 1

        chunks = split_tasks(benchmark_jobs(benchmark, references, sample), read, fail, self.machine.chunk_images)
        failures |= store_outcomes(self.machine.run_chunks(chunks, images.known, show), images, count)
        for case, message in failures.items():
            self.terminal.say(f"{case}: {message}")
        if len(failures) == len(benchmark.cases):
            raise EvaluationError("no case gave an image: mend what is named above")

    def _write(self, evaluations: Sequence[Evaluation], document: Document) -> tuple[Path, Path]:
        write_json(evaluations, self.machine.out / "scores.json")
        return write_report(document, self.machine.out)


def _make_encoders(protocols: Sequence[Protocol], config: EvaluationConfig, device: str | None) -> list[ImageEncoder]:
    return list(load_networks(protocols, config.encoders, device).images.values())


def _inputs(benchmark: Benchmark) -> Mapping[str, int]:
    return {name: input_index(subject) for name, subject in benchmark.subjects.items()}
