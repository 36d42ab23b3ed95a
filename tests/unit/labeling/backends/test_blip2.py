import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torchvision.transforms import v2
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    T5Config,
)

from infra.precision import Precision
from labeling.backends.blip2 import Blip2Captioner
from labeling.config import CaptionConfig, Device
from labeling.errors import BackendWeightsError
from miniature.networks.blip2 import Blip2Size, babble, build, save
from miniature.networks.vocabulary import caption_vocabulary
from miniature.world.scenes import phrases

NETWORK = Blip2Size(image_px=96, queries=8)
VOCABULARY = caption_vocabulary(phrases())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose captions depend on the image. Copy it before changing it."""
    path: Path = tmp_path_factory.mktemp("blip2")
    save(babble(build(VOCABULARY, 4, NETWORK), VOCABULARY, 4), path, VOCABULARY)
    return path


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    """Mosaics of all shapes, down to one that could be taken for channels first."""
    rng = np.random.default_rng(0)
    shapes = [(40, 90), (200, 60), (64, 64), (3, 5), (1, 1), (90, 300), (130, 131), (250, 250), (64, 3), (77, 150)]
    coarse = [rng.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in shapes]
    return [
        np.asarray(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.NEAREST))
        for pixels, shape in zip(coarse, shapes, strict=True)
    ]


def captioner(folder: Path, **settings: Any) -> Blip2Captioner:
    plain: dict[str, Any] = {"device": Device.CPU, "precision": Precision.FLOAT32, "max_new_tokens": 12}
    return Blip2Captioner(CaptionConfig(checkpoint=str(folder), **(plain | settings)))


def captions(captioner: Blip2Captioner, images: list[NDArray[np.uint8]]) -> list[str]:
    return captioner.caption([captioner.prepare(image) for image in images])


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def edited(file: Path, **values: Any) -> None:
    """Set keys of a JSON file; None takes the key away."""
    tree = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))


@pytest.mark.parametrize("prompt", ["", "a dog and"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_batch_gives_each_image_the_caption_that_it_gets_alone(
    folder: Path, images: list[NDArray[np.uint8]], prompt: str, num_beams: int
) -> None:
    captioner_ = captioner(folder, prompt=prompt, num_beams=num_beams)
    together = captions(captioner_, images)
    assert together == [caption for image in images for caption in captions(captioner_, [image])]
    assert len(set(together)) > 1
    assert len({len(caption) for caption in together}) > 1


def test_the_caption_goes_on_from_the_prompt_without_repeating_it(
    folder: Path, images: list[NDArray[np.uint8]]
) -> None:
    """What is said without a prompt is said again, but for its beginning, when that beginning is the prompt."""
    whole = captions(captioner(folder), images[:1])[0]
    start = " ".join(whole.split()[:2])
    rest = captions(captioner(folder, prompt=start, max_new_tokens=10), images[:1])[0]
    assert len(rest.split()) > 4
    assert f"{start} {rest}" == whole


def test_captions_are_plain_text_of_at_most_so_many_words(folder: Path, images: list[NDArray[np.uint8]]) -> None:
    said = captions(captioner(folder, max_new_tokens=5), images)
    assert max(len(caption.replace(",", " ,").split()) for caption in said) == 5
    assert {word.strip(",.") for caption in said for word in caption.split()} <= set(VOCABULARY.tokens[5:])


def test_bfloat16_says_about_the_same_and_keeps_the_qformer_in_float32(
    folder: Path, images: list[NDArray[np.uint8]]
) -> None:
    exact, half = captioner(folder, max_new_tokens=1), captioner(folder, max_new_tokens=1, precision=Precision.BFLOAT16)
    agree = np.mean([a == b for a, b in zip(captions(exact, images), captions(half, images), strict=True)])
    assert agree >= 0.7
    dtypes = {name.split(".")[0]: weights.dtype for name, weights in half._net.named_parameters()}
    assert dtypes == {
        "query_tokens": torch.float32,
        "vision_model": torch.bfloat16,
        "qformer": torch.float32,
        "language_projection": torch.bfloat16,
        "language_model": torch.bfloat16,
    }


def test_images_are_prepared_alike_in_many_threads(folder: Path, images: list[NDArray[np.uint8]]) -> None:
    captioner_ = captioner(folder)
    alone = [captioner_.prepare(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(captioner_.prepare, images * 8))
    assert all(torch.equal(a, b) for a, b in zip(alone * 8, together, strict=True))


def test_three_rows_are_no_channels(folder: Path) -> None:
    red = np.full((3, 5, 3), (255, 0, 0), np.uint8)
    assert captioner(folder).prepare(red).flatten(1).std(dim=1).max() == 0


@pytest.mark.parametrize("shape", [(1024, 1024), (500, 300), (97, 400)])
def test_pixels_are_those_of_blip2s_own_transform(folder: Path, shape: tuple[int, int]) -> None:
    """LAVIS resizes with Pillow; torchvision rounds some pixels to the neighbouring level."""
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    processor = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    original = v2.Compose(
        [
            v2.Resize((96, 96), interpolation=v2.InterpolationMode.BICUBIC),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(processor["image_mean"], processor["image_std"]),
        ]
    )
    level = 1 / 255 / min(processor["image_std"])
    difference = (captioner(folder).prepare(image) - original(Image.fromarray(image))).abs()
    assert difference.max() < 1.01 * level
    assert difference.mean() < 0.2 * level


def test_the_checkpoints_own_preprocessing_rules(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    processor = json.loads((copy / "processor_config.json").read_text())["image_processor"]
    gray = processor | {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    edited(copy / "processor_config.json", image_processor=gray)
    white = np.full((64, 64, 3), 255, np.uint8)
    assert set(captioner(copy).prepare(white).flatten().tolist()) == {2.0}


def test_an_older_folder_without_image_token_gives_the_same_captions(
    folder: Path, tmp_path: Path, images: list[NDArray[np.uint8]]
) -> None:
    """As the hub's folders were first published: preprocessor_config.json, and no word of an image token."""
    copy = copied(folder, tmp_path)
    processor = json.loads((copy / "processor_config.json").read_text())["image_processor"]
    (copy / "preprocessor_config.json").write_text(json.dumps(processor | {"processor_class": "Blip2Processor"}))
    (copy / "processor_config.json").unlink()
    edited(copy / "config.json", image_token_index=None)
    edited(copy / "tokenizer_config.json", extra_special_tokens=None)
    for prompt in ("", "a dog"):
        new, old = captioner(folder, prompt=prompt), captioner(copy, prompt=prompt)
        assert captions(old, images) == captions(new, images)


