"""The prefix: what cells of one batch have in common is computed once.

Up to its first place, its lowest held hookpoint, a cell is the bare model. So the first
pass of a batch is recorded at the places from which the other passes begin, as it
runs, and these begin there: layers below return what was recorded, and so does
what ends before the place in its own layer (`workers.shortcuts` says what that is).

    sharing = Sharing(model, batch, passes)  # where each pass of a batch holds neurons
    shared = sharing.on(batch)
    hidden_STD = shared.hidden(passes[0])  # recorded at the first places of all others
    hidden_STD = shared.hidden(passes[1])  # begins there

Where all inputs of a projection are folded constants, its output is one row and
what would feed it, the attention for instance, does not run at all.

Nothing here may change a number. A recorded tensor has the bits it would have again,
and what follows is the library's own code. That a model allows this is found out
once, by comparing bits on a few short sequences: at the first, the middle and the last
layer; and with everything held, for what is left out. Where they differ, passes are
not shared, and `usable` says why. Assumes, as the canaries do, that the same input
gives the same bits twice. A neuron that is not finite times a held column of zeros
is a nan; where all columns are held, what would feed them is left out, and so is the
nan, whatever else is in the call.

Memory, for each position of a batch and each different place, while the batch is
evaluated: d_model + N values of the model's dtype at attn_pre_out, 2 d_model + d_mlp at
mlp_mid, and for images d_model once; d_model less in the first layer. (A library's
unfused attention also returns its weights, H x T values for each position, which are
recorded for mlp_mid.)

Shapes: S sequences, T positions, N neurons of one hookpoint, D width of the hidden
states, H heads.
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from workers import hooks, sharding
from workers.ablation import fold
from workers.data import first
from workers.loading import Model
from workers.messages import SITES, Batch, CellOrder
from workers.shortcuts import UnshareableError, find_shortcuts
from workers.stubs import (
    Forward,
    Kept,
    Place,
    Shortcuts,
    kept_at,
    place_of,
    same_bits,
    skip_stubs,
    start_stubs,
    stubbed,
)

__all__ = ["BARE", "Held", "Shared", "Sharing", "held_by", "usable"]

_SEQUENCES, _POSITIONS = 2, 16
"""Of a batch that are run to find out whether passes can be shared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Where neurons are held in one pass."""

    first: Place | None = None
    """The lowest; None where there is none."""
    full: frozenset[Place] = frozenset()
    """Those all of whose neurons are folded constants."""

    @property
    def depth(self) -> tuple[bool, Place, bool]:
        """Passes run in descending order of this: the bare model's first, the lowest place last."""
        # Of equals, one that has to compute what is before its place: it can be recorded there.
        return self.first is None, self.first or (0, 0), self.first not in self.full


BARE = Held()
"""The bare model's pass."""


def held_by(model: Model, order: CellOrder, *, folded: bool) -> Held:
    """Return where a cell holds neurons; `folded` says whether it folds."""
    sizes = {
        place_of(layer, hold.site): (len(held_H), model.facts.neurons_at(hold.site))
        for hold in order.holds
        for layer, held_H in enumerate(hold.held)
        if len(held_H)
    }
    whole = {place for place, (held, neurons) in sizes.items() if held == neurons}
    full = whole if folded and order.share == 1 else ()
    return Held(first=min(sizes, default=None), full=frozenset(full))


def usable(model: Model) -> str | None:
    """Return why passes of a model share nothing; None where they do, or were never to."""
    known = _known.get(model.module)
    return None if known is None else known.why


class Sharing:
    """How passes through a model share their prefixes, for any number of batches.

    `passes` says where neurons are held in the passes of each batch, in the order in
    which they will run: that of their depth. `batch` is one of the batches, from which
    it is found out, once for each model, whether passes can be shared. Nothing may be
    folded when this is made.
    """

    def __init__(self, model: Model, batch: Batch, passes: Sequence[Held]) -> None:
        self._model = model
        full = any(held.full for held in passes)
        self._shortcuts = _shortcuts(model, batch, full) if full or len(passes) > 1 else None
        self._places = {held.first for held in passes[1:] if held.first is not None}

    def on(self, batch: Batch) -> "Shared":
        """Return the passes of one batch."""
        return Shared(self._model, batch, self._shortcuts, self._places)


