"""Duplicates: evaluated documents that were collected already, word for word or nearly.

What is held at a constant is tested on texts that had no part in that constant. A copy of a
collected text is no such text, and neither is one with another date in it; crawled data is
full of both (Lee et al., 2022, "Deduplicating training data makes language models better").
So an evaluated document is left out where it is nearly a collected one.

Texts are compared by the runs of `SPAN` characters that they consist of (shingles; Broder,
1997), after case, spaces and punctuation are taken out of them. A text is a duplicate if at
least the share `MOST` of its runs, each counted once, stands in collected texts, whichever:
it is asked how much of what is evaluated was seen, so an excerpt of a long collected text is
a duplicate, and a long text that quotes a collected one is not. Thirty-two characters are five
or six words, rarely written twice by chance. A text of which one word in ten was replaced has
half of its runs left; of the bundled texts no evaluated one shares more than a twentieth. A text
shorter than a run is compared as a whole.

Pictures are compared byte for byte, as they are fed, and, where they have detail to tell them
apart by, as they came (`look`): one of 8 pixels made a model's 224 seems to have detail, and is all
smooth slopes that look alike. Two looks must agree in two ways. A difference hash says, of 16 x 17
grey pixels, which of two neighbours is lighter, and at most `BITS` of 256 may differ. Coding a
picture of 224 pixels anew as JPEG of quality 75 changes 10 bits at most, scaling it to two thirds
14; of a hundred made-up photographs no two differ in fewer than 88. But pictures that were taken in
the same way (X-rays, goods on a white ground) rise and fall in the same places. So thumbnails of
8 x 8 pixels, in colours and brought to the same brightness and contrast, may differ by `CLOSE` at
most: for 224 pixels coding with quality 50 makes 0.7, scaling 0.6, and another object on the same
ground more than 2. Pictures smaller than `SMALLEST`, or with fewer than `DETAIL` neighbours that
really differ, are compared byte for byte alone.

Weak points: a translation or a paraphrase is not seen, and neither is a mirrored or cropped
picture, a grey copy of a coloured one, or one of fewer than 64 pixels that was coded anew. Every
run is kept as 32 bits: of 10^8 collected characters (400 MB, the most that is sensible) one in 43
runs is found by chance. Nothing is random, so nothing takes a seed.

Shapes: G runs of a text, D collected pictures with a look, S side of a thumbnail, H x W x C pixels.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.documents import Document

SPAN = 32
"""Characters of a run; a power of two."""
MOST = 0.5
"""Share of a text's runs from which on it is a duplicate."""
BITS = 24
"""Bits of 256 in which the hashes of two copies of a picture may differ."""
CLOSE = 1.5
"""Of 255: root mean square by which the thumbnails of two copies of a picture may differ."""
SMALLEST = 32
"""Pixels of either edge below which a picture has no look."""
DETAIL = 64
"""Neighbours of 256 that must differ by more than 2 of 255."""
_SIDE = 16
_THUMBNAIL = 8


class Texts:
    """The texts that were collected."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Look at every text once; none is kept."""
        found = [runs(text) for text in texts]
        self._sorted_G = np.unique(np.concatenate(found)) if found else np.empty(0, np.uint32)

    def share(self, text: str) -> float:
        """Return which share of a text's runs, each counted once, were collected: 0 to 1."""
        own_G = runs(text)
        if not len(self._sorted_G):
            return 0.0
        at_G = np.minimum(np.searchsorted(self._sorted_G, own_G), len(self._sorted_G) - 1)
        return float((self._sorted_G[at_G] == own_G).mean())

    def has(self, text: str) -> bool:
        """Whether a text is a duplicate."""
        return self.share(text) >= MOST


class Look(NamedTuple):
    """What is kept of a picture to find its copies by."""

    bits: NDArray[np.uint8]
    """Its difference hash, 256 bits as 32 bytes."""
    thumbnail_SS3: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture(Document):
    """An image as it is fed, and how it looked before that."""

    look: Look | None
    """Of the image as it came; None where only its equals are looked for."""

    @classmethod
    def of(cls, document: Document, image: NDArray[np.uint8], own: Look | None) -> "Picture":
        """Return a document with what is fed of it, and its look."""
        return cls(
            name=document.name, split=document.split, image=image, target=document.target, look=own
        )


