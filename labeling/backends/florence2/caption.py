"""Captions by Florence-2."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from labeling.backends.florence2.network import load_florence2
from labeling.backends.pixel_values import input_px, prepare_pixels
from labeling.backends.runtime import torch_device
from labeling.config import CaptionConfig

SETTING = "labeling.caption.checkpoint"


class Florence2Captioner:
    """Captioner by greedy or beam search. All images have one size and one prompt, so no batch has padding."""

    def __init__(self, config: CaptionConfig) -> None:
        """Load the weights.

        Raises:
            BackendWeightsError: the checkpoint does not load, is not Florence-2, or lacks weights.
        """
        self._config = config
        self._device = torch_device(config.device)
        self._net, self._processor = load_florence2(
            config.checkpoint, config.revision, config.precision, SETTING, self._device
        )
        self._prompt = self._prompt_ids()

    @property
    def input_px(self) -> int | None:
        """Longer side of a prepared image, in pixels."""
        return input_px(self._processor.image_processor)

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """Resize and normalise an upright RGB image [H, W, 3] to [3, size, size]."""
        return prepare_pixels(self._processor.image_processor, image)

    @torch.inference_mode()
    def caption(self, prepared: Sequence[Tensor]) -> list[str]:
        """Return one caption per prepared image, without white space around it."""
        prompts = self._prompt.expand(len(prepared), -1)
        generated = self._net.generate(
            pixel_values=torch.stack(list(prepared)).to(self._device, self._net.dtype),
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=False,
            num_beams=self._config.num_beams,
            max_new_tokens=self._config.max_new_tokens,
        )
        texts: list[str] = self._processor.tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _prompt_ids(self) -> Tensor:
        """Return the tokens [1, T] of every input: placeholders of the image, then the question of the task."""
        blank = Image.new("RGB", (16, 16))
        inputs = self._processor(images=blank, text=self._config.task.value, return_tensors="pt")
        ids: Tensor = inputs["input_ids"].to(self._device)
        return ids
