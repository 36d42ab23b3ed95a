"""Examples of each mark, for galleries as in Fig. 7."""

from collections.abc import Iterable, Mapping

from labeling.quality.marks import AuditedImage, Mark


def examples(images: Iterable[AuditedImage], most: int) -> Mapping[Mark, tuple[AuditedImage, ...]]:
    """Return the first images of a sample with each mark, in the order in which they were drawn at random.

    Args:
        images: sample of an audit: `read_audit(store, name).images`.
        most: most images of a mark.
    """
    listed = list(images)
    return {mark: tuple([image for image in listed if image.mark == mark][:most]) for mark in Mark}