class Pictures:
    """The pictures that were collected."""

    def __init__(self, pictures: Iterable[Document]) -> None:
        """Look at every picture once; none is kept. One without a look is found by its bytes."""
        self._exact: set[bytes] = set()
        self._looks: list[Look] = []
        for picture in pictures:
            self._exact.add(_exactly(picture))
            if isinstance(picture, Picture) and picture.look is not None:
                self._looks.append(picture.look)
        hashes = [own.bits for own in self._looks]
        self._bits_D = np.array(hashes, np.uint8).reshape(len(hashes), _SIDE * _SIDE // 8)

    def has(self, picture: Document) -> bool:
        """Whether a picture is a duplicate."""
        if _exactly(picture) in self._exact:
            return True
        own = picture.look if isinstance(picture, Picture) else None
        if own is None:
            return False
        differing_D = np.bitwise_count(self._bits_D ^ own.bits).sum(axis=1)
        return any(
            _difference(self._looks[i].thumbnail_SS3, own.thumbnail_SS3) <= CLOSE
            for i in np.flatnonzero(differing_D <= BITS)
        )


def runs(text: str) -> NDArray[np.uint32]:
    """Return a number for every different run of `SPAN` characters of a text, ascending: (G,).

    A text with fewer characters, or none, has one run.
    """
    plain = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).casefold())
    point = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    if len(point) < SPAN:
        point = np.concatenate([point, np.zeros(SPAN - len(point), np.uint64)])
    value = _mixed(point)
    width = 1
    while width < SPAN:  # of two runs side by side, one of twice the length
        value = _mixed(value[:-width] * _ODD + value[width:])
        width *= 2
    return np.unique((value >> np.uint64(32)).astype(np.uint32))


_ODD = np.uint64(0x9E3779B97F4A7C15)


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers that look random, the same for the same (splitmix64; Steele et al., 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def look(picture: NDArray[np.uint8]) -> Look | None:
    """Return the look of a picture (H, W, C) as it came; None where it has no detail."""
    bits = difference_hash(picture)
    if bits is None:
        return None
    colours = picture[:, :, :3] if picture.shape[2] > 2 else np.repeat(picture[:, :, :1], 3, axis=2)
    small = Image.fromarray(np.ascontiguousarray(colours))
    small = small.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return Look(bits=bits, thumbnail_SS3=np.asarray(small))


def _difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return by how much of 255 two thumbnails differ, brightness and contrast aside."""
    first, second = (t.astype(np.float64) - t.mean() for t in (one, other))
    spread = max(first.std(), second.std())
    apart = first / max(first.std(), 1e-9) - second / max(second.std(), 1e-9)
    return float(spread * np.sqrt((apart**2).mean()))


def difference_hash(picture: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Return the 256 bits of a picture (H, W, C), as 32 bytes; None where it has no detail."""
    if min(picture.shape[:2]) < SMALLEST:
        return None
    grey = picture[:, :, :3].mean(axis=2, dtype=np.float32).astype(np.uint8)
    small = Image.fromarray(grey).resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    steps = np.diff(np.asarray(small).astype(np.int16), axis=1)
    if (np.abs(steps) > 2).sum() < DETAIL:
        return None
    return np.packbits(steps > 0)


def _exactly(picture: Document) -> bytes:
    assert picture.image is not None
    shape = str(picture.image.shape).encode()
    return hashlib.sha256(shape + np.ascontiguousarray(picture.image).tobytes()).digest()


def by_nature(alike: int, others: int) -> str | None:
    """Return why pictures are not to be left out, where so many are alike; None where few are.

    Some kinds of picture (scans of one organ, say) are alike though none is a copy. Left out, they
    would leave a sample of what is unusual.
    """
    if alike <= max(5, (alike + others) // 10):
        return None
    return (
        f"{alike} of {alike + others} images to evaluate nearly equal collected ones; are they all"
        " of one kind, such as scans, write `near_duplicates: keep`; where they are copies, take"
        " these out of one split"
    )