def test_weights_in_shards_load(folder: Path, tmp_path: Path, images: list[NDArray[np.uint8]]) -> None:
    copy = copied(folder, tmp_path)
    net = Blip2ForConditionalGeneration.from_pretrained(folder)
    (copy / "model.safetensors").unlink()
    net.save_pretrained(copy, max_shard_size="300KB")
    assert len(list(copy.glob("model-*-of-*.safetensors"))) > 1
    assert captions(captioner(copy), images) == captions(captioner(folder), images)


@pytest.mark.parametrize("files", ["tokenizer.json", "vocab.json and merges.txt"])
def test_opts_tokenizer_starts_every_text_once(folder: Path, tmp_path: Path, files: str) -> None:
    """GPT-2's byte pairs with OPT's special tokens, with and without the post-processor that writes the start."""
    copy = copied(folder, tmp_path)
    vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "a", "d", "o", "g"])}
    merges = [("Ġ", "a"), ("d", "o"), ("do", "g"), ("Ġ", "dog")]
    for token in ("Ġ", "Ċ", "Ġa", "do", "dog", "Ġdog"):
        vocabulary[token] = len(vocabulary)
    if files == "tokenizer.json":
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens(["<pad>", "</s>"])
        backend.save(str(copy / "tokenizer.json"))
    else:
        (copy / "tokenizer.json").unlink()
        (copy / "vocab.json").write_text(json.dumps(vocabulary))
        (copy / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges))
    edited(
        copy / "tokenizer_config.json",
        tokenizer_class="GPT2Tokenizer",
        add_bos_token=True,
        unk_token="</s>",
        extra_special_tokens=None,
        backend=None,
    )
    start, places = VOCABULARY.ids["</s>"], [VOCABULARY.ids["<image>"]] * NETWORK.queries
    assert captioner(copy)._context.tolist() == [[*places, start]]
    assert captioner(copy, prompt="a dog")._context.tolist() == [[*places, start, vocabulary["a"], vocabulary["Ġdog"]]]


