"""Checks of the files of audits/. The name of a function is the name of the check."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from labeling.errors import ShardCorrupt
from labeling.quality.marks import AUDITS, MARKS, AuditedImage
from labeling.sdd.removed import REMOVED
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore
from labeling.validation.faults import Fault


@dataclass(frozen=True, slots=True)
class AuditFile:
    """The rows of an audit."""

    store: ShardStore
    name: str
    images: Sequence[AuditedImage]

    def fault(self, row: int, column: str, message: str) -> Fault:
        """Return a fault of one of its rows."""
        key = self.images[row].key.hex()
        return Fault(message=message, layer=AUDITS, shard=self.name, row=row, column=column, key=key)


AuditCheck = Callable[[AuditFile], Iterator[Fault]]


def audited_images(audit: AuditFile) -> Iterator[Fault]:
    """Check that an audit has an image once, and only images of their shard that were not removed."""
    reasons, seen = _reasons(audit), set[bytes]()
    for row, image in enumerate(audit.images):
        if image.key in seen:
            yield audit.fault(row, "key", "is in the audit twice")
        seen.add(image.key)
        reason = reasons.get(image.shard, {}).get(image.key)
        if image.shard in reasons and reason is None:
            yield audit.fault(row, "key", f"is no image of {image.shard}")
        elif reason == REMOVED:
            yield audit.fault(row, "key", "was removed: finish the removal with `remove ROOT`")


def marks_of_states(audit: AuditFile) -> Iterator[Fault]:
    """Check that an audited image was kept or dropped, and its mark is one for images of that state."""
    for row, image in enumerate(audit.images):
        marks = {str(state): each for state, each in MARKS.items()}.get(image.state)
        if marks is None:
            yield audit.fault(row, "state", f"{image.state!r} is neither {' nor '.join(MARKS)}")
        elif image.mark is not None and image.mark not in marks:
            yield audit.fault(row, "mark", f"{image.mark!r} is no mark of {image.state} images: {', '.join(marks)}")


def authors_of_marks(audit: AuditFile) -> Iterator[Fault]:
    """Check that a mark has a person and a time in ISO 8601, and an image without a mark has neither."""
    for row, image in enumerate(audit.images):
        if image.mark is None:
            for column, value in (("author", image.author), ("made_at", image.made_at)):
                if value is not None:
                    yield audit.fault(row, column, f"is {value!r}, though the image has no mark")
            continue
        if not image.author:
            yield audit.fault(row, "author", "is missing, though the image has a mark")
        if not _is_time(image.made_at):
            yield audit.fault(row, "made_at", f"{image.made_at!r} is not a time in ISO 8601")


def strata_of_audits(audit: AuditFile) -> Iterator[Fault]:
    """Check that a stratum has one size and one state, and no more images than its size."""
    firsts: dict[str, AuditedImage] = {}
    drawn: dict[str, int] = {}
    for row, image in enumerate(audit.images):
        first = firsts.setdefault(image.stratum, image)
        drawn[image.stratum] = drawn.get(image.stratum, 0) + 1
        if image.stratum_images != first.stratum_images:
            message = f"is {image.stratum_images}, but {first.stratum_images} in another row of {image.stratum!r}"
            yield audit.fault(row, "stratum_images", message)
        elif image.state != first.state:
            yield audit.fault(row, "state", f"is {image.state}, but {first.state} in another row of {image.stratum!r}")
        elif drawn[image.stratum] > image.stratum_images:
            yield audit.fault(row, "stratum_images", f"is {image.stratum_images}, but the audit has more of them")


def _reasons(audit: AuditFile) -> Mapping[str, Mapping[bytes, str]]:
    """Return the reason of the verdict on each image of the audited shards; none without ledger/."""
    judged, audited = audit.store.shards(Layer.LEDGER), {image.shard for image in audit.images}
    if not judged:
        return {}
    reasons: dict[str, Mapping[bytes, str]] = {shard: {} for shard in audited.difference(judged)}
    for shard in audited.intersection(judged):
        with suppress(ShardCorrupt), audit.store.open_file(Layer.LEDGER, shard) as file:  # `readable` reports it
            rows = file.read(columns=["key", "reason"]).to_pylist()
            reasons[shard] = {row["key"]: row["reason"] for row in rows}
    return reasons


def _is_time(text: str | None) -> bool:
    try:
        datetime.fromisoformat(text or "")
    except ValueError:
        return False
    return True


AUDIT_CHECKS: tuple[AuditCheck, ...] = (audited_images, marks_of_states, authors_of_marks, strata_of_audits)
"""Checks of an audit whose file can be read."""
