"""Attention maps of the subjects while an image is generated: where the model looks for each of them.

Axes: B images, R reference subjects, K entity tokens, T text tokens, H W rows and columns of the latent.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from model.networks.attention_maps import MapRecorder


class MapCollector:
    """Averages the maps CA_l of Eq. 1 over layers and steps, for the prediction with text and image.

    Args:
        entity_tokens: weight of each text token in an entity's map.
        subjects: number of slots R; each has K / R entities.
        latent_size: rows and columns of the latent.
    """

    def __init__(self, entity_tokens: Float[Tensor, "B K T"], subjects: int, latent_size: tuple[int, int]) -> None:
        self._entity_tokens = entity_tokens
        self._subjects = subjects
        self._size = latent_size
        self._sum = torch.zeros(len(entity_tokens), subjects, *latent_size)
        self._steps = 0

    def recorder(self, rows: int) -> MapRecorder:
        """Return a recorder for a pass of `rows` rows, the first of which are the prediction with text and image."""
        entities = self._entity_tokens
        others = entities.new_zeros(rows - len(entities), *entities.shape[1:])
        return MapRecorder(torch.cat([entities, others]), self._size)

    def add(self, recorder: MapRecorder) -> None:
        """Add the maps of a pass."""
        images = len(self._entity_tokens)
        for ca in recorder.maps.values():
            enlarged = F.interpolate(ca[:images].float(), size=self._size, mode="bilinear", align_corners=False)
            by_subject = enlarged.reshape(images, self._subjects, -1, *self._size).mean(dim=2)
            self._sum += by_subject.cpu() / len(recorder.maps)
        self._steps += 1

    def mean(self) -> Float[Tensor, "B R H W"]:
        """Return the mean attention of each latent position to each subject's label and placeholder, 0 to 1."""
        return self._sum / max(self._steps, 1)
