"""Steps of a rehearsal: functions that run one part of the chain and return a note on the result.

Each is called in a process of its own, reads the files of the steps before it, and can be called again.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from infra.logs import setup_logs
from labeling.backends.load import load_captioner, load_detector, load_segmenter, load_tagger
from labeling.build import download_part, finish_part, label_part
from labeling.config import BoxRules, LabelingConfig, RulesConfig
from labeling.download.lists.url_list import plan_urls
from labeling.finish import FinishJob
from labeling.sdd import masks
from labeling.sdd.schema import Layer, State
from labeling.sdd.shards import ShardStore
from labeling.stages.caption import CaptionStage
from labeling.stages.detect import DetectStage
from labeling.stages.nouns import NounStage
from labeling.stages.segment import SegmentStage
from labeling.steps import Step, chain_stages
from miniature.scoring.true_layers import LAYERS, read_truth, write_truth
from miniature.untrained import write_networks
from miniature.world.scenes import ScenesConfig
from miniature.world.serve import TRUTH, WorldConfig, world_server, write_world
from model.config import ModelConfig
from model.pipeline import Subject, SubjectDiffusionPipeline
from model.sampling.denoising import seeded_generators
from tests.benchmarks.full_networks import write_full_networks
from tests.benchmarks.random_base import write_random_base
from tests.benchmarks.rehearsal_configs import STEPS, labeling_config, training_job
from tests.benchmarks.rehearsal_settings import Rehearsal, Scale
from tests.benchmarks.workload import workload
from tests.small_model import small_config
from training.cache.job import make_cache
from training.checkpoints.store import LATEST, Checkpoints
from training.config import TrainingJob
from training.distributed.parallel import Worker
from training.export import export as export_model
from training.job import run
from training.monitoring.metrics import read_metrics

PHOTOGRAPHS = 2
SIDES_PX = {Scale.FULL: (1152, 1400), Scale.SMALL: (256, 320)}
ALL_BOXES = BoxRules(min_aspect=0, max_aspect=1000, min_box_share=0, max_box_share=1, max_iou=1, max_repeats=99)


def run_step(step: str, rehearsal: Rehearsal) -> str:
    """Run the step of this name."""
    setup_logs()
    if rehearsal.scale is Scale.SMALL:
        torch.set_num_threads(1)  # a second thread costs small networks more than it saves
    return _WORK[step](rehearsal)


def photographs(rehearsal: Rehearsal) -> str:
    """Compose, serve and download two photographs, and write their true labels, on which the model trains."""
    for folder in (rehearsal.world, rehearsal.dataset, rehearsal.truth):
        shutil.rmtree(folder, ignore_errors=True)
    sides = SIDES_PX[rehearsal.scale]
    scenes = ScenesConfig(width_px=sides, height_px=sides, subjects=(1, 2), box_share=(0.15, 0.5))
    write_world(rehearsal.world, PHOTOGRAPHS, rehearsal.seed, WorldConfig(port=0, scenes=scenes, low_share=0.0))
    config = labeling_config(rehearsal)
    with world_server(rehearsal.world):
        shards = plan_urls(config)
        download_part(config, shards)
    _write_true_labels(rehearsal)
    return f"{_kept(rehearsal, Layer.IMAGES)} of {PHOTOGRAPHS} downloaded, {sides[0]} to {sides[1]} px"


def _write_true_labels(rehearsal: Rehearsal) -> None:
    downloaded, true = ShardStore(str(rehearsal.dataset)), ShardStore(str(rehearsal.truth))
    shutil.copytree(rehearsal.dataset / Layer.URLS, rehearsal.truth / Layer.URLS)
    write_truth(downloaded, true, read_truth(rehearsal.world / TRUTH), [layer.name for layer in LAYERS])
    rules = RulesConfig(**ALL_BOXES.model_dump() | {"min_score": 0, "min_mask_fill": 0})
    job = FinishJob(root=true.root, rules=rules, layers=(Layer.IMAGES, *(layer.name for layer in LAYERS)))
    for shard in true.shards(Layer.IMAGES):
        if (error := job.make(shard).error) is not None:
            raise RuntimeError(f"the true labels of {shard} cannot be written: {error}")


def labellers(rehearsal: Rehearsal) -> str:
    """Write the labelling networks."""
    shutil.rmtree(rehearsal.labellers, ignore_errors=True)
    if rehearsal.scale is Scale.FULL:
        write_full_networks(rehearsal.labellers, rehearsal.seed, torch.device("cpu"))
        return "BLIP-2 opt-2.7b in bfloat16, Grounding DINO Swin-T, SAM ViT-H"
    write_networks(rehearsal.labellers, rehearsal.seed)
    return "the small ones"


def captions(rehearsal: Rehearsal) -> str:
    """Caption the photographs and tag the nouns of their captions."""
    _label(rehearsal, "captions", "nouns")
    return f"{_kept(rehearsal, 'captions')} captions, {_kept(rehearsal, 'nouns')} with nouns"


def boxes(rehearsal: Rehearsal) -> str:
    """Detect the nouns."""
    _label(rehearsal, "detections")
    return f"boxes in {_kept(rehearsal, 'detections')} photographs"


def masks_and_rules(rehearsal: Rehearsal) -> str:
    """Mask the boxes, judge them, and write dataset and ledger."""
    config, steps, shards = _label(rehearsal, "entities")
    finish_part(config, steps, shards)
    work = workload(ShardStore(config.root), steps, shards, config.segment.floor)
    return f"{work.boxes} boxes, {work.masks} masks, {_kept(rehearsal, Layer.SDD)} rows in sdd/"


def networks(rehearsal: Rehearsal) -> str:
    """Write the base and the image encoder."""
    shutil.rmtree(rehearsal.networks, ignore_errors=True)
    model = ModelConfig() if rehearsal.scale is Scale.FULL else small_config(rehearsal.out / "small")
    write_random_base(rehearsal.networks, model, rehearsal.seed)
    return "Stable Diffusion 2 base, OpenCLIP ViT-H/14" if rehearsal.scale is Scale.FULL else "the small ones"


def cache(rehearsal: Rehearsal) -> str:
    """Encode a view of the dataset: the VAE's moments and the image encoder's features."""
    shutil.rmtree(rehearsal.truth / "cache", ignore_errors=True)
    make_cache(training_job(rehearsal, STEPS, cached=True), local=True)
    return "moments and features of a view"


def train(rehearsal: Rehearsal) -> str:
    """Train from the first step on."""
    shutil.rmtree(rehearsal.training, ignore_errors=True)
    run(training_job(rehearsal, STEPS), local=True)
    return _losses(training_job(rehearsal, STEPS))


def resume(rehearsal: Rehearsal) -> str:
    """Train one more step from the checkpoint."""
    job = training_job(rehearsal, STEPS + 1)
    if Checkpoints(rehearsal.training, 1, Worker()).latest() is None:
        raise RuntimeError(f"{rehearsal.training} has no checkpoint")
    run(job, LATEST, local=True)
    return _losses(job)


def train_cached(rehearsal: Rehearsal) -> str:
    """Train one step from the cache."""
    shutil.rmtree(rehearsal.training_cached, ignore_errors=True)
    job = training_job(rehearsal, 1, cached=True)
    run(job, local=True)
    return _losses(job)


def export(rehearsal: Rehearsal) -> str:
    """Write the last checkpoint's model as a folder."""
    shutil.rmtree(rehearsal.model, ignore_errors=True)
    last = Checkpoints(rehearsal.training, 1, Worker()).latest()
    if last is None:
        raise RuntimeError(f"{rehearsal.training} has no checkpoint")
    export_model(last, rehearsal.model)
    return f"{last.name} in float32"


