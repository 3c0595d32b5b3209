"""Ablation: neurons held at constants, without a hook in the forward pass.

A neuron of `attn_pre_out` (or `mlp_mid`) is one input of a linear layer. Holding
it at a constant, whatever the text says, is the same as folding the constant
into that layer (`workers.folding` says how, and how it is undone). So the
ablated model is an ordinary model that runs at the speed of the bare one.

    prepare_fold    a cell's fold, its offsets computed once: `with fold:` for every batch
    folded          the same for a single block
    ablated         the same from boolean masks, for notebooks
    checked_by_hook the fold against a plain hook on a real batch, once per model and method

Constants that differ between positions cannot be folded, because a projection
does not know where in the sequence it is; `workers.evaluate` puts those in.

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

from workers import hooks
from workers.folding import AblationError, Fold, Proof
from workers.loading import Model
from workers.messages import Batch, CellOrder, Site

__all__ = [
    "AblationError",
    "Fold",
    "Proof",
    "ablated",
    "checked_by_hook",
    "folded",
    "prepare_fold",
]

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2.0**-8, torch.bfloat16: 2.0**-6}
"""How far fold and hook may differ at a projection, as a share of its largest output."""


def prepare_fold(model: Model, order: CellOrder) -> Fold:
    """Return the fold that holds `order.held` at `order.values`, with its offsets computed.

    Raises ValueError where the order does not fit the model, has no values or
    has them by position, or would hold a neuron at something that is not a
    finite number.
    """
    if order.values is None:
        raise ValueError(
            f"Cell {order.cell} has no values, so there is nothing to fold. A constant comes with"
            " an (L, N) array; neurons held at donors' activations are `workers.evaluate`'s."
        )
    if order.starts is not None:
        raise ValueError(
            f"Cell {order.cell} has constants for buckets of positions, {len(order.starts)} of"
            " them, and only constants that are the same everywhere fold. Give one (L, N) array"
            " and no starts, or hold these by `workers.evaluate`."
        )
    return Fold(partial(hooks.projections, model, order.site), order.held, order.values)


@contextmanager
def folded(
    model: Model, site: Site, held: Sequence[NDArray[np.int64]], values: NDArray[np.float64]
) -> Iterator[Proof]:
    """Hold neurons `held` (L arrays of ascending indices) at `values` (L, N) inside the block."""
    with Fold(partial(hooks.projections, model, site), held, values) as proof:
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

    The model runs with the constants put in by a forward-pre-hook at every
    layer. Then each folded projection is given what its layer's hook was given,
    and must return what the hooked projection returned. So layers are compared
    one by one and rounding does not pile up. Differences are shares of the
    projection's largest output; more than `TOLERANCE` raises `AblationError`,
    as does a projection that the forward pass does not call.
    """
    fold = prepare_fold(model, order)
    seen = _run_with_plain_hooks(model, batch, order)
    worst = 0.0
    with torch.inference_mode(), fold:
        for layer, projection in enumerate(hooks.projections(model, order.site)):
            if layer not in seen:
                raise AblationError(
                    f"Layer {layer} at {order.site}: the forward pass never called the output"
                    " projection, so nothing can be held there. Correct the row of this family in"
                    " workers/families.py."
                )
            x_STN, hooked_STD = seen.pop(layer)
            size = hooked_STD.float().abs().max().item()
            difference = (projection(x_STN).float() - hooked_STD.float()).abs().max().item()
            limit = size * TOLERANCE[hooked_STD.dtype]
            if not difference <= limit:  # written so that a nan is refused
                raise AblationError(
                    f"Layer {layer} at {order.site}, cell {order.cell}: fold and plain hook differ"
                    f" by {difference:.3g} at the projection's output, whose largest value is"
                    f" {size:.3g}; at most {limit:.3g} was expected in {hooked_STD.dtype}. Results"
                    " of this model would be wrong: please report its name."
                )
            worst = max(worst, difference / size if size else 0.0)
    return worst


def _run_with_plain_hooks(
    model: Model, batch: Batch, order: CellOrder
) -> dict[int, tuple[Tensor, Tensor]]:
    """Return by layer what the hook was given, (S, T, N), and what the projection returned."""
    assert order.values is not None  # or it could not have been folded
    given: dict[int, Tensor] = {}
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def put_in(layer: int, _: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        given[layer] = args[0]
        x_STN = args[0].clone()
        held_H = order.held[layer]
        x_STN[..., torch.as_tensor(held_H, device=x_STN.device)] = constants_L[layer].to(x_STN)
        return (x_STN,)

    def note(layer: int, _: nn.Module, __: tuple[Tensor], out_STD: Tensor) -> None:
        seen[layer] = (given.pop(layer), out_STD)

    constants_L = [
        torch.as_tensor(values_N[held_H])
        for values_N, held_H in zip(order.values, order.held, strict=True)
    ]
    with torch.inference_mode(), ExitStack() as stack:
        for layer, projection in enumerate(hooks.projections(model, order.site)):
            before = projection.register_forward_pre_hook(partial(put_in, layer))
            after = projection.register_forward_hook(partial(note, layer))
            stack.callback(before.remove)
            stack.callback(after.remove)
        hooks.hidden(model, batch)
    return seen