def test_a_t5_language_model_captions_too(tmp_path: Path, images: list[NDArray[np.uint8]]) -> None:
    """As in blip2-flan-t5: the decoder says only what is new."""
    torch.manual_seed(0)
    config = build(VOCABULARY, 0, NETWORK).config
    config.text_config = T5Config(
        vocab_size=len(VOCABULARY.tokens),
        d_model=64,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=1,
        eos_token_id=2,
        bos_token_id=2,
        decoder_start_token_id=1,
        initializer_factor=3.0,
        tie_word_embeddings=False,
    )
    net = Blip2ForConditionalGeneration(Blip2Config.from_dict(config.to_dict()))
    net.query_tokens.data.normal_()
    save(net, tmp_path, VOCABULARY)
    captioner_ = captioner(tmp_path, prompt="a dog", max_new_tokens=4)
    said = captions(captioner_, images)
    assert said == [caption for image in images for caption in captions(captioner_, [image])]
    assert any(said)
    assert not any(caption.startswith("a dog") for caption in said)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(
        BackendWeightsError, match=r"labeling\.caption\.checkpoint=.*/none' .*no such local folder.*Give"
    ):
        captioner(tmp_path / "none")


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_folder_without_one_of_its_files(folder: Path, tmp_path: Path, lost: str) -> None:
    copy = copied(folder, tmp_path)
    (copy / lost).unlink()
    with pytest.raises(
        BackendWeightsError, match=r"labeling\.caption\.checkpoint=.* does not load as a folder: .*Give a"
    ):
        captioner(copy)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_with_a_truncated_file(folder: Path, tmp_path: Path, file: str) -> None:
    copy = copied(folder, tmp_path)
    (copy / file).write_bytes((folder / file).read_bytes()[:1000])
    with pytest.raises(BackendWeightsError, match=r"labeling\.caption\.checkpoint=.* does not load as a folder"):
        captioner(copy)


def test_another_architecture(tmp_path: Path) -> None:
    narrow = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPModel(CLIPConfig(text_config=narrow, vision_config=narrow)).save_pretrained(tmp_path)
    with pytest.raises(BackendWeightsError, match=r"labeling\.caption\.checkpoint=.* type 'clip', not 'blip-2': give"):
        captioner(tmp_path)


def test_a_blip2_without_language_model(folder: Path, tmp_path: Path) -> None:
    """BLIP-2's retrieval network has the same model type, and would caption with random weights."""
    copy = copied(folder, tmp_path)
    net = Blip2ForImageTextRetrieval(Blip2Config.from_pretrained(folder))
    net.save_pretrained(copy)
    with pytest.raises(
        BackendWeightsError, match=r"lacks \d+ weights of the BLIP-2 .* \(language_model\..*give a whole"
    ):
        captioner(copy)


def test_weights_of_another_size(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    narrow = build(VOCABULARY, 0, NETWORK.model_copy(update={"width": 80}))
    narrow.save_pretrained(tmp_path / "narrow")
    shutil.copy(tmp_path / "narrow" / "model.safetensors", copy)
    with pytest.raises(BackendWeightsError, match=r"labeling\.caption\.checkpoint=.* in another size"):
        captioner(copy)