def sample(rehearsal: Rehearsal) -> str:
    """Generate an image of one subject of each photograph with the exported model."""
    pipeline = SubjectDiffusionPipeline.from_pretrained(rehearsal.model)
    subjects = _subjects(rehearsal)
    places = ("on the beach", "in the snow")
    prompts = [f"a photo of a {one.label} {place}" for one, place in zip(subjects, places, strict=True)]
    rehearsal.pictures.mkdir(exist_ok=True)
    result = pipeline(
        prompts,
        [[subject] for subject in subjects],
        num_inference_steps=rehearsal.sampling_steps,
        generator=seeded_generators(range(len(subjects))),
    )
    for number, image in enumerate(result.images, 1):
        if np.ptp(np.asarray(image)) == 0:
            raise RuntimeError(f"picture {number} has only one colour")
        image.save(rehearsal.pictures / f"{number}.png")
    return f"{len(prompts)} pictures of {image.width} px, {rehearsal.sampling_steps} steps"


def _subjects(rehearsal: Rehearsal) -> list[Subject]:
    """Return the largest subject of each photograph."""
    subjects = []
    for truth in read_truth(rehearsal.world / TRUTH).values():
        photograph = Image.open(rehearsal.world / "images" / truth.url.rpartition("/")[-1])
        largest = max(truth.subjects, key=lambda subject: masks.area_px(subject.mask))
        mask = masks.decode(largest.mask, truth.height_px, truth.width_px).astype(bool)
        subjects.append(Subject(photograph, largest.label, mask))
    return subjects


def _label(rehearsal: Rehearsal, *stages: str) -> tuple[LabelingConfig, Sequence[Step], Sequence[str]]:
    """Run stages on the photographs. Stamps leave out the hashes of the networks, which only this folder uses."""
    config = labeling_config(rehearsal)
    chained = (
        CaptionStage(config.caption, load_captioner),
        NounStage(config.nouns, load_tagger),
        DetectStage(config.detect, load_detector),
        SegmentStage(config.segment, load_segmenter),
    )
    steps = chain_stages([(stage, "rehearsal") for stage in chained])
    shards = ShardStore(config.root).shards(Layer.IMAGES)
    for step in steps:
        if step.stage.name in stages:
            label_part(config, step, shards, "rehearsal")
    return config, steps, shards


def _kept(rehearsal: Rehearsal, layer: str) -> int:
    """Return the number of rows that a layer kept."""
    store = ShardStore(str(rehearsal.dataset))
    stamps = [store.stamp(layer, shard) for shard in store.shards(Layer.IMAGES)]
    return sum(stamp.counts.get(State.KEPT, 0) for stamp in stamps if stamp)


def _losses(job: TrainingJob) -> str:
    lines = read_metrics(Path(job.training.out))
    return ", ".join(f"step {line['step']}: loss {line['loss']:.3f}" for line in lines)


_WORK = {
    "photographs": photographs,
    "labellers": labellers,
    "captions": captions,
    "boxes": boxes,
    "masks": masks_and_rules,
    "networks": networks,
    "cache": cache,
    "train": train,
    "resume": resume,
    "train cached": train_cached,
    "export": export,
    "sample": sample,
}
