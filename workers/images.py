"""Images: from any picture to the bytes that a model is fed, as its own library makes them.

An image model was trained on pictures of one size, made in one way: resized with a
certain filter, perhaps cropped. That way is written beside its weights, for transformers in
`preprocessor_config.json` and for timm in `config.json` (`pretrained_cfg`). Here it is read,
and done with Pillow as the library's own Pillow code does it, up to the byte. What follows,
bytes to numbers, is `workers.checkpoint.Pixels`.

A picture is first given the model's channels, grey or red, green and blue; transparency is
dropped. Then in order:

    resize   both edges to `size`, or the shortest (longest) one with the picture's proportions
    crop     the middle of it, where it is too small with a border of `fill`

The libraries round differently where an odd number of pixels is cut off, and both are followed:
the bytes equal those of timm's evaluation transform and of transformers' Pillow processors.
(Transformers' processors on torchvision may differ by 1 of 255 in some pixels.) Only these
steps are known; a checkpoint that asks for another is refused.

Shapes: H x W x C pixels.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PREPROCESSOR = "preprocessor_config.json"
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's name of pictures of so many channels."""
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
"""Pillow's number of a filter, by timm's name of it."""
_SQUARE = {
    "vit": {"size": 224, "resample": 2, "do_center_crop": False},
    "deit": {"size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
}
"""What transformers' processors do where their file does not say."""
Size = tuple[int, int]
Edge = Literal["both", "shortest", "longest"]


class TransformError(ValueError):
    """A checkpoint that does not say what it was fed, or says something that is not known here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transform:
    """What is done with a picture."""

    channels: int
    """Of what the model is fed."""
    edge: Edge
    """Which edge of the picture is brought to `size`."""
    size: Size | None
    """(H, W) in pixels; None: the picture is not resized."""
    resample: int
    """Pillow's number of the filter."""
    crop: Size | None
    """(H, W) in pixels of the middle; None: all of it."""
    fill: tuple[int, ...]
    """Byte of every channel around a picture smaller than the crop."""
    rounding: Literal["down", "even"]
    """How half a pixel that is cut off on either side is rounded: transformers', timm's."""

    def told(self) -> dict[str, object]:
        """Return it as plain values, which `of` takes back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Transform":
        """Return the transform of these plain values."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
        return cls(**plain)


def transform(folder: Path, image: tuple[int, int, int]) -> Transform:
    """Return what a checkpoint folder says is done with pictures; `image` is (H, W, C), as fed.

    Raises TransformError where that is unsaid, unknown, or makes another size than the model takes.
    """
    config = _parsed(folder / "config.json")
    timm = config.get("pretrained_cfg") if "architecture" in config else None
    path = folder / ("config.json" if timm is not None else PREPROCESSOR)
    if timm is None and not path.is_file():
        raise TransformError(
            f"{folder} has no {PREPROCESSOR}, so how pictures are resized is unknown. Save the"
            " image processor beside the model (`AutoImageProcessor.from_pretrained(…)"
            ".save_pretrained(…)`)."
        )
    said = timm if isinstance(timm, dict) else _parsed(path)
    try:
        model = str(config.get("model_type"))
        found = _timm(said, image) if timm is not None else _transformers(said, image[2], model)
    except (KeyError, TypeError, ValueError) as error:
        raise TransformError(
            f"{path} does not say how pictures are resized in a way that is known here"
            f" ({type(error).__name__}: {error}). Compare it with its source."
        ) from None
    made = found.crop or (found.size if found.edge == "both" else None)
    if made != image[:2]:
        what = "pictures as they come" if made is None else f"{made[0]} x {made[1]} pixels"
        raise TransformError(
            f"{path} makes {what}, and the model takes {image[0]} x {image[1]}. Save the image"
            " processor that belongs to the model beside it."
        )
    return found


def fed(picture: NDArray[np.uint8], how: Transform) -> NDArray[np.uint8]:
    """Return what the model is fed of a picture (H, W, C) of any size and 1 to 4 channels.

    Raises ValueError where the array is no picture.
    """
    if picture.ndim != 3 or picture.shape[2] not in MODES or 0 in picture.shape:
        raise ValueError(f"found an array of {picture.shape}, expected (H, W, 1 to 4 channels)")
    mode, wanted = MODES[picture.shape[2]], "L" if how.channels == 1 else "RGB"
    flat = picture[:, :, 0] if mode == "L" else picture
    made = Image.fromarray(np.ascontiguousarray(flat))
    made = made.convert(wanted) if mode != wanted else made
    if how.size is not None:
        height, width = _resized(made.height, made.width, how.size, how.edge)
        made = made.resize((width, height), resample=Image.Resampling(how.resample))
    pixels = np.asarray(made, np.uint8).reshape(made.height, made.width, how.channels)
    return pixels if how.crop is None else _cropped(pixels, how.crop, how.fill, how.rounding)


def _resized(height: int, width: int, size: Size, edge: Edge) -> Size:
    """Return what a picture is resized to; at least one pixel each way."""
    if edge == "both":
        return size
    if edge == "shortest" and size[0] == size[1]:  # here both libraries round the other edge down
        short, long = min(height, width), max(height, width)
        other = int(size[0] * long / short)
        return (size[0], other) if height <= width else (other, size[0])
    choose = min if edge == "shortest" else max
    ratio = choose(height / size[0], width / size[1])
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _cropped(
    pixels: NDArray[np.uint8], crop: Size, fill: Sequence[int], rounding: str
) -> NDArray[np.uint8]:
    """Return the middle of a picture, where it is too small with a border."""
    lacking = [max(0, wanted - there) for wanted, there in zip(crop, pixels.shape, strict=False)]
    if any(lacking):
        before = [n // 2 for n in lacking]
        if rounding == "down":  # transformers puts the odd pixel before
            before = [-(-n // 2) for n in lacking]
        framed_HWC = np.empty(
            (pixels.shape[0] + lacking[0], pixels.shape[1] + lacking[1], pixels.shape[2]), np.uint8
        )
        framed_HWC[:] = np.array(fill, np.uint8)
        inner = (slice(start, start + n) for start, n in zip(before, pixels.shape, strict=False))
        framed_HWC[tuple(inner)] = pixels
        pixels = framed_HWC
    over = [there - wanted for wanted, there in zip(crop, pixels.shape, strict=False)]
    top, left = (n // 2 if rounding == "down" else round(n / 2) for n in over)
    return np.ascontiguousarray(pixels[top : top + crop[0], left : left + crop[1]])


def _timm(said: Mapping[str, Any], image: tuple[int, int, int]) -> Transform:
    """Return timm's evaluation transform (`timm.data.transforms_factory`)."""
    share = float(said.get("crop_pct") or 0.875)
    crop = image[0], image[1]
    mode = said.get("crop_mode") or "center"
    edges: Mapping[str, Edge] = {"center": "shortest", "squash": "both", "border": "longest"}
    fill = (0,) * image[2]
    if mode == "border":
        mean = [float(m) for m in said["mean"]]
        fill = tuple(round(255 * m) for m in (mean if len(mean) == image[2] else mean * image[2]))
    return Transform(
        channels=image[2],
        edge=edges[mode],
        size=(math.floor(crop[0] / share), math.floor(crop[1] / share)),
        resample=FILTERS[said.get("interpolation") or "bicubic"],
        crop=crop,
        fill=fill,
        rounding="even",
    )


def _transformers(said: Mapping[str, Any], channels: int, model: str) -> Transform:
    """Return the transform of a transformers image processor of the plain kind.

    Where it says no name, it is that of the kind of `model`.
    """
    name = str(said.get("image_processor_type") or said.get("feature_extractor_type") or model)
    kind = name.removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    defaults = _SQUARE.get(kind.lower(), {})
    told = {**defaults, **{k: v for k, v in said.items() if v is not None}}
    for step in ("do_pad", "crop_pct"):
        if told.get(step):
            raise ValueError(f"`{step}` is {told[step]!r}, which is not known here")
    nothing: tuple[Edge, Size | None] = ("both", None)
    edge, size = _size(told["size"]) if told.get("do_resize", True) else nothing
    cropped_edge, crop = _size(told["crop_size"]) if told.get("do_center_crop") else nothing
    if cropped_edge != "both":
        raise ValueError(f"found `crop_size` {told['crop_size']!r}")
    return Transform(
        channels=channels,
        edge=edge,
        size=size,
        resample=int(Image.Resampling(told["resample"])) if size is not None else 0,
        crop=crop,
        fill=(0,) * channels,
        rounding="down",
    )


def _size(said: Any) -> tuple[Edge, Size]:
    if isinstance(said, dict):
        keys = {key for key, value in said.items() if value is not None}
        if keys == {"shortest_edge"}:
            return "shortest", (int(said["shortest_edge"]),) * 2
        if keys != {"height", "width"}:
            raise ValueError(f"found the size {said!r}")
        return "both", (int(said["height"]), int(said["width"]))
    height, width = (said, said) if isinstance(said, int) else said
    return "both", (int(height), int(width))


def _parsed(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TransformError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Restore it from its source."
        ) from None
    if not isinstance(found, dict):
        raise TransformError(f"{path} holds no mapping. Restore it from its source.")
    return found
