"""Row class of each layer."""

from collections.abc import Mapping

from labeling.sdd.schema import (
    Caption,
    Detections,
    Entities,
    Image,
    Layer,
    LedgerRow,
    ListedUrl,
    Nouns,
    SddRow,
)

OUTCOMES: Mapping[Layer, type] = {
    Layer.IMAGES: Image,
    Layer.CAPTIONS: Caption,
    Layer.NOUNS: Nouns,
    Layer.DETECTIONS: Detections,
    Layer.ENTITIES: Entities,
}
"""Row class of each layer of outcomes, whose rows have a state and a reason."""
ROWS: Mapping[Layer, type] = {Layer.URLS: ListedUrl, **OUTCOMES, Layer.SDD: SddRow, Layer.LEDGER: LedgerRow}
"""Row class of each layer."""
