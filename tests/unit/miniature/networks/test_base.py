"""The small base and image encoder: real classes in their real layouts, and what the linear code keeps of a picture."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTokenizer

from miniature.networks import base, image_encoder, latent, text
from miniature.networks.judge import Embedder, Judge, load_embedder, load_judge, save_embedder, save_judge
from miniature.training.latent import HELD_OUT, Scenes
from miniature.training.pictures import pixels, scene_picture
from miniature.world.scenes import phrases
from miniature.world.sprites import sprites
from model.config import ModelConfig
from model.inputs.prompt import Prompt
from model.subject_diffusion import SubjectDiffusion


@pytest.fixture(scope="module")
def tokens() -> CLIPTokenizer:
    return text.tokenizer(phrases())


@pytest.fixture(scope="module")
def vae() -> Any:
    net = latent.build(seed=1)
    latent.fit(net, Scenes()((1, 2), 96))
    return net


@pytest.fixture(scope="module")
def unseen() -> Tensor:
    return pixels([scene_picture((3, i), HELD_OUT).image for i in range(24)])


@pytest.fixture(scope="module")
def net(tokens: CLIPTokenizer, vae: Any, tmp_path_factory: pytest.TempPathFactory) -> SubjectDiffusion:
    """Both saved, in half precision, and loaded as the model loads any base."""
    folder = tmp_path_factory.mktemp("small")
    base.save(base.build(tokens, seed=1).half(), tokens, vae.half(), folder / "base")
    vae.float()
    image_encoder.save(image_encoder.build(seed=1).half(), folder / "image_encoder")
    return SubjectDiffusion.from_base(
        ModelConfig(
            base=str(folder / "base"), image_encoder=str(folder / "image_encoder"), attention_downsampling=(1, 2)
        )
    )


def psnr_db(one: Tensor, other: Tensor) -> float:
    return 10 * math.log10(4 / float(F.mse_loss(one, other)))


def test_every_word_of_a_caption_is_one_token(tokens: CLIPTokenizer) -> None:
    words = {word for phrase in phrases() for word in phrase.split()} | {"is", ",", "the"}
    assert {len(tokens.encode(word, add_special_tokens=False)) for word in words} == {1}
    assert len({tokens.encode(word, add_special_tokens=False)[0] for word in words}) == len(words)
    assert tokens.unk_token_id not in tokens.encode("zyx qwv?", add_special_tokens=False)


def test_words_have_the_same_numbers_each_time(tokens: CLIPTokenizer) -> None:
    """Else a run that goes on would mean other words by the embeddings that it has learned."""
    for _ in range(2):
        assert text.tokenizer(phrases()).get_vocab() == tokens.get_vocab()


def test_the_model_takes_it_as_any_base(net: SubjectDiffusion, tokens: CLIPTokenizer) -> None:
    assert net.unet.latent_channels == latent.SHAPE.channels
    assert (net.image_encoder.side_px, net.image_encoder.patches, net.image_encoder.width) == (64, 256, 128)
    assert (net.noise.prediction, float(net.noise.alphas_cumprod[-1])) == ("v_prediction", 0.0)
    longest = sorted((sprite.name for sprite in sprites()), key=lambda name: -len(tokens.tokenize(name)))[:4]
    prompt = net.prompts.tokenize(Prompt(f"a {', a '.join(longest)} by the wall", longest))
    assert not prompt.cut
    assert len(prompt.token_ids) <= text.MAX_TOKENS
    assert 4.5e6 < sum(weight.numel() for weight in net.unet.base.parameters()) < 5.5e6


def test_what_was_saved_is_what_is_loaded(net: SubjectDiffusion, tokens: CLIPTokenizer, vae: Any) -> None:
    same = base.build(tokens, seed=1).half().float()
    for name, weight in same.unet.state_dict().items():
        if name != "conv_in.weight":  # widened by the location mask
            assert torch.equal(weight, net.state_dict()[f"unet.base.{name}"].reshape(weight.shape)), name
    assert torch.equal(vae.decoder.conv_in.weight.half().float(), net.vae.decoder.conv_in.weight)
    tower = image_encoder.build(seed=1).half().float()
    assert torch.equal(tower.conv1.weight, net.image_encoder.visual.conv1.weight)


def test_a_picture_passes_the_models_own_latent(net: SubjectDiffusion, unseen: Tensor) -> None:
    images = ((unseen + 1) * 127.5).round().to(torch.uint8)
    moments = net.latent_moments(images)
    mean, log_variance = moments.chunk(2, dim=1)
    assert mean.shape == (24, 16, 16, 16)
    assert float(log_variance.max()) < -15
    assert 0.7 < float(mean.std()) < 1.4
    assert psnr_db(2 * net.decode(mean) - 1, unseen) > 25.0


def test_the_encoder_is_the_linear_code_and_it_keeps_28_db(vae: Any, unseen: Tensor) -> None:
    code, offset = latent.encoder_code(vae)
    patches = F.unfold(unseen, latent.SHAPE.patch_px, stride=latent.SHAPE.patch_px).transpose(1, 2)
    coded = patches @ code.T + offset
    with torch.no_grad():
        encoded = vae.encode(unseen).latent_dist.mean.flatten(2).transpose(1, 2)
    assert float((coded - encoded).abs().max()) < 0.02
    overlaps = (code / code.norm(dim=1, keepdim=True)) @ (code / code.norm(dim=1, keepdim=True)).T
    assert float((overlaps - torch.eye(latent.SHAPE.channels)).abs().max()) < 0.02
    decoded = F.fold(((coded - offset) @ torch.linalg.pinv(code).T).transpose(1, 2), 64, 4, stride=4)
    assert psnr_db(decoded, unseen) > 28.0


def test_a_latent_of_larger_patches_is_a_linear_code_too(tokens: CLIPTokenizer) -> None:
    shape = latent.LatentShape(side_px=32, patch_px=8, channels=32, width=72)
    net = latent.build(1, shape)
    images = Scenes(32)((1, 3), 24)
    latent.fit(net, images)
    assert latent.shape_of(net) == shape
    code, offset = latent.encoder_code(net)
    with torch.no_grad():
        encoded = net.encode(images).latent_dist.mean
        decoded = net.decode(encoded).sample
    assert encoded.shape == (24, 32, 4, 4)
    coded = F.conv2d(images, code.reshape(32, 3, 8, 8), offset, stride=8)
    assert float((coded - encoded).abs().max()) < 0.02
    assert psnr_db(decoded, images) > 20.0
    unet = base.build(tokens, 1, shape, heads=(4, 4, 4)).unet
    assert (unet.config.in_channels, unet.config.out_channels, unet.config.sample_size) == (32, 32, 4)
    assert [block.attn1.heads for block in unet.mid_block.attentions[0].transformer_blocks] == [4]


def test_the_decoder_starts_near_it(vae: Any, unseen: Tensor) -> None:
    with torch.no_grad():
        assert psnr_db(vae.decode(vae.encode(unseen).latent_dist.mean).sample, unseen) > 26.0


def test_one_colour_everywhere_stays_one_colour(vae: Any) -> None:
    """What keeps the decoder from being the code's transpose."""
    with torch.no_grad():
        image = vae.decode(torch.randn(1, 16, 1, 1, generator=torch.Generator().manual_seed(0)).expand(1, 16, 16, 16))
    inside = image.sample[..., 16:-16, 16:-16]
    assert float((inside - inside[..., :1, :1]).abs().max()) < 1e-2


