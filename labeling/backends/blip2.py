"""Captions by BLIP-2 (Li et al., 2023) from transformers."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    Blip2Config,
    Blip2ForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from labeling.backends.pixel_values import input_px, prepare_pixels
from labeling.backends.runtime import pretrained_source, torch_device, torch_dtype
from labeling.config import CaptionConfig
from labeling.errors import BackendWeightsError

SETTING = "labeling.caption.checkpoint"


class Blip2Captioner:
    """Captioner by greedy or beam search. All images have one size and one prompt, so no batch has padding.

    Choice: the checkpoint's processor configuration sets size and normalisation, and the torchvision processor of
    transformers applies it. It is faster than the Pillow processor, and differs by at most 1/255 on photographs.
    """

    def __init__(self, config: CaptionConfig) -> None:
        """Load the weights.

        Raises:
            BackendWeightsError: the checkpoint does not load, is not BLIP-2, or lacks weights.
        """
        self._config = config
        self._device = torch_device(config.device)
        net, self._image_processor, self._tokenizer = _load(config)
        self._net = net.to(self._device)
        self._context = torch.tensor([self._context_ids()], device=self._device)

    @property
    def input_px(self) -> int | None:
        """Longer side of a prepared image, in pixels."""
        return input_px(self._image_processor)

    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """Resize and normalise an upright RGB image [H, W, 3] to [3, size, size]."""
        return prepare_pixels(self._image_processor, image)

    @torch.inference_mode()
    def caption(self, prepared: Sequence[torch.Tensor]) -> list[str]:
        """Return one caption per prepared image, without the prompt and without white space around it."""
        generated = self._net.generate(
            pixel_values=torch.stack(list(prepared)).to(self._device),
            input_ids=self._context.expand(len(prepared), -1),
            do_sample=False,
            num_beams=self._config.num_beams,
            max_new_tokens=self._config.max_new_tokens,
        )
        if not self._net.config.is_encoder_decoder:  # a decoder repeats its input
            generated = generated[:, self._context.shape[1] :]
        texts: list[str] = self._tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _context_ids(self) -> list[int]:
        """Return the tokens before every caption: placeholders of the image's embeddings, then the prompt.

        Blip2Processor is not used for them: a checkpoint may be older than the image token, and transformers chooses
        the tokenizer, and with it the start token, by the checkpoint's name on the hub.
        """
        net = self._net.config
        prompt: list[int] = self._tokenizer(self._config.prompt, add_special_tokens=net.is_encoder_decoder).input_ids
        start = [] if net.is_encoder_decoder else [net.text_config.bos_token_id]
        return [net.image_token_index] * net.num_query_tokens + start + prompt


def read_processors(source: str, revision: str) -> tuple[BaseImageProcessor, PreTrainedTokenizerBase]:
    """Return the image processor and the tokenizer of a checkpoint."""
    images = AutoImageProcessor.from_pretrained(source, revision=revision, backend="torchvision")
    return images, AutoTokenizer.from_pretrained(source, revision=revision)


class _Blip2(Blip2ForConditionalGeneration):  # type: ignore[misc]  # transformers has no types
    # The language model sees the image only through the Q-Former. It has 3 % of the weights and stays in float32, as
    # transformers does for float16 networks, but not for bfloat16 ones.
    _keep_in_fp32_modules_strict = ("query_tokens", "qformer")


def _load(config: CaptionConfig) -> tuple[_Blip2, BaseImageProcessor, PreTrainedTokenizerBase]:
    """Return the network in evaluation mode, its image processor, and its tokenizer."""
    revision = config.revision
    with pretrained_source(config.checkpoint, SETTING) as source:
        network = AutoConfig.from_pretrained(source, revision=revision)
        if not isinstance(network, Blip2Config):
            raise BackendWeightsError(
                f"{SETTING}={config.checkpoint!r} holds a network of type {network.model_type!r}, not 'blip-2': "
                f"give a BLIP-2 checkpoint such as Salesforce/blip2-opt-2.7b"
            )
        if network.image_token_index is None:
            # Checkpoints older than transformers 4.46 define none. Any id that no prompt contains works, because the
            # image's embeddings replace it.
            network.image_token_index = network.text_config.pad_token_id
        images, tokenizer = read_processors(source, revision)
        net, report = _Blip2.from_pretrained(
            source,
            revision=revision,
            config=network,
            dtype=torch_dtype(config.precision),
            ignore_mismatched_sizes=True,  # reported below, by name
            output_loading_info=True,
        )
        if lacking := report["missing_keys"] | {key for key, *_ in report["mismatched_keys"]}:
            raise BackendWeightsError(
                f"{SETTING}={config.checkpoint!r} lacks {len(lacking)} weights of the BLIP-2 that its config.json "
                f"describes, or has them in another size ({min(lacking)}, ...): give a whole checkpoint of "
                f"Blip2ForConditionalGeneration such as Salesforce/blip2-opt-2.7b"
            )
    return net.eval(), images, tokenizer
