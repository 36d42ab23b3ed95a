"""Reference photos of a batch as conditions, with caches for what later calls need again.

The image encoder sees each photo once, and the keys and values of a set of subjects at their boxes are projected once,
in whatever prompts and calls they occur.

Axes: B images, R subjects, P photos of all subjects, L patches of a photo, M = P·L image tokens.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from model.config import BoxCondition
from model.inputs.layout import RelativeBox
from model.inputs.reference import Photo, Subject
from model.inputs.subject import SubjectPictures
from model.networks.adapter import AdapterInputs, KeysValues
from model.subject_diffusion import SubjectDiffusion

Features = tuple[Float[Tensor, " _e"], Float[Tensor, "_l _v"]]
"""CLS embedding v_g and patch tokens v of one photo."""
Picture = UInt8[np.ndarray, "_s _s 3"]
SubjectPhotos = Sequence[Sequence[str]]
"""Hashes of the cut-out photos of each subject of an image."""
T = TypeVar("T")
_PHOTOS = 64
"""Photos whose features are kept; at full size 1.3 MB each in float32."""
_ROWS = 16
"""Sets of placed subjects whose keys and values are kept; at full size 13 MB per photo in float16."""


class Cache(Generic[T]):
    """The values of the last `size` keys that were used."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable) -> T | None:
        """Return the value of `key`, or None if it is not kept."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Hashable, value: T) -> T:
        """Keep a value, in place of the one that was not used for longest, and return it."""
        self._values[key] = value
        if len(self._values) > self._size:
            self._values.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forget all values."""
        self._values.clear()


@dataclass(frozen=True)
class PlacedSubjects:
    """The subjects of one image with the boxes that the adapters receive."""

    subjects: Sequence[Subject]
    bounds: Sequence[RelativeBox]


@dataclass(frozen=True)
class References:
    """Reference photos of a batch, encoded."""

    cls: Float[Tensor, "B R _e"]
    """CLS embedding of each subject: the mean over its photos. Zero in absent slots."""
    adapter: AdapterInputs | None
    """Image tokens with their keys and values; None without adapters."""


