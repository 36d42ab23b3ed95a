"""What the small networks are trained on, against the scenes that it was made of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from labeling.backends.grounding_dino.prompt import NO_LABEL
from labeling.backends.sam.huggingface import SamHfSegmenter
from labeling.config import Device, SegmentConfig
from labeling.sdd.schema import Box
from miniature.networks.sam import SIZES as SAM
from miniature.networks.vocabulary import caption_vocabulary, detection_vocabulary
from miniature.training import blip2, grounding_dino, sam
from miniature.training.boxes import IGNORED, NO_OWNER, SIDES, box_terms, cell_centres, cell_owners, peaks, priors
from miniature.training.train import Phase, optimisers, train
from miniature.world.backgrounds import PATTERNS, UNTAUGHT
from miniature.world.names import labelled_names
from miniature.world.scenes import Scene, ScenesConfig, compose, phrases
from miniature.world.sprites import sprites

SEED, SIZE = (9, 0, 7), 4
FINE = SIDES[0] ** 2


def scenes(config: ScenesConfig) -> list[Scene]:
    return [compose((*SEED, i), config) for i in range(SIZE)]


@pytest.fixture(scope="module")
def captions() -> blip2.CaptionData:
    return blip2.CaptionData(caption_vocabulary(phrases()))


@pytest.fixture(scope="module")
def detections() -> grounding_dino.DetectionData:
    return grounding_dino.DetectionData(detection_vocabulary(phrases()), distractors=4)


def test_250_names_and_no_held_out_one() -> None:
    held_out = {s.name for s in sprites() if s.held_out}
    assert len(set(labelled_names())) == len(labelled_names()) >= 250
    assert not held_out & set(labelled_names())
    shown = (sam.SCENES, sam.TEXTURED, grounding_dino.SCENES, grounding_dino.CROWDED, blip2.SCENES, blip2.CROWDED)
    for config in shown:
        assert not held_out & {s.sprite.name for scene in scenes(config) for s in scene.subjects}
        assert not {*UNTAUGHT, *PATTERNS} & {*config.backgrounds}


def test_sams_masks_lie_in_its_boxes() -> None:
    """Both reach the network at its own scale, also where the picture is wide or tall and padded."""
    batch = sam.SamData(boxes=3, jitter=0.0)(SEED, SIZE)
    per_cell = SAM.image_px / sam.MASK_PX
    for boxes, masks in zip(batch["boxes"], batch["masks"], strict=True):
        for (x0, y0, x1, y1), mask in zip(boxes.tolist(), masks, strict=True):
            rows, columns = mask.amax(1).nonzero()[:, 0], mask.amax(0).nonzero()[:, 0]
            seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert [float(edge) * per_cell for edge in seen] == pytest.approx([x0, y0, x1, y1], abs=1.5 * per_cell)
    assert (batch["masks"] <= batch["subjects"][:, None] + 1e-6).all()


def test_sams_pixels_are_padded_where_the_picture_ends() -> None:
    batch = sam.SamData(boxes=1, jitter=0.0)(SEED, SIZE)
    for pixels, scene in zip(batch["pixels"], scenes(sam.SCENES), strict=True):
        height, width = (round(side * SAM.image_px / max(scene.image.shape[:2])) for side in scene.image.shape[:2])
        assert not pixels[:, height:].any()
        assert not pixels[:, :, width:].any()
        assert pixels[:, : height - 1, : width - 1].abs().sum(0).bool().float().mean() > 0.99


def test_mask_terms_are_least_for_the_truth() -> None:
    batch = sam.SamData(boxes=2, jitter=0.0)(SEED, SIZE)
    truth = (batch["masks"] > 0.5).float()  # whole cells: what an edge has of a cell no logit of ±10 says
    right = 20 * truth - 10

    def total(logits: Tensor) -> float:
        return float(torch.stack(list(sam.mask_terms(logits, truth, batch["boxes"]).values())).sum())

    assert total(right) < 0.01
    assert total(right.transpose(-1, -2)) > total(right) + 1
    assert total(right.roll(8, -1)) > total(right) + 1


def test_a_share_of_sams_boxes_is_exact() -> None:
    boxes = {share: sam.SamData(40, 0.08, exact_share=share)(SEED, SIZE)["boxes"] for share in (0.0, 0.5, 1.0)}
    exact = sam.SamData(40, 0.0)(SEED, SIZE)["boxes"]
    assert [float((b == exact).all(-1).float().mean()) for b in boxes.values()] == pytest.approx([0, 0.5, 1], abs=0.15)
    first, before = boxes[0.5][0], boxes[0.0][0]
    jittered = (first != exact[0]).any(-1)
    assert torch.equal(first[jittered], before[jittered])


def test_the_border_term_sees_cells_near_both_subjects_alone() -> None:
    mine, other = torch.zeros(1, 1, 96, 96), torch.zeros(1, 1, 96, 96)
    mine[..., 20:40, 20:40], other[..., 20:40, 40:60] = 1, 1
    both = (mine + other)[:, 0]
    right = 20 * mine - 10

    def term(logits: Tensor) -> float:
        return float(sam.border_term(logits, mine, both))

    assert term(right) < 0.001
    far, near = right.clone(), right.clone()
    far[..., 20:40, 20:30], near[..., 30, 38] = -10, -10
    far[..., 20:40, 50:60] = 10
    assert term(far) == pytest.approx(term(right), abs=1e-6)
    assert term(near) > 0.01
    assert float(sam.border_term(right, mine, mine[:, 0])) == 0


def sam_config(phase: sam.SamPhase, **phases: sam.SamPhase) -> sam.SamConfig:
    names = ("everything", "crowded", "decoder", "textured", "settled")
    return sam.SamConfig(seed=5, validation_scenes=2, **{name: phases.get(name, phase) for name in names})


def test_the_textured_phase_of_sam_ends_with_the_average_of_its_steps() -> None:
    averaged = sam.SamPhase(steps=1, learning_rate=1e-3, average_decay=0.9)
    phase, task = sam.Training(sam_config(averaged)).tasks()[3]
    before = task.net.mask_decoder.iou_token.weight.detach().clone()
    trained = {p for optimiser in optimisers(task, phase) for group in optimiser.param_groups for p in group["params"]}
    assert isinstance(task, sam.SamTask)
    assert task.average is not None
    assert not trained & {*task.average.parameters()}
    batch = task.data(SEED, 1)
    for _ in range(2):
        task.loss(batch)
        with torch.no_grad():
            task.net.mask_decoder.iou_token.weight += 1.0
    task.finish()
    moved = task.net.mask_decoder.iou_token.weight - before
    assert torch.allclose(moved, torch.full_like(moved, 1 - 2 / 11), atol=1e-5)  # the second update has a share of 9/11


def test_a_recipe_runs_to_a_folder_that_its_backend_loads_the_same_each_time(tmp_path: Path) -> None:
    short = sam.SamPhase(steps=2, batch_size=2, learning_rate=1e-3, muon_rate=1e-3)
    frozen = short.model_copy(update={"rates": {"vision_encoder": 0.0}})
    crowded = short.model_copy(update={"owner_weight": 1.0})
    textured = crowded.model_copy(update={"border_weight": 1.0, "exact_share": 0.5, "average_decay": 0.5})
    config = sam_config(short, crowded=crowded, decoder=frozen, textured=textured)
    figures = []
    for name in ("one", "same"):
        figures.append(train(sam.Training(config), config.seed, tmp_path / name))
    weights = [(tmp_path / name / "weights" / "model.safetensors").read_bytes() for name in ("one", "same")]
    assert weights[0] == weights[1]
    assert figures[0] == figures[1]
    SamHfSegmenter(SegmentConfig(checkpoint=str(tmp_path / "one" / "weights"), device=Device.CPU))


def test_a_cell_answers_for_the_box_around_it() -> None:
    boxes = torch.tensor([[0.25, 0.25, 0.4, 0.4], [0.75, 0.5, 0.3, 0.8], [0.26, 0.26, 0.1, 0.1]])
    owner = cell_owners(boxes)
    middle = torch.tensor([0.72, 0.48])
    assert owner[(cell_centres()[:FINE] - middle).square().sum(1).argmin()] == 1
    assert owner[(cell_centres()[:FINE] - boxes[2, :2]).square().sum(1).argmin()] == 2
    away = (cell_centres()[:, None] - boxes[None, :, :2]).abs() / boxes[None, :, 2:]
    inside = (away < 0.5).all(-1).any(-1)
    assert (owner[~inside & (owner < 0)] == NO_OWNER).all()
    assert (owner[inside & (owner < 0)] == IGNORED).all()


def test_peaks_are_at_the_centres() -> None:
    boxes = torch.tensor([[0.2, 0.7, 0.1, 0.2], [0.6, 0.4, 0.5, 0.3]])
    found = peaks(boxes)
    assert found.cells[0] < FINE <= found.cells[1]
    assert ((cell_centres()[found.cells] - boxes[:, :2]).abs() <= torch.tensor([[0.5 / 12], [0.5 / 6]]) + 1e-6).all()
    assert (found.nearness.argmax(1)[0], found.nearness[1, found.cells[1]] > 0.5) == (found.cells[0], True)


def test_priors_are_the_detectors_own_proposals() -> None:
    net = grounding_dino.GroundingDinoForObjectDetection(grounding_dino.architecture(detection_vocabulary(phrases())))
    cells, width = len(cell_centres()), grounding_dino.SIZES.width
    shapes = [(side, side) for side in SIDES]
    own = net.model.generate_encoder_output_proposals(
        torch.zeros(1, cells, width), torch.zeros(1, cells).bool(), shapes
    )
    inside = own[1].isfinite().all(-1)[0]
    assert inside.sum() > 100
    assert torch.allclose(own[1][0].sigmoid()[inside], priors()[inside], atol=1e-5)


def test_prompts_ask_for_what_the_boxes_hold(detections: grounding_dino.DetectionData) -> None:
    batch = detections(SEED, SIZE)
    tokenizer = detections.writer._tokenizer
    absent = 0
    for i, scene in enumerate(scenes(grounding_dino.SCENES)):
        labels = {s.label: s for s in scene.subjects}
        height, width = scene.image.shape[:2]
        for box, tokens in zip(batch.boxes[i], batch.tokens[i], strict=True):
            word = tokenizer.decode(batch.prompts.token_ids[i][tokens.bool()])
            true = labels[word].box
            cx, cy, w, h = (box * torch.tensor([width, height, width, height])).tolist()
            assert Box(x0=cx - w / 2, y0=cy - h / 2, x1=cx + w / 2, y1=cy + h / 2).iou(true) > 0.999
        asked = batch.prompts.owners[i].unique()
        absent += int((asked != NO_LABEL).sum()) - len(batch.boxes[i])
        assert [labelled_names()[n] for n in batch.all_names[i]] == [s.sprite.name for s in scene.subjects]
    assert absent > 0


def test_all_heads_of_the_detector_learn(detections: grounding_dino.DetectionData) -> None:
    """The shipped loss gives the heads that propose boxes no gradient."""
    config = grounding_dino.GroundingDinoConfig(
        seed=1,
        backbone=grounding_dino.Phase(steps=1, learning_rate=1e-3),
        detector=grounding_dino.Phase(steps=1, learning_rate=1e-3),
    )
    torch.manual_seed(0)
    training = grounding_dino.Training(config)
    task = training.tasks()[1][1]
    torch.stack(list(task.loss(detections(SEED, SIZE)).values())).sum().backward()
    silent = {name for name, p in task.net.named_parameters() if p.grad is None or not p.grad.any()}
    first_box = "model.encoder_output_bbox_embed.layers.2"  # those before it wait, as it starts at 0
    heads = ("model.enc_output.", "model.enc_output_norm.", "model.query_position_embeddings.", first_box)
    assert not {name for name in silent if name.startswith(heads)}


def test_decoder_terms_are_least_for_the_truth_in_any_order(detections: grounding_dino.DetectionData) -> None:
    batch = detections(SEED, SIZE)
    count, length = sum(map(len, batch.boxes)), batch.prompts.token_ids.shape[1]
    logits, boxes = torch.full((SIZE, 12, length), -9.0), torch.full((SIZE, 12, 4), 0.5)
    for i, (own, tokens) in enumerate(zip(batch.boxes, batch.tokens, strict=True)):
        places = torch.randperm(12)[: len(own)]
        boxes[i, places], logits[i, places] = own, 18 * tokens - 9
    right = grounding_dino.decoder_terms(logits, boxes, batch, count)
    assert all(float(term) < 1e-3 for term in right.values())
    swapped = grounding_dino.decoder_terms(logits, boxes[..., [1, 0, 3, 2]], batch, count)
    assert float(swapped["distance"]) > 0.1


def test_box_terms_of_equal_boxes_are_0() -> None:
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.1]])
    assert [float(term) for term in box_terms(boxes, boxes)] == pytest.approx([0, 0], abs=1e-4)
    assert float(box_terms(boxes, boxes + 0.1)[0]) == pytest.approx(0.4)


def test_captions_are_scored_to_their_end_and_nothing_else_is(captions: blip2.CaptionData) -> None:
    batch = captions(SEED, SIZE)
    for i, scene in enumerate(scenes(blip2.SCENES)):
        said = batch.labels[i][batch.labels[i] != blip2.UNSCORED]
        assert captions.tokenizer.decode(said[:-1]) == scene.caption
        assert said[-1] == captions.tokenizer.eos_token_id
        given = batch.token_ids[i][: len(captions.context) + 1].tolist()
        assert given == [*captions.context, captions.tokenizer.bos_token_id]


def test_patches_name_what_they_show(captions: blip2.CaptionData) -> None:
    batch = captions(SEED, SIZE)
    names = list(captions.index)
    for patches, scene in zip(batch.patches, scenes(blip2.SCENES), strict=True):
        shown = {names[index] for index in patches.tolist() if index != blip2.UNSCORED}
        assert shown == {scene.background, *(s.sprite.name for s in scene.subjects)}
        height, width = scene.image.shape[:2]
        for subject in scene.subjects:
            at = np.flatnonzero(patches.numpy() == captions.index[subject.sprite.name])
            x, y = cell_centres()[at].mean(0).tolist()
            box = subject.box
            assert box.x0 < x * width < box.x1
            assert box.y0 < y * height < box.y1


def test_names_are_least_wrong_for_the_truth(captions: blip2.CaptionData) -> None:
    patches = captions(SEED, SIZE).patches
    right = 20 * torch.nn.functional.one_hot(patches.clamp(min=0), len(captions.index)).float()
    assert all(term < 0.01 for term in blip2.named_terms(right, patches).values())
    assert all(term > 1 for term in blip2.named_terms(right.roll(1, dims=2), patches).values())


def test_the_last_phase_of_the_captioner_teaches_the_image_encoder_names(captions: blip2.CaptionData) -> None:
    phase = Phase(steps=1, learning_rate=1e-3)
    config = blip2.Blip2Config(seed=5, vision=phase, language=phase, together=phase, named=phase, validation_scenes=2)
    recipe = blip2.Training(config)
    (_, before), (_, last) = recipe.tasks()[2:]
    batch = captions(SEED, SIZE)
    terms = last.loss(batch)
    assert torch.equal(terms["words"], before.loss(batch)["words"])
    terms["names"].backward()
    seen = recipe.net.vision_model.embeddings.patch_embedding.weight.grad
    assert seen is not None
    assert seen.abs().sum() > 0
