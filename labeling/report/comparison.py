"""Two builds of one list side by side: what a changed rule, captioner or detector gained and lost."""

from collections.abc import Iterator
from dataclasses import replace

from infra.report.document import AnnotatedGallery, AnnotatedImage, Block, Section, Table
from labeling.report.cards import kept_cards
from labeling.report.samples import ORDER, Sample
from labeling.report.staging import StagedDataset
from labeling.report.totals import totals, totals_table
from labeling.report.verdicts import verdicts

_SHOWN = 25
_NAMES = ("This build", "The other")


def comparison_section(build: StagedDataset, other: StagedDataset, images: int) -> Section:
    """Return the differences of `build` from `other`, by the keys of their images.

    Args:
        build: a build.
        other: an earlier build of the same list, in the same session.
        images: images that one build alone has, at most, in the gallery.
    """
    return Section(f"Against {other.root}", list(_blocks(build, other, images)))


def _blocks(build: StagedDataset, other: StagedDataset, images: int) -> Iterator[Block]:
    yield totals_table(_NAMES, (totals(build), totals(other)))
    yield _verdict_table(build, other)
    yield _common_table(build, other)
    yield _change_table(build, other)
    yield _label_table(build, other)
    gained = tuple(_only_in(build, other, "gained", images // 2))
    lost = tuple(_only_in(other, build, "lost", images // 2))
    if gained or lost:
        caption = f"Images of one build alone, drawn at random: {len(gained)} gained and {len(lost)} lost"
        yield AnnotatedGallery(caption, gained + lost)


def _verdict_table(build: StagedDataset, other: StagedDataset) -> Table:
    both = [{(stage, state, reason): urls for state, stage, reason, urls in verdicts(one)} for one in (build, other)]
    rows = tuple(
        (
            stage,
            state.replace("_", " "),
            reason or "-",
            *(f"{one.get((stage, state, reason), 0):,}" for one in both),
            f"{both[0].get((stage, state, reason), 0) - both[1].get((stage, state, reason), 0):+,}",
        )
        for stage, state, reason in dict.fromkeys([*both[0], *both[1]])
    )
    return Table("URLs by verdict", ("Stage", "State", "Reason", *_NAMES, "Difference"), rows)


def _common_table(build: StagedDataset, other: StagedDataset) -> Table:
    """Return how the kept images relate, and what changed in those that both builds keep."""
    ((common, captions, entities, labels, gained, lost),) = build.rows(
        "SELECT count(*) FILTER (a.key IS NOT NULL AND b.key IS NOT NULL), "
        "count_if(a.caption_hash <> b.caption_hash), count_if(len(a.labels) <> len(b.labels)), "
        "count_if(list_sort(a.labels) <> list_sort(b.labels)), "
        "count_if(b.key IS NULL), count_if(a.key IS NULL) "
        f"FROM {{sdd}} AS a FULL JOIN {other.name}.sdd AS b USING (key)"
    )
    rows = (
        ("Kept by both", f"{common:,}"),
        ("Gained: kept by this build alone", f"{gained:,}"),
        ("Lost: kept by the other alone", f"{lost:,}"),
        ("Kept by both with another caption", f"{captions:,}"),
        ("Kept by both with another number of entities", f"{entities:,}"),
        ("Kept by both with other labels", f"{labels:,}"),
    )
    return Table("Images, by their keys", ("Images", "Count"), rows)


def _change_table(build: StagedDataset, other: StagedDataset) -> Table:
    """Return the URLs whose verdict changed, by their verdicts in the two builds."""
    rows = build.rows(
        "SELECT b.stage, b.state, b.reason, a.stage, a.state, a.reason, count(*) "
        f"FROM {{ledger}} AS a JOIN {other.name}.ledger AS b USING (key) "
        "WHERE (a.state, a.stage, a.reason) IS DISTINCT FROM (b.state, b.stage, b.reason) "
        f"GROUP BY ALL ORDER BY count(*) DESC, 1, 2, 3, 4, 5, 6 LIMIT {_SHOWN}"
    )
    cells = tuple((_verdict(*row[:3]), _verdict(*row[3:6]), f"{row[6]:,}") for row in rows)
    return Table("URLs whose verdict changed", ("In the other", "In this build", "URLs"), cells)


def _label_table(build: StagedDataset, other: StagedDataset) -> Table:
    """Return the labels whose number of entities changed most."""
    rows = build.rows(
        "WITH a AS (SELECT label, count(*) AS entities FROM {entities} GROUP BY label), "
        f"b AS (SELECT label, count(*) AS entities FROM {other.name}.entities GROUP BY label) "
        "SELECT label, coalesce(a.entities, 0), coalesce(b.entities, 0) FROM a FULL JOIN b USING (label) "
        "WHERE a.entities IS DISTINCT FROM b.entities "
        f"ORDER BY abs(coalesce(a.entities, 0) - coalesce(b.entities, 0)) DESC, label LIMIT {_SHOWN}"
    )
    cells = tuple((label, f"{own:,}", f"{others:,}", f"{own - others:+,}") for label, own, others in rows)
    caption = f"The {len(cells)} labels whose number of entities changed most"
    return Table(caption, ("Label", *_NAMES, "Difference"), cells)


def _only_in(build: StagedDataset, other: StagedDataset, change: str, count: int) -> Iterator[AnnotatedImage]:
    """Yield images that `build` keeps and `other` does not, with the verdict of `other`."""
    rows = build.rows(
        "SELECT key, a.shard, b.stage, b.state, b.reason FROM {sdd} AS a "
        f"ANTI JOIN {other.name}.sdd USING (key) LEFT JOIN {other.name}.ledger AS b USING (key) "
        f"ORDER BY {ORDER} LIMIT {count}"
    )
    verdict_of = {key: _verdict(*verdict) if verdict[1] else "not in its list" for key, _, *verdict in rows}
    for card in kept_cards(build, [Sample(key, shard) for key, shard, *_ in rows]):
        verdict = verdict_of[bytes.fromhex(card.picture.name)]
        where = "the other" if change == "gained" else "this build"
        yield replace(
            card,
            facets={"change": (change,), "verdict": (verdict,), **card.facets},
            notes=(f"{change}; in {where}: {verdict}", *card.notes),
        )


def _verdict(stage: str, state: str, reason: str) -> str:
    return state if state == "kept" else f"{reason or state} ({stage})"
