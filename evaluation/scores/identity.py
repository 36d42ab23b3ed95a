"""Identity of a person by face embeddings, as FastComposer's evaluator counts it."""

import numpy as np
from jaxtyping import Float

from evaluation.scores.similarity import cosine_similarities


def identity_score(face: Float[np.ndarray, " D"] | None, reference: Float[np.ndarray, " D"]) -> float:
    """Return the cosine of two faces, 0 to 1: a negative one counts as 0, and so does an image without a face.

    Args:
        face: embedding of the image's face; None if it shows none.
        reference: embedding of the face in the reference photo.
    """
    if face is None:
        return 0.0
    return max(0.0, float(cosine_similarities(face[None], reference[None])[0, 0]))
