"""Ablation: neurons held at constants, without a hook in the forward pass.

A neuron of `attn_pre_out` (or `mlp_mid`) is one input of a linear layer. Holding
it at a constant, whatever the text says, is the same as folding the constant
into that layer (`workers.folding` says how, and how it is undone). So the
ablated model is an ordinary model that runs at the speed of the bare one.

    prepare_folds   a cell's folds, their offsets computed once
    fold            that of one site, on whatever part of the model this process holds
    entered         all of them inside a block: once for every batch
    folded          the same for one site and a single block
    ablated         the same from boolean masks, for notebooks
    checked_by_hook the fold against a plain hook on a real batch, once per model and method

What differs between positions or sequences cannot be folded, because a projection
knows neither; `workers.replacing` puts it in. Soft mixtures of constants fold in
float32 alone (`workers.folding` says why).

That neurons were held is measured, not asserted. Every entry reads the columns
back from the parameters the live modules have at that moment and returns a
`Proof`; an ablation that touched nothing raises `AblationError`.

In bfloat16 and float16 the offset W·c is added to the projection's output in
float32, by a hook: stored in the bias, its rounding could exceed the difference
between two methods.

Shapes: L layers, N neurons of one hookpoint, H held neurons of one layer, D
outputs of a projection, S sequences, T positions.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers import hooks, sharding
from workers.folding import AblationError, Fold, Proof
from workers.loading import Model
from workers.messages import Batch, CellOrder, Constant, Hold, Site

__all__ = [
    "AblationError",
    "Fold",
    "Proof",
    "ablated",
    "checked_by_hook",
    "entered",
    "fold",
    "folded",
    "folds",
    "folds_into",
    "prepare_folds",
]

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2.0**-8, torch.bfloat16: 2.0**-6}
"""How far fold and hook may differ at a projection, as a share of its largest output."""


def folds(order: CellOrder, dtype: torch.dtype, *, packed: bool = False) -> bool:
    """Whether a cell folds: constants do, but for soft mixtures below float32.

    Of a model whose weights are packed (`workers.packed`) nothing folds that is held.
    """
    constant = all(isinstance(hold.value, Constant) for hold in order.holds)
    exact = order.share == 1 or dtype.itemsize >= 4
    return constant and exact and not (packed and order.holds)


def folds_into(model: Model, order: CellOrder) -> bool:
    """Whether a cell folds into this model, as it was loaded."""
    return folds(order, model.dtype, packed=model.ref.packed is not None)


def prepare_folds(model: Model, order: CellOrder) -> tuple[Fold, ...]:
    """Return the folds of a cell that `folds`, one for each of its sites, with their offsets.

    Raises ValueError where the order does not fit the model, holds anything but
    constants, or would hold a neuron at something that is not a finite number.
    """
    if not folds_into(model, order):
        kinds = ", ".join(sorted({type(hold.value).__name__ for hold in order.holds}))
        raise ValueError(
            f"Cell {order.cell} holds {kinds} at a share of {order.share:g} in {model.dtype}, and"
            " only constants fold, soft mixtures of them only in float32, and none into packed"
            " weights. Have `workers.evaluate` hold these neurons."
        )
    return tuple(
        fold(model, hold.site, hold.held, values, order.share) for hold, values in _constants(order)
    )


def fold(
    model: Model,
    site: Site,
    held: Sequence[NDArray[np.int64]],
    values_LN: NDArray[np.float64],
    share: float = 1.0,
) -> Fold:
    """Return the fold of some neurons of a site; where the model is sharded, of the rank's own.

    Raises ValueError as `workers.folding.Fold` does.
    """
    find = partial(hooks.projections, model, site)
    if model.ref.shards == 1:
        return Fold(find, held, values_LN, share)
    ranks = sharding.ranks()
    own, own_Ln = ranks.mine(held, values_LN)
    return Fold(find, own, own_Ln, share, ranks)


@contextmanager
def entered(cell: Sequence[Fold]) -> Iterator[Proof]:
    """Hold what all folds of a cell hold inside the block; the proof is the sum of theirs."""
    with ExitStack() as stack:
        proofs = [stack.enter_context(fold) for fold in cell]
        yield Proof(
            told=sum(proof.told for proof in proofs),
            held=sum(proof.held for proof in proofs),
            zero_before=sum(proof.zero_before for proof in proofs),
        )


@contextmanager
def folded(
    model: Model, site: Site, held: Sequence[NDArray[np.int64]], values: NDArray[np.float64]
) -> Iterator[Proof]:
    """Hold neurons `held` (L arrays of ascending indices) at `values` (L, N) inside the block."""
    with fold(model, site, held, values) as proof:
        yield proof


@contextmanager
def ablated(
    model: Model,
    masks: NDArray[np.bool_] | Tensor,
    values: NDArray[np.float64] | Tensor,
    site: Site = "attn_pre_out",
) -> Iterator[Proof]:
    """Hold the neurons where `masks` (L, N) is True at `values` (L, N) inside the block.

    For notebooks: `with ablated(model, masks, values): model.module(…)`.
    """
    masks_LN = torch.as_tensor(masks).cpu().numpy()
    values_LN = torch.as_tensor(values).detach().double().cpu().numpy()
    if masks_LN.dtype != np.bool_ or masks_LN.shape != values_LN.shape:
        raise ValueError(
            f"The masks are {masks_LN.dtype} of shape {masks_LN.shape}, the values have shape"
            f" {values_LN.shape}; expected booleans, True where a neuron is held, one for each"
            " value. Compare to make booleans, for example `masks > 0`."
        )
    with folded(model, site, [np.flatnonzero(mask_N) for mask_N in masks_LN], values_LN) as proof:
        yield proof


def checked_by_hook(model: Model, batch: Batch, order: CellOrder) -> float:
    """Compare the fold with a plain hook on one batch; return the largest difference found.

    The model runs with the constants put in, or mixed in, by a forward-pre-hook at
    every layer. Then each folded projection is given what its layer's hook was given,
    and must return what the hooked projection returned. So layers are compared
    one by one and rounding does not pile up. Differences are shares of the
    projection's largest output; more than `TOLERANCE` raises `AblationError`,
    as does a projection that the forward pass does not call. Where weights are packed
    nothing is folded, and the difference is 0. Raises ValueError where the cell does not fold.
    """
    if model.ref.packed is not None:
        return 0.0
    cell = prepare_folds(model, order)
    seen = _run_with_plain_hooks(model, batch, order)
    with torch.inference_mode(), entered(cell):
        return max(
            (
                _difference(projection, seen.pop((hold.site, layer), None), where)
                for hold in order.holds
                for layer, projection in enumerate(hooks.projections(model, hold.site))
                for where in [f"Layer {layer} at {hold.site}, cell {order.cell}"]
            ),
            default=0.0,
        )


def _difference(projection: nn.Linear, seen: tuple[Tensor, Tensor] | None, where: str) -> float:
    """Return how far a folded projection is from what the hooked one returned, as a share."""
    if seen is None:
        raise AblationError(
            f"{where}: the forward pass never called the output projection, so nothing can be held"
            " there. Correct the row of this family in workers/families.py."
        )
    x_STN, hooked_STD = seen
    wanted_STD, folded_STD = hooked_STD.float(), projection(x_STN).float()
    if not wanted_STD.isfinite().all():
        # Out of the numbers' range: a loss that is no number is an answer. The rest is compared.
        known_STD = wanted_STD.isfinite() & folded_STD.isfinite()
        wanted_STD, folded_STD = (x.where(known_STD, 0.0) for x in (wanted_STD, folded_STD))
    size = wanted_STD.abs().max().item()
    difference = (folded_STD - wanted_STD).abs().max().item()
    limit = size * TOLERANCE[hooked_STD.dtype]
    if not difference <= limit:  # written so that a nan is refused
        raise AblationError(
            f"{where}: fold and plain hook differ by {difference:.3g} at the projection's output,"
            f" whose largest value is {size:.3g}; at most {limit:.3g} was expected in"
            f" {hooked_STD.dtype}. Results of this model would be wrong: please report its name."
        )
    return difference / size if size else 0.0


def _run_with_plain_hooks(
    model: Model, batch: Batch, order: CellOrder
) -> dict[tuple[Site, int], tuple[Tensor, Tensor]]:
    """Return by site and layer what the hook was given, (S, T, N), and what was projected."""
    seen: dict[tuple[Site, int], tuple[Tensor, Tensor]] = {}

    def put_in(
        held_H: NDArray[np.int64],
        values_N: NDArray[np.float64],
        key: tuple[Site, int],
        _: nn.Module,
        args: tuple[Tensor],
    ) -> tuple[Tensor]:
        x_STN = args[0].clone()
        columns_H = torch.tensor(held_H, device=x_STN.device)
        soft_STH = (1 - order.share) * args[0][..., columns_H] if order.share < 1 else 0
        constant_H = torch.as_tensor(order.share * values_N[held_H]).to(x_STN)
        x_STN[..., columns_H] = soft_STH + constant_H
        seen[key] = (args[0], x_STN)
        return (x_STN,)

    def note(key: tuple[Site, int], _: nn.Module, __: tuple[Tensor], out_STD: Tensor) -> None:
        seen[key] = (seen[key][0], out_STD)

    with torch.inference_mode(), ExitStack() as stack:
        for hold, values_LN in _constants(order):
            held: Sequence[NDArray[np.int64]] = hold.held
            if model.ref.shards > 1:
                held, values_LN = sharding.ranks().mine(held, values_LN)
            for layer, projection in enumerate(hooks.projections(model, hold.site)):
                change = partial(put_in, held[layer], values_LN[layer], (hold.site, layer))
                before = projection.register_forward_pre_hook(change)
                after = projection.register_forward_hook(partial(note, (hold.site, layer)))
                stack.callback(before.remove)
                stack.callback(after.remove)
        hooks.hidden(model, batch)
    return seen


def _constants(order: CellOrder) -> list[tuple[Hold, NDArray[np.float64]]]:
    return [(hold, hold.value.values) for hold in order.holds if isinstance(hold.value, Constant)]
