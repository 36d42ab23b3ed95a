"""The GPU script where there is no GPU: its full-size networks by their shapes, its clocks and counts on small ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    GroundingDinoForObjectDetection,
    OPTConfig,
    SamModel,
)

from infra.precision import Precision
from labeling.backends.grounding_dino.huggingface import GroundingDinoHfDetector
from labeling.backends.load import load_captioner
from labeling.config import BoxRules, CaptionConfig, DetectConfig, Device, LabelingConfig, SegmentConfig
from labeling.execution.report import ShardReport
from labeling.sdd.schema import Box, Detection, Detections, Noun
from labeling.stages.base import Drop
from labeling.stages.caption import CaptionInput, CaptionStage
from labeling.stages.detect import DetectInput, DetectStage
from labeling.stages.segment import SegmentInput, SegmentStage
from labeling.steps import steps_of
from miniature.networks import grounding_dino, sam
from miniature.networks.vocabulary import detection_vocabulary
from miniature.world.scenes import ScenesConfig, compose, phrases
from tests.benchmarks import full_networks, gpu_labeling
from tests.benchmarks.bare_stages import Bare, Boxes, Captions, Masks, same_boxes
from tests.benchmarks.device_rates import LibraryCaptioner, Rate, RecordedDetector, RecordedSegmenter, rate
from tests.benchmarks.labeling_report import end_to_end, pace, ratios
from tests.benchmarks.pipeline import Run
from tests.benchmarks.workload import workload
from tests.factories import SHARD, candidate, jpeg, key, labelled

CPU = torch.device("cpu")


def parameters(net: Any) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_full_size_is_the_published_size() -> None:
    """Millions of weights as the model cards give them: 3.74 B, 172.2 M (27.5 and 108.9 of them backbones), 641 M."""
    with torch.device("meta"):
        captioner = Blip2ForConditionalGeneration(full_networks.blip2_architecture())
        detector = GroundingDinoForObjectDetection(full_networks.grounding_dino_architecture())
        segmenter = SamModel(full_networks.sam_architecture())
    assert parameters(captioner) == 3_744_761_856
    assert parameters(detector) / 1e6 == pytest.approx(172.2, abs=0.1)
    assert parameters(detector.model.backbone) / 1e6 == pytest.approx(27.5, abs=0.1)
    assert parameters(detector.model.text_backbone) / 1e6 == pytest.approx(108.9, abs=0.1)
    assert parameters(segmenter) / 1e6 == pytest.approx(641.1, abs=0.1)


def small_blip2() -> Blip2Config:
    """As the full one but for its sizes: cross-attention in every other layer, more ids than the tokenizer has."""
    vision = Blip2VisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=56
    )
    qformer = Blip2QFormerConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, vocab_size=100
    )
    text = OPTConfig(
        vocab_size=4000,
        hidden_size=256,
        word_embed_proj_dim=256,
        ffn_dim=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=3900,
    )
    return Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=qformer.to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=8,
        image_token_index=3950,
    )


def test_captions_of_random_weights_have_one_length_and_known_words(tmp_path: Path) -> None:
    torch.manual_seed(0)
    full_networks.write_blip2(tmp_path, small_blip2(), CPU, torch.float32)
    config = CaptionConfig(checkpoint=str(tmp_path), device=Device.CPU, precision=Precision.FLOAT32, max_new_tokens=20)
    stage = CaptionStage(config, load_captioner)
    stage.setup()
    captions = [c.caption for c in stage.process([stage.prepare(row) for row in pixels(6)])]
    known = {word for phrase in (*phrases(), *full_networks.FILLERS) for word in phrase.split()}
    assert {word for caption in captions for word in caption.split()} <= known
    assert all(len(caption.split()) >= 20 for caption in captions)
    library = LibraryCaptioner(config)
    rate(CaptionStage(config, lambda _: library), library, [pixels(2)], seconds=0)
    assert library.tokens == 20


def test_overlaps_decide_how_many_boxes_the_detector_finds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = grounding_dino.Sizes(queries=100)
    full_networks.write_grounding_dino(tmp_path, grounding_dino.architecture(detection_vocabulary(phrases()), sizes))
    config = DetectConfig(checkpoint=str(tmp_path), device=Device.CPU)
    detector, every = GroundingDinoHfDetector(config), config.model_copy(update={"nms_iou": 1.0})
    images = [detector.prepare(scene(seed)) for seed in (11, 12)]
    labels = [["fox", "apple", "train", "drum"]] * len(images)
    kept = detector.detect(images, labels)
    scored = GroundingDinoHfDetector(every).detect(images, labels)
    for few, many in zip(kept, scored, strict=True):
        assert 0 < len(few) < len(many) / 2


def test_the_detectors_prompts_are_counted_with_their_padding(tmp_path: Path) -> None:
    words = detection_vocabulary(["a fox", "an apple", "a train"])
    grounding_dino.save(grounding_dino.build(words, 0), tmp_path, words)
    config = DetectConfig(checkpoint=str(tmp_path), device=Device.CPU)
    detector = RecordedDetector(config)
    rows = [tagged(1, "fox"), tagged(2, "fox", "apple", "train")]
    rated, outcomes = rate(DetectStage(config, lambda _: detector), detector, [rows, rows[:1]], seconds=0)
    assert detector.recording.batches == [2, 1]
    # [CLS] fox . [SEP] is padded to the 8 tokens of the other prompt, and not when it is alone.
    assert detector.recording.padding("prompt tokens") == pytest.approx(4 / 20)
    assert rated.images_per_call == 1.5
    assert len(outcomes) == 3


def test_images_that_the_floor_spares_are_rows_but_no_calls(tmp_path: Path) -> None:
    sam.save(sam.build(0), tmp_path)
    config = SegmentConfig(checkpoint=str(tmp_path), device=Device.CPU, precision=Precision.FLOAT32)
    segmenter = RecordedSegmenter(config)
    good, thin = Box(x0=0, y0=0, x1=100, y1=100), Box(x0=0, y0=0, x1=300, y1=10)
    rows = [detected(1, good), detected(2, thin), detected(3, good)]
    rated, _ = rate(SegmentStage(config, lambda _: segmenter), segmenter, [rows], seconds=0)
    assert segmenter.recording.batches == [2]
    assert len(segmenter.recording.calls) == 2  # encode, decode
    assert rated.rows_per_s / rated.images_per_s == pytest.approx(3 / 2)
    assert segmenter.recording.padding("pixels") == pytest.approx(0.5)  # of 400 x 200 in a square


def test_no_call_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    sam.save(sam.build(0), tmp_path)
    config = SegmentConfig(checkpoint=str(tmp_path), device=Device.CPU)
    segmenter = RecordedSegmenter(config)
    with pytest.raises(SystemExit, match="more --images"):
        rate(
            SegmentStage(config, lambda _: segmenter),
            segmenter,
            [[detected(1, Box(x0=0, y0=0, x1=300, y1=10))]],
            seconds=0,
        )


def test_same_boxes_by_hand() -> None:
    one, moved = found((0, 0, 100, 100)), found((0, 0, 100, 98))
    assert same_boxes([one], [one, moved]) == 1.0
    assert same_boxes([found((0, 0, 100, 100), (0, 0, 50, 50))], [one]) == 0.5
    assert same_boxes([one], [moved]) == 0.0  # IoU 0.98
    assert same_boxes([one], [found((0, 0, 100, 100), label="cat")]) == 0.0
    assert same_boxes([one], [Drop("no_box")]) == 0.0


def test_workload_by_hand(tmp_path: Path) -> None:
    """Of five images one has no box and one a thin one only; of the seven boxes three are thin, and have no mask."""
    dog = candidate((0, 0, 20, 20), size=(64, 48))
    cat = candidate((30, 0, 50, 20), label="cat", size=(64, 48))
    thin = replace(candidate((0, 0, 2, 40), size=(64, 48)), segment=None)
    store = labelled(tmp_path, {1: (dog,), 2: (dog, thin), 3: (dog, cat, thin), 4: (thin,), 5: ()}, {})
    counted = workload(store, steps_of(LabelingConfig(root=str(tmp_path))), [SHARD], BoxRules())
    assert (counted.images, counted.images_without_call) == (5, 2)
    assert (counted.boxes, counted.boxes_without_call) == (7, 3)
    assert dog.segment
    assert (counted.masks, counted.mask_bytes) == (4, 4 * len(dog.segment.mask.counts))
    assert counted.nouns == 5


def made(stage: str, *seconds: float, images: int = 10, start_s: float = 0.0) -> list[ShardReport]:
    """Reports of shards, the first of which loaded the network."""
    loads = [start_s] + [0.0] * (len(seconds) - 1)
    return [
        ShardReport(stage=stage, shard=str(n), counts={"kept": images}, seconds=s + load, start_s=load, process_s=s / 2)
        for n, (s, load) in enumerate(zip(seconds, loads, strict=True))
    ]


def alone(images_per_s: float) -> Rate:
    return Rate(images_per_s, images_per_s, images_per_call=4.0, first_batch_s=1.0, peak_gib=0.0)


BARE = Bare(
    captions=Captions(alone(10.0), alone(2.0), alone(5.0), tokens=20),
    nouns=alone(1000.0),
    boxes=Boxes(alone(20.0), alone(40.0), alone(4.0), same=1.0, padding=0.05),
    masks=Masks(alone(5.0), alone(0.5), None, padding=0.2),
)
RUN = Run(
    wall=20.0,
    finish=0.5,
    reports={
        "captions": made("captions", 3.0, 2.0, start_s=4.0),
        "nouns": made("nouns", 0.02, 0.02),
        "detections": made("detections", 1.0, 1.0, start_s=1.0),
        "entities": made("entities", 2.0, 2.0, start_s=1.0),
    },
)


def test_the_first_shard_and_loading_are_no_part_of_a_stages_pace() -> None:
    assert pace(RUN.reports["captions"]) == 5.0
    assert pace(made("captions", 4.0, start_s=9.0)) == 2.5  # the only shard


def test_end_to_end_by_hand() -> None:
    """20 images, 6 s of loading in 20 s. Alone the networks take 2, 0.02, 1 and 4 s; half of 11.04 s was network."""
    rate_, summed, slowest, idle, finish = end_to_end(RUN, BARE)
    assert rate_.value == f"{20 / 14:.2f}"
    assert (summed.value, summed.met) == (f"{7.02 / 14:.3f}", False)
    assert "entities" in slowest.what
    assert slowest.value == f"{4 / 14:.3f}"
    assert (idle.value, idle.met) == (f"{1 - 5.52 / 14:.3f}", False)
    assert (finish.value, finish.met) == (f"{0.5 / 14:.3f}", False)


def test_ratios_are_met_or_missed() -> None:
    """Captions: 10 of 2 and of 5; boxes: 20 and 40 of 4, all the same; masks: 5 of 0.5."""
    verdicts = [(figure.value, figure.met) for figure in ratios(BARE)]
    captions, boxes = [("5.000", False), ("2.000", True)], [("5.000", True), ("10.000", True), ("1.000", True)]
    assert verdicts == [*captions, *boxes, ("10.000", True)]


def test_a_short_list_of_scenes_is_named_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_labeling, "SCENES", 2)
    with gpu_labeling.served_world(gpu_labeling.Size.SMALL, tmp_path, 5):
        urls = pq.read_table(tmp_path / "urls.parquet")["URL"].to_pylist()
    assert len(urls) == 5
    assert len(set(urls)) == 2


@pytest.mark.slow
def test_the_small_size_runs_on_the_cpu_and_writes_its_page(tmp_path: Path) -> None:
    short = ["--device", "cpu", "--images", "16", "--sample", "8", "--seconds", "0"]
    gpu_labeling.main(["--size", "small", *short, "--out", str(tmp_path)])
    page = (tmp_path / gpu_labeling.RESULT).read_text()
    for words in ("| captions | 16 |", "| detections |", "| entities |", "end to end |", "same batches |", "≥ 0.9 |"):
        assert words in page
    assert "no rates of a GPU" in page


def scene(seed: int) -> Any:
    return compose(seed, ScenesConfig(width_px=(400, 400), height_px=(400, 400))).image


def pixels(count: int) -> list[CaptionInput]:
    return [CaptionInput(key=key(n), image=jpeg(n)) for n in range(1, count + 1)]


def tagged(number: int, *labels: str) -> DetectInput:
    nouns = tuple(Noun(label=label, span_start=0, span_end=len(label)) for label in labels)
    return DetectInput(key=key(number), image=jpeg(number), width_px=64, height_px=48, nouns=nouns)


def detected(number: int, box: Box) -> SegmentInput:
    detection = Detection(label="dog", span_start=0, span_end=3, score=0.9, box=box)
    image = jpeg(number, (400, 200))
    return SegmentInput(key=key(number), image=image, width_px=400, height_px=200, detections=(detection,))


def found(*boxes: tuple[float, float, float, float], label: str = "dog") -> Detections:
    shapes = [Box(x0=x0, y0=y0, x1=x1, y1=y1) for x0, y0, x1, y1 in boxes]
    return Detections(
        key=key(1), detections=tuple(Detection(label=label, span_start=0, span_end=3, score=0.9, box=b) for b in shapes)
    )
