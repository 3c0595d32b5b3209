"""Pixels: an image file's bytes as the array that models' own transforms begin with.

Eight bits a channel, grey as one channel and everything else as three: palettes and
transparency become colours as Pillow converts them, which is what the transforms of
transformers and timm do first. A photograph that says how the camera was held is turned
upright, as `datasets` and transformers do. Resizing and cropping are the model's business.

Weak points: colour profiles are not applied, of an animation the first frame is taken, and
two versions of Pillow may decode a JPEG to pixels that differ by one.

Shapes: H height, W width, C channels.
"""

import io
import re
import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

MOST = 2**26
"""Pixels of an image: more is a mistake, or a file made to fill the memory."""
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
"""Pillow's modes that become eight bits a channel without a loss of range."""
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Of the files of a folder, which are images, whatever their case."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded, whatever a file calls itself: Pillow's other thirty decoders see less use, and
that of EPS starts Ghostscript."""


def decoded(content: bytes) -> NDArray[np.uint8]:
    """Return the (H, W, C) pixels of an image file.

    Raises ValueError for bytes that are no whole image of at most `MOST` pixels and 8 bits.
    """
    # A tenth of a second to import; texts do without.
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd meta data; the pixels are what counts
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                if opened.width * opened.height > MOST:
                    raise ValueError(f"it has more than {MOST} pixels ({opened.size})")
                if opened.mode not in EIGHT_BITS or _is_deep(opened):
                    deep = f"{opened.mode!r}" + " of 16 bits" * (opened.mode in EIGHT_BITS)
                    raise ValueError(f"its pixels are {deep}; convert them to 8 bits")
                upright = ImageOps.exif_transpose(opened)
                grey = upright.mode in ("1", "L", "LA")
                image_HWC = np.asarray(upright.convert("L" if grey else "RGB"))
    except UnidentifiedImageError:  # its own words name an address in memory
        raise ValueError("it is no whole image (of no known format)") from None
    except (OSError, SyntaxError, EOFError, OverflowError, Image.DecompressionBombError) as error:
        raise ValueError(f"it is no whole image ({error})") from None
    return image_HWC.reshape(*image_HWC.shape[:2], -1)


def _is_deep(opened: "Image.Image") -> bool:
    """Whether the file has 16 bits a channel, of which Pillow drops eight without a word."""
    told = [tile[3] for tile in getattr(opened, "tile", ())]
    args = [arg for one in told for arg in (one if isinstance(one, tuple) else (one,))]
    if opened.format == "PPM":  # its largest value stands beside the mode
        return any(isinstance(arg, int) and arg > 255 for arg in args)
    return any(isinstance(arg, str) and re.search(r";16[BLN]", arg) for arg in args)
