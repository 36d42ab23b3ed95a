"""Audits of a dataset: the proportions of Table 6 with their intervals, and examples of each class as in Fig. 7."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from infra.report.document import AnnotatedGallery, AnnotatedImage, Block, Section, Table
from labeling.quality.estimate import FILTERED, Proportion, table_6
from labeling.quality.gallery import examples
from labeling.quality.marks import Audit, AuditedImage, Mark, audit_names, read_audit
from labeling.report.cards import dropped_cards, kept_cards
from labeling.report.samples import Sample
from labeling.report.staging import StagedDataset
from labeling.sdd.schema import State

_PAPER = {Mark.HIGH_QUALITY: "18%", Mark.LOW_RECALL: "20%", Mark.OTHER: "14%", FILTERED: "48%"}
"""Proportions in Table 6 of the paper, which states neither intervals nor the wrongly dropped ones."""


def audits_section(dataset: StagedDataset, per_mark: int) -> Section | None:
    """Return the audits; None if the dataset has none.

    Args:
        dataset: the dataset.
        per_mark: most examples of each mark.
    """
    audits = [read_audit(dataset.store, name) for name in audit_names(dataset.store)]
    blocks = [block for audit in audits for block in _blocks(dataset, audit, per_mark)]
    return Section("Audits", blocks) if blocks else None


def _blocks(dataset: StagedDataset, audit: Audit, per_mark: int) -> Iterator[Block]:
    marked = sum(image.mark is not None for image in audit.images)
    yield _table(audit.name, table_6(audit.images), marked, len(audit.images))
    if images := tuple(_cards(dataset, audit.images, per_mark)):
        caption = f"Audit {audit.name}: up to {per_mark} images of each mark, in the order of the sample (Fig. 7)"
        yield AnnotatedGallery(caption, images)


def _table(name: str, proportions: Sequence[Proportion], marked: int, drawn: int) -> Table:
    rows = tuple(
        (
            _words(each.name),
            f"{each.of} images",
            f"{each.value:.1%}",
            f"{each.low:.1%} to {each.high:.1%}" if each.marked else _interval_of_none(each),
            f"{each.marked:,}",
            _PAPER.get(each.name, "-"),
        )
        for each in proportions
    )
    note = f"{marked:,} of {drawn:,} drawn images are marked. Strata are weighted with their sizes; 95 % intervals."
    headings = ("Class", "Proportion of", "Estimate", "Interval", "Marked", "Paper")
    return Table(f"Audit {name} (Table 6)", headings, rows, (note,))


def _interval_of_none(proportion: Proportion) -> str:
    return "counted" if proportion.name == FILTERED else "no mark yet"


def _cards(dataset: StagedDataset, images: Sequence[AuditedImage], per_mark: int) -> Iterator[AnnotatedImage]:
    for mark, marked in examples(images, per_mark).items():
        for state, cards in ((State.KEPT, kept_cards), (State.DROPPED, dropped_cards)):
            samples = [_sample(image) for image in marked if image.state == state]
            for card in cards(dataset, samples):
                facets = {"mark": (_words(mark),), "label": card.facets["label"]}
                yield replace(card, facets=facets, notes=(_words(mark), *card.notes))


def _sample(image: AuditedImage) -> Sample:
    return Sample(image.key, image.shard, state=image.state, reason=image.stratum)


def _words(name: str) -> str:
    return name.replace("_", " ")
