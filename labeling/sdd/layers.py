"""Row class of each layer and optional folder."""

from collections.abc import Mapping

from labeling.sdd.schema import (
    CONFIRMATIONS,
    EMBEDDINGS,
    SIMILAR,
    Caption,
    Confirmations,
    Detections,
    Embedding,
    Entities,
    Image,
    Layer,
    LedgerRow,
    ListedUrl,
    Nouns,
    SddRow,
    SimilarImage,
)

OUTCOMES: Mapping[str, type] = {
    Layer.IMAGES: Image,
    Layer.CAPTIONS: Caption,
    Layer.NOUNS: Nouns,
    Layer.DETECTIONS: Detections,
    Layer.ENTITIES: Entities,
}
"""Row class of each layer of outcomes, whose rows have a state and a reason."""
ROWS: Mapping[str, type] = {Layer.URLS: ListedUrl, **OUTCOMES, Layer.SDD: SddRow, Layer.LEDGER: LedgerRow}
"""Row class of each layer."""
OPTIONAL: Mapping[str, type] = {CONFIRMATIONS: Confirmations, EMBEDDINGS: Embedding, SIMILAR: SimilarImage}
"""Row class of each optional folder, which is no layer: its files are made only if a setting asks for them."""
FOLDERS: Mapping[str, type] = {**ROWS, **OPTIONAL}
"""Row class of each layer and optional folder."""
HAVE_OUTCOMES = frozenset({*OUTCOMES, CONFIRMATIONS, EMBEDDINGS})
"""Layers and optional folders whose rows have a state and a reason."""