def test_it_is_a_folder_of_diffusers(vae: Any, unseen: Tensor, tmp_path: Path) -> None:
    latent.save(vae, tmp_path / "vae")
    loaded = AutoencoderKL.from_pretrained(tmp_path / "vae")
    with torch.no_grad():
        assert torch.equal(loaded.encode(unseen[:2]).latent_dist.mean, vae.encode(unseen[:2]).latent_dist.mean)


def test_judges_come_back_as_they_were_saved(unseen: Tensor, tmp_path: Path) -> None:
    judge, embedder = Judge(("grass", "sky"), ("bird", "boat", "book")).eval(), Embedder().eval()
    save_judge(judge, tmp_path / "judge")
    save_embedder(embedder, tmp_path / "embedder")
    same = load_judge(tmp_path / "judge")
    assert (same.places, same.class_words) == (judge.places, judge.class_words)
    crops = unseen[:4, :, :48, :48]
    with torch.no_grad():
        for one, other in zip(judge(unseen[:4]), same(unseen[:4]), strict=True):
            assert one.shape == other.shape
            assert float((one - other).abs().max()) < 0.02
        vectors = load_embedder(tmp_path / "embedder")(crops)
        assert float((vectors - embedder(crops)).abs().max()) < 0.01
    assert vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-4)
