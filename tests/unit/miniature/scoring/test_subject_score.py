"""What a trained model is asked for, and that what is left out is left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from miniature.networks import base, image_encoder, latent
from miniature.networks.judge import load_embedder
from miniature.networks.text import tokenizer
from miniature.scoring.cases import COUNT, cases, exchange_references, sprites_of
from miniature.scoring.score_options import SAMPLING, WITHOUT, LeftOut, PlaceHint, SubjectSet
from miniature.scoring.search import recall_hits_anywhere
from miniature.scoring.subject_score import draw_sheet, gallery, generate, make_batch, recall_hits
from miniature.world.names import labelled_names
from miniature.world.scenes import phrases
from model.config import ModelConfig
from model.subject_diffusion import SubjectDiffusion
from model.weights.folders import load_base_unet

WEIGHTS = Path(base.__file__).parents[1] / "weights"
COMMITTED = WEIGHTS / "subject_diffusion"
QUICK = SAMPLING.model_copy(update={"steps": 2})
OPEN = {"patch_positions": True, "keys_start_as_queries": True, "gate_start": 1.0}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> SubjectDiffusion:
    """Untrained, but for open gates and a location mask that matters."""
    folder: Path = tmp_path_factory.mktemp("base")
    tokens = tokenizer(phrases())
    base.save(base.build(tokens, 1), tokens, latent.build(1), folder / "base")
    image_encoder.save(image_encoder.build(1), folder / "image_encoder")
    config = ModelConfig.model_validate(
        {
            "base": str(folder / "base"),
            "image_encoder": str(folder / "image_encoder"),
            "max_subjects": 2,
            "attention_downsampling": (1, 2),
            "departures": OPEN,
        }
    )
    made = SubjectDiffusion.from_base(config).eval().requires_grad_(False)
    torch.nn.init.normal_(made.unet.base.conv_in.weight[:, -1], std=0.5)
    return made


@pytest.mark.parametrize("who", SubjectSet)
def test_every_subject_is_asked_for_once_in_a_round(who: SubjectSet) -> None:
    asked = [case.subjects[0].sprite for case in cases(1, asked=who)]
    assert asked == sprites_of(who)[:COUNT]
    assert len({sprite.name for sprite in asked}) == COUNT


def test_settings_are_chosen_on_subjects_that_are_not_reported_and_that_no_dataset_has() -> None:
    untaught, held_out = (
        {sprite.name for sprite in sprites_of(who)} for who in (SubjectSet.UNTAUGHT, SubjectSet.HELD_OUT)
    )
    assert not untaught & (held_out | set(labelled_names()))


@pytest.mark.parametrize("subjects", [1, 2, 3])
def test_a_prompt_calls_each_subject_by_a_word_of_its_own(subjects: int) -> None:
    for case in cases(subjects):
        labels = [wanted.label for wanted in case.subjects]
        assert len(case.subjects) == subjects == len(set(labels))
        assert labels == [wanted.sprite.class_word for wanted in case.subjects]
        assert all(label in case.prompt for label in labels)


def test_a_reference_is_not_what_is_wanted() -> None:
    """Its pose is another one: the outlines, brought to one size, differ."""
    for case in list(cases(1))[:10]:
        (wanted,) = case.subjects
        outlines = [_filled(mask) for mask in (wanted.mask, wanted.place)]
        assert (outlines[0] != outlines[1]).mean() > 0.005


def test_references_are_exchanged_and_words_and_places_stay() -> None:
    case = next(iter(cases(2)))
    exchanged = exchange_references(case)
    for one, other, at in zip(case.subjects, reversed(case.subjects), exchanged.subjects, strict=True):
        assert (at.label, at.box, at.place is one.place) == (one.label, one.box, True)
        assert (at.sprite, at.image is other.image, at.mask is other.mask) == (other.sprite, True, True)
    assert exchanged.prompt == case.prompt


def test_a_subject_is_found_anywhere_in_its_own_picture_only() -> None:
    asked = list(cases(1))[:4]
    embedder, sprites = load_embedder(WEIGHTS / "embedder"), sprites_of(SubjectSet.HELD_OUT)
    looks = {sprite.name: look for sprite, look in zip(sprites, gallery(embedder, sprites), strict=True)}
    pictures = [case.picture.image for case in [*asked[:3], asked[0]]]
    assert recall_hits_anywhere(embedder, looks, pictures, asked) == [[True], [True], [True], [False]]


def test_the_embedder_finds_the_subjects_of_each_picture() -> None:
    """Of four scenes, the last with the picture of the first: its two are found in none of it."""
    asked = list(cases(2))[:4]
    embedder, sprites = load_embedder(WEIGHTS / "embedder"), sprites_of(SubjectSet.HELD_OUT)
    looks = {sprite.name: look for sprite, look in zip(sprites, gallery(embedder, sprites), strict=True)}
    pictures = [case.picture.image for case in [*asked[:3], asked[0]]]
    assert recall_hits(embedder, looks, pictures, asked) == [[True, True]] * 3 + [[False, False]]


def _filled(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    y, x = (np.linspace(0, size - 1, 64).astype(int) for size in inside.shape)
    return inside[np.ix_(y, x)]


def _share_of_bounds(mask: np.ndarray) -> float:
    return float(mask.sum() / (mask.any(0).sum() * mask.any(1).sum()))


def test_boxes_and_masks_are_at_one_place(net: SubjectDiffusion) -> None:
    batch = make_batch(net, list(cases(2))[:4], np.random.default_rng(0))
    for box, mask in zip(batch.boxes.flatten(0, 1), batch.masks.flatten(0, 1), strict=True):
        rows, columns = (mask > 0).any(1).nonzero(), (mask > 0).any(0).nonzero()
        found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 16
        assert (found - box).abs().max() <= 1 / 16


def test_a_box_alone_is_marked_by_the_outline_of_the_reference_or_as_a_whole(net: SubjectDiffusion) -> None:
    asked, rng = list(cases(1))[:6], np.random.default_rng(0)
    outline, box, filled, auto, nothing = (make_batch(net, asked, rng, given) for given in PlaceHint)
    assert torch.equal(filled.boxes, outline.boxes)
    assert (box.boxes[..., :2] >= outline.boxes[..., :2] - 1e-6).all()
    assert (box.boxes[..., 2:] <= outline.boxes[..., 2:] + 1e-6).all()
    sides = box.boxes[..., 2:] - box.boxes[..., :2]
    covered = (box.masks.mean((2, 3)) / sides.prod(-1)).flatten().tolist()
    assert covered == pytest.approx([_share_of_bounds(case.subjects[0].mask) for case in asked], abs=1e-3)
    assert not any(torch.equal(one, other) for one, other in zip(box.masks, outline.masks, strict=True))
    assert (filled.masks.sum((2, 3)) > box.masks.sum((2, 3))).all()
    assert set(filled.masks.unique().tolist()) == {0.0, 1.0}
    assert auto.masks.flatten(1).any(1).all()
    assert (auto.boxes != outline.boxes).any(-1).all(), "the layout knows nothing of the scene's places"
    assert not nothing.masks.any()
    assert nothing.boxes.unique(dim=0).tolist() == [[[0.0, 0.0, 1.0, 1.0]]]


def test_each_condition_that_is_left_out_changes_the_picture(net: SubjectDiffusion) -> None:
    asked = list(cases(1))[:2]
    made = {name: generate(net, asked, QUICK, without) for name, without in WITHOUT.items()}
    assert all(np.array_equal(a, b) for a, b in zip(made[LeftOut.NOTHING], generate(net, asked, QUICK), strict=True))
    for one in (LeftOut.ADAPTER, LeftOut.CLS, LeftOut.MASK):
        assert not np.array_equal(made[LeftOut.NOTHING][0], made[one][0])


def test_with_all_left_out_no_picture_knows_its_subject(net: SubjectDiffusion) -> None:
    one, other, *_ = cases(1)
    given = replace(one.subjects[0], image=other.subjects[0].image, mask=other.subjects[0].mask)
    swapped = replace(one, subjects=(given,))
    for name, equal in ((LeftOut.NOTHING, False), (LeftOut.ALL, True)):
        pair = [generate(net, [case], QUICK, WITHOUT[name])[0] for case in (one, swapped)]
        assert np.array_equal(*pair) == equal


def test_a_sheet_shows_references_above_pictures(net: SubjectDiffusion) -> None:
    asked = list(cases(2))[:3]
    made = [np.full((64, 64, 3), 9, np.uint8)] * 3
    assert draw_sheet(made, asked, columns=2).shape == (2 * 3 * 64, 2 * 64, 3)


def test_the_committed_model_finds_the_base_that_eq_4_mixes_it_with() -> None:
    net = SubjectDiffusion.from_pretrained(COMMITTED)
    assert Path(net.config.base) == WEIGHTS / "base"
    theirs = load_base_unet(net.config).state_dict()
    ours = net.unet.base.state_dict()
    assert {name: ours[name].shape for name in theirs if name != "conv_in.weight"} == {
        name: weight.shape for name, weight in theirs.items() if name != "conv_in.weight"
    }
