"""Generate into a photo: a region is generated anew, the rest of the photo stays.

The model works on a window of the photo around the region, at its own size. In every step the latents outside the
region are those of the photo with the noise of that step, so that the region fits its surroundings. The result is put
back into the photo through a feathered mask; outside of it every pixel is that of the photo.

Axes: B images, C latent channels, H W rows and columns of the latent, h w of the photo, in pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from model.inputs.layout import LayoutInput, RelativeBox, Size
from model.inputs.pictures import Picture, mask_pixels, rgb_pixels
from model.inputs.reference import Subject
from model.sampling.denoising import SamplingProgress
from model.sampling.schedulers import Scheduler

Pixel = TypeVar("Pixel", bound=np.generic)

_MARGIN = 1.5
"""Side of the window, in longest sides of the region. Choice: enough surroundings to fit light and scale."""


@dataclass(frozen=True)
class Canvas:
    """A region of a photo, and the window around it that the model generates.

    Raises:
        ValueError: the region is empty.
    """

    photo: UInt8[np.ndarray, "h w 3"]
    """The photo in RGB."""
    region: Bool[np.ndarray, "h w"]
    """Pixels that are generated."""
    window: tuple[int, int, int, int]
    """Left, top, right and bottom of the window, in pixels of the photo."""

    @classmethod
    def around(cls, photo: UInt8[np.ndarray, "h w 3"], region: Bool[np.ndarray, "h w"]) -> "Canvas":
        """Return a canvas whose window is a square around the region, or less near the edges of a narrow photo."""
        if not region.any():
            raise ValueError("the mask of the region is empty: mark the part of the photo that is to be generated")
        left, top, width, height = cv2.boundingRect(region.astype(np.uint8))
        side = math.ceil(_MARGIN * max(width, height))
        rows, columns = region.shape
        x0, x1 = _interval(left, left + width, side, columns)
        y0, y1 = _interval(top, top + height, side, rows)
        return cls(photo, region, (x0, y0, x1, y1))

    @property
    def region_box(self) -> RelativeBox:
        """Bounds of the region, as shares of the photo."""
        left, top, width, height = cv2.boundingRect(self.region.astype(np.uint8))
        rows, columns = self.region.shape
        return left / columns, top / rows, (left + width) / columns, (top + height) / rows

    def layout_input(self, subject: Subject) -> LayoutInput:
        """Return the subject's input of the layout of the window; without a place, the subject fills the region.

        Raises:
            ValueError: the mask that places the subject is not of the photo's size.
        """
        given = subject.layout_input
        if given.mask is None:
            return replace(given, box=self.to_window(given.box or self.region_box))
        if given.mask.shape != self.region.shape:
            sizes = ["x".join(map(str, shape[::-1])) for shape in (given.mask.shape, self.region.shape)]
            raise ValueError(
                f"the mask that places {subject.label!r} is {sizes[0]}, the photo {sizes[1]}: give both in one size"
            )
        return replace(given, mask=self.crop(given.mask), box=None)

    def latent_size(self, side: int, multiple: int) -> Size:
        """Return rows and columns of the latent, about as many as `side` x `side`, in the window's proportions.

        Args:
            side: side of the latents in training.
            multiple: number that both must be a multiple of.
        """
        x0, y0, x1, y1 = self.window
        stretch = math.sqrt((x1 - x0) / (y1 - y0))
        rows, columns = (max(1, round(count / multiple)) * multiple for count in (side / stretch, side * stretch))
        return rows, columns

    def to_window(self, box: RelativeBox) -> RelativeBox:
        """Return a box of the photo in shares of the window, cut at its edges."""
        (x0, y0, x1, y1), (rows, columns) = self.window, self.region.shape
        left, right = ((edge * columns - x0) / (x1 - x0) for edge in box[::2])
        top, bottom = ((edge * rows - y0) / (y1 - y0) for edge in box[1::2])
        return max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)

    def to_photo(self, box: RelativeBox) -> RelativeBox:
        """Return a box of the window in shares of the photo."""
        (x0, y0, x1, y1), (rows, columns) = self.window, self.region.shape
        left, right = ((edge * (x1 - x0) + x0) / columns for edge in box[::2])
        top, bottom = ((edge * (y1 - y0) + y0) / rows for edge in box[1::2])
        return left, top, right, bottom

    def crop(self, pixels: NDArray[Pixel]) -> NDArray[Pixel]:
        """Return the window of an array of the photo's size."""
        x0, y0, x1, y1 = self.window
        return pixels[y0:y1, x0:x1]

    def window_image(self, height_px: int, width_px: int) -> UInt8[Tensor, "1 3 _height _width"]:
        """Return the window of the photo at the size of the generated image."""
        resized = _resize(np.ascontiguousarray(self.crop(self.photo)), height_px, width_px)
        return torch.from_numpy(resized).permute(2, 0, 1)[None]

    def latent_region(self, size: Size) -> Float[Tensor, "1 1 H W"]:
        """Return 1 in the positions of the latent that the region touches, 0 elsewhere."""
        window = torch.from_numpy(np.array(self.crop(self.region))).float()[None, None]
        return (torch.nn.functional.adaptive_max_pool2d(window, size) > 0).float()

    def paste(self, generated: UInt8[np.ndarray, "_height _width 3"], feather_px: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return the photo with the generated window in the region.

        Args:
            generated: image of the window.
            feather_px: width of the border outside the region in which photo and image blend, in pixels of the photo.
        """
        x0, y0, x1, y1 = self.window
        outside = cv2.distanceTransform((~self.region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        share = (1.0 - outside[y0:y1, x0:x1] / (feather_px + 1)).clip(0.0, 1.0)[..., None]
        image, kept = _resize(generated, y1 - y0, x1 - x0), self.crop(self.photo)
        result = self.photo.copy()
        result[y0:y1, x0:x1] = (share * image + (1.0 - share) * kept).round().astype(np.uint8)
        return result


def photo_canvas(image: Picture, mask_image: Picture | None, subjects: Sequence[Subject]) -> Canvas:
    """Return the canvas of a photo; without a mask, its region is that of the subjects' boxes.

    Raises:
        ValueError: the mask is not of the photo's size or empty, or there is neither mask nor box.
    """
    photo = rgb_pixels(image, "the photo")
    shape = (photo.shape[0], photo.shape[1])
    if mask_image is None:
        boxes = [subject.layout_input.box for subject in subjects]
        given = [box_region(box, shape) for box in boxes if box is not None]
        if not given:
            raise ValueError("a photo is given, but no region: give mask_image, or a box for a subject")
        return Canvas.around(photo, np.logical_or.reduce(given))
    region = mask_pixels(mask_image, "the mask of the region")
    if region.shape != shape:
        sizes = ["x".join(map(str, each[::-1])) for each in (region.shape, shape)]
        raise ValueError(f"the mask of the region is {sizes[0]}, the photo {sizes[1]}: give both in one size")
    return Canvas.around(photo, region)


def keep_photo(
    canvas: Canvas, vae: AutoencoderKL, cell_px: int, noise: Float[Tensor, "B C H W"], scheduler: Scheduler
) -> Callable[[SamplingProgress], Tensor]:
    """Return a function that puts the photo's latents, with the noise of the next step, outside the region.

    Args:
        canvas: photo and region.
        vae: encodes the photo.
        cell_px: side of a latent position, in pixels.
        noise: initial noise.
        scheduler: scheduler of the call.
    """
    size = (noise.shape[-2], noise.shape[-1])
    pixels = canvas.window_image(size[0] * cell_px, size[1] * cell_px).to(noise.device)
    latent = vae.encode((pixels / 127.5 - 1.0).to(vae.dtype)).latent_dist.mode()
    photo = (latent.float() * vae.config.scaling_factor).expand_as(noise)
    region = canvas.latent_region(size).to(noise.device)

    def keep(progress: SamplingProgress) -> Tensor:
        outside = photo
        if progress.following is not None:
            times = torch.full((len(photo),), progress.following, device=photo.device)
            outside = scheduler.add_noise(photo, noise, times.to(scheduler.timesteps.dtype))
        kept: Tensor = region * progress.latents + (1.0 - region) * outside
        return kept

    return keep


def box_region(box: RelativeBox, shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Return the mask of a box in an image of `shape` (height, width); at least one pixel."""
    rows, columns = shape
    x0, y0 = math.floor(box[0] * columns), math.floor(box[1] * rows)
    region = np.zeros(shape, dtype=bool)
    region[y0 : max(math.ceil(box[3] * rows), y0 + 1), x0 : max(math.ceil(box[2] * columns), x0 + 1)] = True
    return region


def _interval(low: int, high: int, side: int, limit: int) -> tuple[int, int]:
    """Return an interval of `side` pixels around that from `low` to `high`, moved and cut to lie in 0 to `limit`."""
    side = min(side, limit)
    start = min(max((low + high - side) // 2, 0), limit - side)
    return start, start + side


def _resize(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    shrinks = height < pixels.shape[0] or width < pixels.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=method), np.uint8)
