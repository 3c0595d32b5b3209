"""Giving: what a donor is fed, by source.

    dataset             a collection sequence of another document, at least as long
    random_tokens       any token of the vocabulary that is not special, at each position
    random_characters   printable ASCII characters, through the model's tokenizer
    generated           what the model itself writes (`workers.generating`)
    random_pixels       any value at each pixel and channel
    shuffled_pixels     the pixels of a collected image of another document, in any
                        order; so its colours, but nothing that it shows
    paired              the donor that stands beside a prompt in the source, token by token

Made-up texts have the receiver's special tokens where it has them, and are
corrupted as it is (masked models): what the receiver has hidden behind `<mask>` or
a random token is hidden in the donor behind the same, and what it keeps is kept.
That is what `workers.data.corrupt` makes of them with the receiver's seed and
number. Collected sequences come with corruption of their own.

Everything is drawn by (seed, sequence, draw), a shared donor by (seed, draw).
Several draws of one sequence from the data set differ while there are sequences.

Shapes: T positions, H x W x C pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.tokenising import encode

_CHOSEN, _MADE = 3, 22  # keep these streams apart from each other and from those of the workers
_CHARACTERS_PER_TOKEN = 2000
"""Random characters tried for each token that is wanted, before a tokenizer is refused."""


class DonorError(ValueError):
    """Some evaluated sequence can have no donor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """One sequence of the data table."""

    number: int
    document: str
    fed: NDArray[np.integer]
    """Text: (T,) token ids; images: (H, W, C) pixels."""
    kept: NDArray[np.bool_]
    """Text: (T,) where a made-up donor is fed the same: special tokens, `<mask>` among them, and
    random tokens that hide others. Images: empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gift:
    """What a donor is fed, before it is cut."""

    fed: NDArray[np.integer]
    donor: Window | None
    """The sequence it was taken from; None where it is made up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Who gets donors, and how they are drawn."""

    told: Mapping[str, Any]
    """The task's arguments."""
    receivers: Sequence[Window]
    pool: Sequence[Window]
    """Collected sequences that may give, ascending by number."""
    shared: bool
    """Whether each receiver stands for all that begin as it does."""
    written: Mapping[tuple[int, int], NDArray[np.int64]]
    """Generated or paired texts by (sequence, draw); where these are the donors."""

    @property
    def draws(self) -> int:
        """Donors of every receiver."""
        return int(self.told["draws"])

    def stream(self, purpose: int, receiver: Window, draw: int) -> np.random.Generator:
        """Return the random numbers of one donor, the same whatever else is asked for."""
        number, group = receiver.number, 0
        if self.shared:
            number, group = 0, 1 + begins(receiver, self.told["opening"])
        key = np.array([self.told["seed"], number], np.uint64)
        counter = np.array([0, group, draw, purpose], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))


def begins(window: Window, opening: int | None) -> bool:
    """Whether a window begins with the special token that only some begin with."""
    return opening is not None and bool(window.fed.flat[0] == opening)


def _others(asked: Asked, receiver: Window) -> list[Window]:
    others = [w for w in asked.pool if w.document != receiver.document]
    if not others:
        raise DonorError(
            f"no collected sequence may give to sequence {receiver.number}: a donor must be of"
            f" another document than {receiver.document!r}, and a shared one of none that is"
            " evaluated; collect more documents"
        )
    return others


def _fits(donor: Window, receiver: Window, opening: int | None) -> bool:
    alike = begins(donor, opening) == begins(receiver, opening)
    return alike and len(donor.fed) >= len(receiver.fed)


def _chosen(asked: Asked, receiver: Window) -> list[Window]:
    """Return the collection sequence of every draw: none twice while there are others."""
    opening = asked.told["opening"]
    fit = [w for w in _others(asked, receiver) if _fits(w, receiver, opening)]
    if not fit:
        raise DonorError(
            f"no collection sequence of another document is as long as sequence"
            f" {receiver.number} ({len(receiver.fed)} positions), with special tokens where it has"
            " them; collect more sequences"
        )
    chosen: list[Window] = []
    left: list[Window] = []
    for draw in range(asked.draws):
        left = left or list(fit)
        chosen.append(left.pop(int(asked.stream(_CHOSEN, receiver, draw).integers(len(left)))))
    return chosen


def _dataset(asked: Asked) -> list[list[Gift]]:
    return [
        [Gift(fed=donor.fed, donor=donor) for donor in _chosen(asked, receiver)]
        for receiver in asked.receivers
    ]


