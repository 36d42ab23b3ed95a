"""Writes the small networks with random weights to folders that the ordinary backends load."""

from pathlib import Path

from miniature.networks import blip2, grounding_dino, sam
from miniature.networks.vocabulary import caption_vocabulary, detection_vocabulary
from miniature.world.scenes import phrases


def write_networks(folder: Path, seed: int) -> None:
    """Write `blip2/`, `grounding_dino/` and `sam/` under `folder`.

    Their captions, boxes and masks do not describe the picture, but they vary between pictures, so every stage keeps
    some images and drops others.
    """
    words = phrases()
    captions, prompts = caption_vocabulary([*words, *blip2.PRONOUNS]), detection_vocabulary(words)
    captioner = blip2.babble(blip2.build(captions, seed), captions, seed)
    blip2.save(captioner, folder / "blip2", captions)
    grounding_dino.save(grounding_dino.build(prompts, seed), folder / "grounding_dino", prompts)
    sam.save(sam.build(seed), folder / "sam")
