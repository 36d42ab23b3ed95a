"""Captions that images have are kept, and the captioner describes the others."""

from collections.abc import Sequence

import numpy as np

from labeling.config import CaptionConfig
from labeling.sdd.schema import Caption
from labeling.stages.base import Drop
from labeling.stages.caption import CaptionInput, CaptionStage
from tests.factories import jpeg, key


class WidthCaptioner:
    """Captioner that describes the width of an image."""

    input_px: int | None = 12

    def prepare(self, image: np.ndarray) -> int:
        return image.shape[1]

    def caption(self, prepared: Sequence[int]) -> list[str]:
        return [f"{width} px wide" for width in prepared]


def captions(config: CaptionConfig, texts: Sequence[str | None]) -> tuple[list[Caption | Drop], int]:
    """Return the captions of images with these texts, and how often the network was loaded."""
    loaded: list[WidthCaptioner] = []

    def load(_: CaptionConfig) -> WidthCaptioner:
        loaded.append(WidthCaptioner())
        return loaded[-1]

    stage = CaptionStage(config, load)
    stage.setup()
    rows = [CaptionInput(key=key(n), alt_text=text, image=jpeg(n, (60 + n, 48))) for n, text in enumerate(texts)]
    return stage.process([stage.prepare(row) for row in rows]), len(loaded)


def test_given_captions_are_kept_and_the_others_written():
    found, loads = captions(CaptionConfig(given=True), ["a dog", None, " a cat ", "  "])
    assert [row.caption for row in found] == ["a dog", "61 px wide", "a cat", "63 px wide"]
    assert [row.key for row in found] == [key(n) for n in range(4)]
    assert loads == 1


def test_no_network_is_loaded_if_every_image_has_a_caption():
    found, loads = captions(CaptionConfig(given=True), ["a dog", "a cat"])
    assert [row.caption for row in found] == ["a dog", "a cat"]
    assert loads == 0


def test_texts_of_the_web_are_no_captions():
    found, loads = captions(CaptionConfig(), ["IMG_1.JPG", None])
    assert [row.caption for row in found] == ["60 px wide", "61 px wide"]
    assert loads == 1


def test_a_large_jpeg_is_decoded_at_reduced_size_if_asked_for():
    found, _ = captions(CaptionConfig(reduced_decoding=True), [None])
    assert [row.caption for row in found] == ["30 px wide"]  # 24 px is twice the input of the network


def test_a_captioner_of_images_of_any_size_gets_them_whole(monkeypatch):
    monkeypatch.setattr(WidthCaptioner, "input_px", None)
    found, _ = captions(CaptionConfig(reduced_decoding=True), [None])
    assert [row.caption for row in found] == ["60 px wide"]


def test_stamps_of_datasets_without_later_settings_stay():
    assert CaptionConfig().fingerprint() == "76d05ba8f712"
    assert CaptionConfig(given=True).fingerprint() != CaptionConfig().fingerprint()
    assert CaptionConfig(reduced_decoding=True).fingerprint() != CaptionConfig().fingerprint()