def _shuffled_pixels(asked: Asked) -> list[list[Gift]]:
    def shuffled(receiver: Window, draw: int, donor: Window) -> Gift:
        pixels = donor.fed.reshape(-1, donor.fed.shape[-1])  # a pixel keeps its channels
        order = np.argsort(asked.stream(_MADE, receiver, draw).random(len(pixels)), kind="stable")
        return Gift(fed=pixels[order].reshape(donor.fed.shape), donor=donor)

    return [
        [shuffled(receiver, draw, w) for draw, w in enumerate(_chosen(asked, receiver))]
        for receiver in asked.receivers
    ]


def _random_pixels(asked: Asked) -> list[list[Gift]]:
    def noise(receiver: Window, draw: int) -> Gift:
        uniform = asked.stream(_MADE, receiver, draw).random(receiver.fed.shape)
        return Gift(fed=(256 * uniform).astype(np.uint8), donor=None)

    return [[noise(r, draw) for draw in range(asked.draws)] for r in asked.receivers]


def _dressed(receiver: Window, made_T: NDArray[np.int64]) -> Gift:
    """Return a made-up text with special and hidden tokens as its receiver has them."""
    made_T = made_T[: len(receiver.fed)]
    return Gift(fed=np.where(receiver.kept, receiver.fed, made_T), donor=None)


def _random_tokens(asked: Asked) -> list[list[Gift]]:
    special = list(asked.told["specials"].values())
    ordinary = np.setdiff1d(np.arange(asked.told["vocabulary"]), special)

    def text(receiver: Window, draw: int) -> Gift:
        uniform_T = asked.stream(_MADE, receiver, draw).random(len(receiver.fed))
        return _dressed(receiver, ordinary[(uniform_T * len(ordinary)).astype(np.int64)])

    return [[text(r, draw) for draw in range(asked.draws)] for r in asked.receivers]


def _random_characters(asked: Asked) -> list[list[Gift]]:
    """Tokenise all texts together; those with too few tokens again, twice as long."""
    folder = Path(asked.told["folder"])
    # A marker may stand in the text by chance; `unk` is what the tokenizer makes of text.
    markers = [token for role, token in asked.told["specials"].items() if role != "unk"]
    draws = range(asked.draws)
    missing = [(i, draw) for i in range(len(asked.receivers)) for draw in draws]
    made: dict[tuple[int, int], Gift] = {}
    per_token = 2
    while missing:
        if per_token > _CHARACTERS_PER_TOKEN:
            receiver = asked.receivers[missing[0][0]]
            raise DonorError(
                f"the tokenizer in {folder} makes fewer than {len(receiver.fed)} tokens of"
                f" {per_token // 2 * len(receiver.fed)} random characters, for sequence"
                f" {receiver.number}; take donors from another source"
            )
        texts = []
        for i, draw in missing:
            receiver = asked.receivers[i]
            uniform = asked.stream(_MADE, receiver, draw).random(per_token * len(receiver.fed))
            texts.append(bytes((32 + 95 * uniform).astype(np.uint8)).decode("ascii"))
        for (i, draw), encoding in zip(missing, encode(folder, texts), strict=True):
            ids = encoding.ids[~np.isin(encoding.ids, markers)]
            if len(ids) >= len(asked.receivers[i].fed):
                made[i, draw] = _dressed(asked.receivers[i], ids)
        missing = [key for key in missing if key not in made]
        per_token *= 2
    return [[made[i, draw] for draw in draws] for i in range(len(asked.receivers))]


def _generated(asked: Asked) -> list[list[Gift]]:
    """Take what was generated; a bos that it was begun with stays where the receiver has one."""
    bos = asked.told["specials"].get("bos")

    def text(receiver: Window, draw: int) -> Gift:
        text_T = asked.written[receiver.number, draw]
        if text_T[0] == bos and receiver.fed[0] != bos:
            text_T = text_T[1:]
        return _dressed(receiver, text_T)

    return [[text(r, draw) for draw in range(asked.draws)] for r in asked.receivers]


def _paired(asked: Asked) -> list[list[Gift]]:
    """Take what stands beside each prompt: `orchestrator.paired` has seen to it that it fits."""
    alone = [w for w in asked.receivers if (w.number, 0) not in asked.written]
    if alone:
        raise DonorError(
            f"{len(alone)} of {len(asked.receivers)} evaluated prompts have no donor (first:"
            f" {alone[0].document!r}), and resample(paired) takes it from the row; give every row"
            " one, or take donors from another source"
        )
    return [[Gift(fed=asked.written[w.number, 0], donor=None)] for w in asked.receivers]


SOURCES: Mapping[str, Callable[[Asked], list[list[Gift]]]] = {
    "dataset": _dataset,
    "random_tokens": _random_tokens,
    "random_characters": _random_characters,
    "generated": _generated,
    "random_pixels": _random_pixels,
    "shuffled_pixels": _shuffled_pixels,
    "paired": _paired,
}
"""For every receiver the donor of every draw; DonorError where it can have none."""
