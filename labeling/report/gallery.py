"""Galleries of kept and of dropped images."""

from infra.report.document import AnnotatedGallery, Block, Paragraph, Section
from labeling.report.cards import dropped_cards, kept_cards
from labeling.report.samples import dropped_sample, kept_sample
from labeling.report.staging import StagedDataset


def gallery_section(dataset: StagedDataset, kept: int, per_reason: int) -> Section:
    """Return samples of the images, none chosen.

    Args:
        dataset: the dataset.
        kept: images of the dataset.
        per_reason: images of each reason for which images left it.
    """
    blocks: list[Block] = [_kept(dataset, kept), _dropped(dataset, per_reason)]
    return Section("Images", blocks)


def _kept(dataset: StagedDataset, count: int) -> Block:
    images = tuple(kept_cards(dataset, kept_sample(dataset, count)))
    if not images:
        return Paragraph("The dataset has no images.")
    return AnnotatedGallery(f"Kept: {len(images)} images, drawn at random", images)


def _dropped(dataset: StagedDataset, per_reason: int) -> Block:
    samples = dropped_sample(dataset, per_reason)
    images = tuple(dropped_cards(dataset, samples))
    if not images:
        return Paragraph(
            f"No image that left the dataset is stored: {len(samples)} were drawn."
            if samples
            else "No image left the dataset after its download."
        )
    return AnnotatedGallery(
        f"Dropped: up to {per_reason} images of each reason, drawn at random; dashed boxes break a rule", images
    )
