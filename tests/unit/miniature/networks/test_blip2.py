from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoTokenizer

from infra.precision import Precision
from labeling.backends.blip2 import Blip2Captioner
from labeling.backends.load import load_tagger
from labeling.config import CaptionConfig, Device, NounConfig
from labeling.stages.nouns import NounStage
from miniature.networks.blip2 import PRONOUNS, babble, build, save
from miniature.networks.vocabulary import Vocabulary, caption_vocabulary, detection_vocabulary, words_of
from miniature.world.scenes import ScenesConfig, compose, phrases

VOCABULARY = caption_vocabulary([*phrases(), *PRONOUNS])


@pytest.fixture(scope="module")
def scenes() -> list[NDArray[np.uint8]]:
    size = ScenesConfig(width_px=(192, 192), height_px=(192, 192))
    return [compose(seed, size).image for seed in range(24)]


def test_it_has_about_two_and_a_half_million_weights() -> None:
    assert 2_000_000 < sum(weights.numel() for weights in build(VOCABULARY, 0).parameters()) < 2_700_000


def test_the_seed_decides_the_weights_and_leaves_the_callers_alone() -> None:
    torch.manual_seed(7)
    before = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = (build(VOCABULARY, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["query_tokens"], other["query_tokens"])
    assert torch.equal(torch.rand(3), before)


def test_every_query_of_a_new_network_is_another_one() -> None:
    queries = build(VOCABULARY, 0).query_tokens[0]
    assert len(torch.unique(queries, dim=0)) == len(queries)


def test_a_folder_in_half_precision_holds_half_the_bytes_and_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    net = build(VOCABULARY, 0)
    save(net, tmp_path, VOCABULARY, torch.float16)
    stored = load_file(tmp_path / "model.safetensors")
    assert {weights.dtype for weights in stored.values()} == {torch.float16}
    assert {weights.dtype for weights in net.parameters()} == {torch.float32}


@pytest.mark.parametrize("seed", range(2))
def test_untrained_captions_differ_by_image_and_most_have_a_noun(
    tmp_path: Path, scenes: list[NDArray[np.uint8]], seed: int
) -> None:
    save(babble(build(VOCABULARY, seed), VOCABULARY, seed), tmp_path, VOCABULARY)
    config = CaptionConfig(checkpoint=str(tmp_path), device=Device.CPU, precision=Precision.FLOAT32, max_new_tokens=20)
    captioner = Blip2Captioner(config)
    captions = captioner.caption([captioner.prepare(scene) for scene in scenes])
    tagger = NounStage(NounConfig(), load_tagger)
    tagger.setup()
    tags = tagger.tags(captions)
    assert len(set(captions)) > len(scenes) / 4
    assert np.mean([len(found.nouns) > 0 for found in tags]) > 0.6
    assert np.median([len(noun.label.split()) for found in tags for noun in found.nouns]) == 1


def test_a_text_survives_the_caption_tokenizer() -> None:
    tokenizer = VOCABULARY.tokenizer()
    ids = tokenizer("A pizza, a fox and a TRAIN on the grass").input_ids
    assert ids[0] == tokenizer.bos_token_id == 2
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a pizza, a fox and a train on the grass"
    assert tokenizer("quark").input_ids[1:] == [tokenizer.unk_token_id]


@pytest.mark.parametrize("words", [["fire hydrant"], [f"word{n}" for n in range(1500)]], ids=["few", "many"])
def test_bert_tokens_keep_their_ids_whatever_the_words(words: list[str]) -> None:
    vocabulary = detection_vocabulary(words)
    fixed = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
    assert fixed.items() <= vocabulary.ids.items()
    assert set(words_of(words)) <= vocabulary.ids.keys()
    assert len(vocabulary.ids) == len(vocabulary.tokens)


def test_a_prompt_is_closed_as_bert_closes_it() -> None:
    vocabulary = detection_vocabulary(["fire hydrant"])
    tokens = vocabulary.tokenizer().convert_ids_to_tokens(vocabulary.tokenizer()("Fire hydrant. dog.").input_ids)
    assert tokens == ["[CLS]", "fire", "hydrant", ".", "[UNK]", ".", "[SEP]"]


@pytest.mark.parametrize("vocabulary", [VOCABULARY, detection_vocabulary(phrases())], ids=["caption", "detection"])
def test_a_tokenizer_is_the_same_after_a_round_trip_through_its_folder(vocabulary: Vocabulary, tmp_path: Path) -> None:
    before = vocabulary.tokenizer()
    before.save_pretrained(tmp_path)
    after = AutoTokenizer.from_pretrained(tmp_path)
    text = "a dog, a cat. a zebra?"
    assert after(text).input_ids == before(text).input_ids
    assert after.all_special_ids == before.all_special_ids