class Shared:
    """Passes of one batch. The first is recorded at `places`, from where others begin.

    What is held in the first must not be lower than any of `places`. Without `shortcuts`
    every pass is run in full.
    """

    def __init__(
        self,
        model: Model,
        batch: Batch,
        shortcuts: Shortcuts | None,
        places: Collection[Place],
    ) -> None:
        self._model, self._batch = model, batch
        self._shortcuts, self._places = shortcuts, frozenset(places)
        self._kept: Kept | None = None

    def hidden(self, held: Held = BARE) -> Tensor:
        """Return what the head is fed, (S, T, D), while neurons are held as `held` says."""
        if self._shortcuts is None:
            return hooks.hidden(self._model, self._batch)
        module, stubs = self._model.module, dict[str, Forward]()
        recorded: frozenset[Place] = frozenset()
        with ExitStack() as stack:
            if self._kept is None:
                recorded = self._places
                self._kept = stack.enter_context(kept_at(module, self._shortcuts, recorded))
            elif held.first in self._places:
                stubs |= start_stubs(module, self._shortcuts, self._kept, held.first)
            for place in held.full & self._shortcuts.skips.keys():
                skip = self._shortcuts.skips[place]
                stubs |= skip_stubs(module, skip, needed=place in recorded)
            stack.enter_context(stubbed(module, stubs))
            return hooks.hidden(self._model, self._batch)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """What has been found out about a model."""

    shortcuts: Shortcuts | None = None
    why: str | None = None
    """Why there are none."""
    tried: bool = False
    """Whether leaving out has been compared."""


_known: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def _shortcuts(model: Model, batch: Batch, full: bool) -> Shortcuts | None:
    """Return how passes can be cut short, or None; `full`: also what can be left out."""
    known, few = _known.get(model.module), first(batch, _SEQUENCES, _POSITIONS)
    with torch.inference_mode():
        if known is None:
            try:
                known = _Known(shortcuts=_compared(model, few, find_shortcuts(model, few)))
            except UnshareableError as error:
                known = _Known(why=f"Passes of {model.ref.label} share nothing: {error}")
        if full and known.shortcuts is not None and not known.tried:
            if not _can_leave_out(model, few, known.shortcuts):
                known = replace(known, shortcuts=replace(known.shortcuts, skips={}))
            known = replace(known, tried=True)
    if model.ref.shards > 1 and not sharding.ranks().agreed(known.shortcuts is not None):
        known = _Known(why=known.why or "another process of the group found that it cannot")
    _known[model.module] = known
    return known.shortcuts


def _compared(model: Model, few: Batch, found: Shortcuts) -> Shortcuts:
    """Return what was found; raise UnshareableError where a pass so begun has other bits."""
    layers, other = model.facts.layers, replace(few, inputs=np.flip(few.inputs, 1).copy())
    places = [(layer, i) for layer in {0, layers // 2, layers - 1} for i in range(len(SITES))]
    bare_STD, shared = hooks.hidden(model, few), Shared(model, few, found, places)
    for place in (None, *places):
        if place is not None:  # whatever modules remember is not of the pass that was recorded
            hooks.hidden(model, other)
        if not _agrees(shared, Held(first=place), bare_STD):
            where = "one that is watched" if place is None else f"one begun at {place}"
            raise UnshareableError(
                f"the hidden states of {where} (layer, site) are not those of a plain pass."
                " Modules depend on more than what they are given."
            )
    return found


def _can_leave_out(model: Model, few: Batch, found: Shortcuts) -> bool:
    """Whether hidden states keep their bits if nothing runs that feeds what is wholly held."""
    with ExitStack() as stack:
        for site in SITES:
            every = [np.arange(model.facts.neurons_at(site))] * model.facts.layers
            ones_LN = np.ones((len(every), len(every[0])))
            stack.enter_context(fold(model, site, every, ones_LN))
        held_STD = hooks.hidden(model, few)
        everywhere = Held(full=frozenset(found.skips))
        return _agrees(Shared(model, few, found, ()), everywhere, held_STD)


def _agrees(shared: Shared, held: Held, plain_STD: Tensor) -> bool:
    """Whether a pass has the bits of a plain one; one that fails has not."""
    try:
        return same_bits(shared.hidden(held), plain_STD)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # as many kinds as there are ways to build a module
        return False
