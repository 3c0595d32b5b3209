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

Pictures are compared byte for byte and, where they have detail to tell them apart by, by a
difference hash: a thumbnail of 16 x 17 grey pixels, and for each which of two neighbours is
lighter. At most `BITS` of 256 may differ. Coding a picture of 224 pixels anew as JPEG of quality
75 changes 10 bits at most, scaling it to two thirds 14; of a hundred made-up photographs no two
differ in fewer than 88. Pictures smaller than `SMALLEST`, or with fewer than `DETAIL` neighbours
that really differ, are compared byte for byte alone.

Weak points: a translation or a paraphrase is not seen, and neither is a mirrored or cropped
picture. Every run is kept as 32 bits: of 10^8 collected characters (400 MB, the most that is
sensible) one in 43 runs is found by chance. Nothing is random, so nothing takes a seed.

Shapes: G runs of a text, D collected pictures, H x W x C pixels.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SPAN = 32
"""Characters of a run; a power of two."""
MOST = 0.5
"""Share of a text's runs from which on it is a duplicate."""
BITS = 24
"""Bits of 256 in which the hashes of two copies of a picture may differ."""
SMALLEST = 32
"""Pixels of either edge below which a picture has no hash."""
DETAIL = 64
"""Neighbours of 256 that must differ by more than 2 of 255."""
_SIDE = 16


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


class Pictures:
    """The pictures that were collected."""

    def __init__(self, pictures: Iterable[NDArray[np.uint8]], *, nearly: bool = True) -> None:
        """Look at every picture once, `nearly` equal ones to be found too; none is kept."""
        hashes = []
        self._exact: set[bytes] = set()
        for picture in pictures:
            self._exact.add(_exactly(picture))
            found = difference_hash(picture) if nearly else None
            if found is not None:
                hashes.append(found)
        self._bits_D = np.array(hashes, np.uint8).reshape(len(hashes), _SIDE * _SIDE // 8)

    def has(self, picture: NDArray[np.uint8]) -> bool:
        """Whether a picture (H, W, C) is a duplicate."""
        if _exactly(picture) in self._exact:
            return True
        own = difference_hash(picture) if len(self._bits_D) else None
        if own is None:
            return False
        differing_D = np.bitwise_count(self._bits_D ^ own).sum(axis=1)
        return bool(differing_D.min() <= BITS)


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


def difference_hash(picture: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Return the 256 bits of a picture (H, W, C), as 32 bytes; None where it has no detail."""
    if min(picture.shape[:2]) < SMALLEST:
        return None
    grey = picture[:, :, :3].astype(np.float32).mean(axis=2).astype(np.uint8)
    small = Image.fromarray(grey).resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    steps = np.diff(np.asarray(small).astype(np.int16), axis=1)
    if (np.abs(steps) > 2).sum() < DETAIL:
        return None
    return np.packbits(steps > 0)


def _exactly(picture: NDArray[np.uint8]) -> bytes:
    shape = str(picture.shape).encode()
    return hashlib.sha256(shape + np.ascontiguousarray(picture).tobytes()).digest()
