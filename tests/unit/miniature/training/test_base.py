"""The recipes of the small Subject-Diffusion: what they are shown, and that they run to folders that load."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from infra.config import load
from miniature.networks import latent as latent_network
from miniature.networks.judge import CROP_PX, load_embedder, load_judge
from miniature.training import base, embedder, image_encoder, judge, latent, pictures, shape_embedder
from miniature.training.average import Average
from miniature.training.train import NETWORKS, Phase, train
from miniature.world.scenes import compose
from miniature.world.sprites import sprites
from model.config import ModelConfig
from model.subject_diffusion import SubjectDiffusion

SEED = (9, 0, 7)
SHORT = {"steps": 3, "batch_size": 2, "learning_rate": 1e-4, "warmup_steps": 1}


def commonest(**settings: Any) -> base.CommonestConfig:
    """As the recipe has it."""
    recipe = load(base.Settings, Path(base.__file__).with_suffix(".toml")).training.commonest
    return base.CommonestConfig(**{**dict(recipe), **settings})


HELD_OUT = {sprite.name for sprite in sprites() if sprite.held_out}
RECIPES = {
    "latent": latent,
    "image_encoder": image_encoder,
    "base": base,
    "judge": judge,
    "embedder": embedder,
    "shape_embedder": shape_embedder,
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_read_and_named(name: str) -> None:
    assert name in NETWORKS
    load(RECIPES[name].Settings, Path(RECIPES[name].__file__ or "").with_suffix(".toml"))


def test_nothing_is_trained_on_what_is_held_out() -> None:
    for scenes in (pictures.SCENES, base.COMMONEST, judge.SCENES):
        seen = {s.sprite.name for i in range(30) for s in pictures.scene_picture((5, i), scenes).scene.subjects}
        assert not HELD_OUT & seen
    recipe = load(embedder.Settings, Path(embedder.__file__).with_suffix(".toml")).training
    ((_, task),) = embedder.Training(recipe).tasks()
    for data in (image_encoder.Subjects(), task.data):
        assert not HELD_OUT & {sprite.name for sprite in data.pool}


def test_boxes_are_at_the_pictures_scale() -> None:
    one = pictures.scene_picture(SEED)
    for index, subject in enumerate(one.scene.subjects):
        box, own = one.box(index), subject.box
        assert (box.x1 - box.x0) / 64 == (own.x1 - own.x0) / one.scene.image.shape[1]
    assert one.image.shape == (64, 64, 3)
    assert one.scene.background in pictures.PLACES


def test_cutouts_are_on_white_and_fill_the_picture() -> None:
    for sprite in sprites()[:5]:
        cut = pictures.Cutouts()(sprite, np.random.default_rng(3))
        subject = (cut < 250).any(axis=2)
        assert max(np.ptp(np.flatnonzero(subject.any(axis=axis))) for axis in (0, 1)) >= 60
        assert 0.05 < subject.mean() < 0.95


def test_a_share_of_captions_is_empty() -> None:
    tokens = base.tokenizer(["a fox by the wall"])
    nothing = base.token_ids(tokens, [""])
    for share, empty in ((0.0, 0), (1.0, 6)):
        ids = base.CaptionedPictures(tokens, commonest(), share)(SEED, 6).token_ids
        assert int((ids == nothing).all(dim=1).sum()) == empty


def test_a_class_word_mostly_means_its_commonest_thing() -> None:
    tokens = base.tokenizer(compose((1, i)).caption for i in range(2))
    words = {sprite.name: f"{sprite.class_article} {sprite.class_word}" for sprite in sprites()}
    for share in (0.0, 1.0):
        batch = base.CaptionedPictures(tokens, commonest(share=share), 0.0)(SEED, 8)
        for i, (image, ids) in enumerate(zip(batch.images, batch.token_ids, strict=True)):
            common = base.COMMONEST.model_copy(update={"names": commonest().names})
            one = pictures.scene_picture((*SEED, i), common if share else pictures.SCENES)
            assert torch.equal(image, pictures.pixels([one.image])[0])
            assert torch.equal(ids, base.token_ids(tokens, [one.scene.caption])[0])
            if share:
                (subject,) = one.scene.subjects
                assert one.scene.caption.startswith(words[subject.sprite.name])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (lambda names: names[1:], "none or several for: animal"),
        (lambda names: (*names, "cat"), "none or several for: animal"),
        (lambda names: ("unicycle", *names), "no trained sprites: unicycle"),
    ],
)
def test_each_class_word_has_one_commonest_thing(names: Callable[[Any], Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        commonest(names=names(commonest().names))


def test_errors_count_more_where_subjects_are(latent_folder: Path) -> None:
    """Weights keep their mean, so an error that is the same everywhere stays as it is."""
    losses = []
    for weight in (1.0, 3.0):
        phase = base.BasePhase(**SHORT, subject_weight=weight)
        config = base.BaseConfig(
            seed=5, latent=latent_folder, commonest=commonest(), everything=phase, validation_scenes=1
        )
        ((_, task),) = base.Training(config).tasks()
        batch = task.data(SEED, 2)
        half = torch.zeros_like(batch.covered)
        half[:, :8] = 1.0
        errors = torch.full((2, 16, 16, 16), 2.0)
        errors[:, :, :8] = 6.0  # axes: image, channel, row, column
        task._error = lambda *_, errors=errors: errors
        losses.append(float(task.loss(batch._replace(covered=half))["velocity"]))
    assert losses == pytest.approx([4.0, (3 * 6 + 2) / 4])


def test_cells_are_covered_as_far_as_subjects_cover_them() -> None:
    for i in range(4):
        scene = pictures.scene_picture((*SEED, i)).scene
        seen = np.any([subject.mask for subject in scene.subjects], axis=0)
        shares = seen.reshape(16, 8, 16, 8).mean(axis=(1, 3))
        assert base._covered(scene, latent_network.SHAPE) == pytest.approx(shares, abs=1e-6)


def test_a_crop_is_the_square_around_the_box() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[10:40, 20:32] = 200
    cut = embedder.crop(image, embedder.Box(x0=20, y0=10, x1=32, y1=40))
    rows, columns = (np.flatnonzero((cut[..., 0] > 100).any(axis=axis)) for axis in (1, 0))
    middles = [(rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2]
    assert middles == pytest.approx([CROP_PX / 2] * 2, abs=0.6)
    assert len(rows) == pytest.approx(CROP_PX / 1.15, abs=1.5)
    assert len(rows) / len(columns) == pytest.approx(30 / 12, rel=0.15)


def test_words_are_found_among_as_many_as_there_are() -> None:
    logits = torch.tensor([0.1, 3.0, -1.0, 2.0])
    assert judge.word_hits(logits, [1]) == [True]
    assert judge.word_hits(logits, [3]) == [False]
    assert judge.word_hits(logits, [0, 3]) == [False, True]


def test_cells_say_what_they_show() -> None:
    """What covers most of a cell, its word and name; far from all subjects neither."""
    data = judge.JudgeData(judge.SCENES)
    batch = data(SEED, 6)
    names = list(data.sprites)
    for i, (words, named) in enumerate(zip(batch.cell_words, batch.cell_sprites, strict=True)):
        subjects = pictures.scene_picture((*SEED, i), judge.SCENES).scene.subjects
        assert {data.words[w] for w in words.unique().tolist() if 0 <= w < len(data.words)} == {
            subject.sprite.class_word for subject in subjects
        }
        side = subjects[0].mask.shape[0] // judge.CELLS
        for row, column in (words == len(data.words)).nonzero().tolist():
            cell = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
            assert sum(subject.mask[cell].mean() for subject in subjects) < 0.06
            assert named[row, column] == judge.IGNORED
        for row, column in (named >= 0).nonzero().tolist():
            cell = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
            most = max(subjects, key=lambda subject, cell=cell: subject.mask[cell].mean())
            assert names[named[row, column]] == most.sprite.name
            assert data.words[words[row, column]] == most.sprite.class_word


def test_the_average_follows_and_takes_the_networks_place() -> None:
    net = nn.Linear(2, 2)
    average = Average(net, decay=0.9)
    with torch.no_grad():
        net.weight += 1.0
    before = average.average.weight.clone()
    average.update(net)
    assert (average.average.weight > before).all()
    for _ in range(200):
        average.update(net)
    assert torch.allclose(average.average.weight, net.weight, atol=1e-4)
    with torch.no_grad():
        net.weight += 1.0
    average.copy_to(net)
    assert torch.equal(net.weight, average.average.weight)


@pytest.fixture(scope="module")
def latent_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latent") / "weights"
    net = latent_network.build(1)
    latent_network.fit(net, latent.Scenes()((1, 2), 16))
    latent_network.save(net.half(), folder)
    return folder


def test_the_latents_recipe_trains_the_decoder_alone(tmp_path: Path) -> None:
    config = latent.LatentConfig(seed=5, decoder=Phase(**SHORT), fitted_scenes=16, validation_scenes=2)
    recipe = latent.Training(config)
    encoder = {name: weight.clone() for name, weight in recipe.net.encoder.state_dict().items()}
    decoder = recipe.net.decoder.conv_in.weight.clone()
    train(recipe, config.seed, tmp_path)
    for name, weight in recipe.net.encoder.state_dict().items():
        assert torch.equal(weight.half(), encoder[name].half()), name
    assert not torch.equal(decoder.half(), recipe.net.decoder.conv_in.weight.half())


def test_base_and_image_encoder_run_to_folders_that_the_model_loads_nearly_the_same_each_time(
    latent_folder: Path, tmp_path: Path
) -> None:
    of_base = base.BaseConfig(
        seed=5,
        latent=latent_folder,
        commonest=commonest(),
        everything=base.BasePhase(**SHORT),
        validation_scenes=2,
    )
    of_images = image_encoder.EncoderConfig(seed=5, everything=image_encoder.EncoderPhase(**SHORT), validation_poses=2)
    nets = []
    for name in ("one", "same"):
        train(base.Training(of_base), of_base.seed, tmp_path / name / "base")
        train(image_encoder.Training(of_images), of_images.seed, tmp_path / name / "image_encoder")
        folders = {part: str(tmp_path / name / part / "weights") for part in ("base", "image_encoder")}
        nets.append(SubjectDiffusion.from_base(ModelConfig(**folders, attention_downsampling=(1, 2))))
    for name, weight in nets[0].unet.base.state_dict().items():
        assert torch.allclose(weight, nets[1].unet.base.state_dict()[name], atol=5e-3) or "fuser" in name, name
    for part in ("text_encoder.clip", "image_encoder"):
        one, same = (net.get_submodule(part).state_dict() for net in nets)
        assert all(torch.allclose(weight, same[name], atol=5e-3) for name, weight in one.items())


def test_judges_run_to_folders_that_load(tmp_path: Path) -> None:
    of_judge = judge.JudgeConfig(seed=5, everything=Phase(**SHORT), validation_scenes=4)
    figures = train(judge.Training(of_judge), 5, tmp_path / "judge")
    assert set(figures) == {"place", "words", "unseen_place", "unseen_words"}
    assert load_judge(tmp_path / "judge" / "weights").places == pictures.PLACES
    of_embedder = embedder.EmbedderConfig(seed=5, everything=embedder.EmbedderPhase(**SHORT), validation_rounds=1)
    assert 0 <= train(embedder.Training(of_embedder), 5, tmp_path / "embedder")["unseen_r_at_1"] <= 0.5
    load_embedder(tmp_path / "embedder" / "weights")