class ReferenceEncoder:
    """Encodes the subjects of batches, and keeps what it encoded.

    Args:
        pictures: cuts subjects out of their photos.
    """

    def __init__(self, pictures: SubjectPictures) -> None:
        self._pictures = pictures
        self._features: Cache[Features] = Cache(_PHOTOS)
        self._keys_values: Cache[tuple[KeysValues, ...]] = Cache(_ROWS)

    def clear(self) -> None:
        """Forget what was encoded."""
        self._features.clear()
        self._keys_values.clear()

    def __call__(
        self, net: SubjectDiffusion, rows: Sequence[PlacedSubjects], slots: int, latent_size: tuple[int, int]
    ) -> References:
        """Encode the subjects of each image.

        Args:
            net: the model.
            rows: the subjects of each image.
            slots: number of slots R, at least that of the subjects of any image.
            latent_size: rows and columns of the latent.

        Raises:
            ValueError: a subject has several photos, and the model cannot take them.
        """
        _refuse_photos_without_boxes(net, rows)
        cut = [[[self._cut(photo) for photo in subject.photos] for subject in row.subjects] for row in rows]
        features = self._encode(net, (picture for row in cut for subject in row for picture in subject))
        names = [[[_hash(picture) for picture in subject] for subject in row] for row in cut]
        cls = net.empty_token_ids.new_zeros(len(rows), slots, net.image_encoder.width, dtype=net.image_encoder.dtype)
        for at, row in enumerate(names):
            for slot, photos in enumerate(row):
                cls[at, slot] = torch.stack([features[name][0] for name in photos]).mean(dim=0)
        adapter = None if net.subject_tokens is None else self._adapter(net, rows, names, features, latent_size)
        return References(cls, adapter)

    def _cut(self, photo: Photo) -> Picture:
        """Return the subject alone; the random background of training is white here, so the generator is unused."""
        return self._pictures(photo.pixels, photo.outline, np.random.default_rng(0))

    def _encode(self, net: SubjectDiffusion, pictures: Iterable[Picture]) -> dict[str, Features]:
        """Return the features of each picture by its hash; those that are not kept are encoded in one batch."""
        weights, by_hash = _version([net.image_encoder]), {_hash(picture): picture for picture in pictures}
        kept = {name: self._features.get((name, weights)) for name in by_hash}
        features = {name: one for name, one in kept.items() if one is not None}
        if new := [name for name in by_hash if name not in features]:
            batch = torch.from_numpy(np.stack([by_hash[name] for name in new])).permute(0, 3, 1, 2)
            encoded = net.image_encoder(batch[None].to(net.empty_token_ids.device))
            for name, cls, patches in zip(new, encoded.cls[0], encoded.patches[0], strict=True):
                features[name] = self._features.put((name, weights), (cls, patches))
        return features

    def _adapter(
        self,
        net: SubjectDiffusion,
        rows: Sequence[PlacedSubjects],
        names: Sequence[SubjectPhotos],
        features: Mapping[str, Features],
        latent_size: tuple[int, int],
    ) -> AdapterInputs:
        """Return the image tokens of each image, one slot per photo, with their keys and values."""
        slots = max(1, *(sum(map(len, row)) for row in names))
        encoder, tokens, device = net.image_encoder, net.subject_tokens, net.empty_token_ids.device
        assert tokens is not None
        shape = (len(rows), slots, encoder.patches, encoder.patch_width)
        patches = torch.zeros(shape, dtype=encoder.dtype, device=device)
        boxes, strengths = torch.zeros(len(rows), slots, 4), torch.ones(len(rows), slots)
        present = torch.zeros(len(rows), slots, dtype=torch.bool)
        for at, (row, photos) in enumerate(zip(rows, names, strict=True)):
            for slot, (name, box, strength) in enumerate(_slots(row, photos)):
                patches[at, slot] = features[name][1]
                boxes[at, slot], strengths[at, slot] = torch.tensor(box), strength
                present[at, slot] = True
        inputs = tokens.inputs(
            patches,
            boxes.to(device),
            present.to(device),
            None if bool((strengths == 1).all()) else strengths.to(device),
            bool(present.all()),
            latent_size,
        )
        keys = [(slots, latent_size, tuple(_slots(row, photos))) for row, photos in zip(rows, names, strict=True)]
        return replace(inputs, keys_values=self._project(net, inputs, keys))

    def _project(
        self, net: SubjectDiffusion, inputs: AdapterInputs, keys: Sequence[Hashable]
    ) -> tuple[KeysValues, ...]:
        """Return keys and values of each layer; images with the same key share them."""
        assert net.subject_tokens is not None
        weights = _version([net.subject_tokens, *(adapter.S for adapter in net.unet.adapters())])
        dtype = net.unet.base.conv_in.weight.dtype
        rows: dict[Hashable, tuple[KeysValues, ...]] = {}
        for at, key in enumerate(keys):
            if key in rows:
                continue
            kept = self._keys_values.get((key, weights))
            if kept is None:
                centres = None if inputs.patch_centres is None else inputs.patch_centres[at : at + 1]
                projected = net.unet.project_tokens(inputs.tokens[at : at + 1].to(dtype), centres)
                kept = self._keys_values.put((key, weights), projected)
            rows[key] = kept
        return tuple(
            (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
            for layer in zip(*(rows[key] for key in keys), strict=True)
        )


def _slots(row: PlacedSubjects, names: SubjectPhotos) -> Iterator[tuple[str, RelativeBox, float]]:
    """Return hash, box and strength of each photo; the photos of a subject share its strength."""
    for subject, box, photos in zip(row.subjects, row.bounds, names, strict=True):
        yield from ((name, box, subject.strength / len(photos)) for name in photos)


def _refuse_photos_without_boxes(net: SubjectDiffusion, rows: Sequence[PlacedSubjects]) -> None:
    several = [subject.label for row in rows for subject in row.subjects if len(subject.photos) > 1]
    if several and net.config.box_condition is BoxCondition.NULL_FOR_SINGLE:
        raise ValueError(
            f"{several[0]!r} has several photos, but this model counts photos as subjects "
            f"(model.box_condition='null_for_single'): give one photo"
        )


def _hash(picture: Picture) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()


def _version(modules: Iterable[nn.Module]) -> Hashable:
    """Return a value that changes when a weight is replaced, changed in place, moved or cast."""
    weights = [weight for module in modules for weight in module.parameters()]
    return hash(tuple((id(weight), weight._version, weight.dtype, weight.device) for weight in weights))
