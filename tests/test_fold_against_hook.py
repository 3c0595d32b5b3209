"""Folds, hooks and a plain implementation agree, for every bundled model, dtype and site.

Three ways hold the same neurons at the same constants:

    fold    into the projections' weights and biases, as cells of constants are evaluated
    hook    put in before the projections, as everything else is
    plain   torch's own hooks on the library's model, loaded on its own, a sequence at a time

Tolerances, as shares of the largest logit, over all logits of all sequences:

    float32   1e-4: some 1e-7 a product, over four layers; 1.4e-6 was measured at most
    float16   2^-7: ten bits are kept, and each way rounds at other places; measured 3.3e-3
    bfloat16  2^-4: seven bits are kept; measured 2.9e-2

They are wide in 16 bits, where a fold adds W·c in float32 and a hook rounds c first. So the
fold is also asked to be no further from float32 than a hook is, but for a half more: it is no
other model.

Shapes: S sequences, T positions, L layers, N neurons of one hookpoint, V tokens or classes.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests import brute_force as plainly
from tests.workers import tiny
from workers import hooks
from workers.ablation import entered, prepare_folds
from workers.loading import Model, load
from workers.messages import NOT_SCORED, Batch, ByPosition, CellOrder, Constant, Hold, Site
from workers.replacing import Replacement, activations

ZOO = Path(__file__).parents[1] / "workers" / "zoo"
MODELS = ("opt", "mistral", "roberta", "vit")
GROUPS: tuple[tuple[Site, ...], ...] = (
    ("attn_pre_out",),
    ("mlp_mid",),
    ("attn_pre_out", "mlp_mid"),
)
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2.0**-7, torch.bfloat16: 2.0**-4}
LENGTHS = (48, 33, 20)


def _mode(x_MN: Tensor) -> Tensor:
    counts = [torch.histogram(x_M, bins=50) for x_M in x_MN.T.contiguous()]
    return torch.stack([edges[c.argmax()] for c, edges in counts])


CONSTANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": lambda x_MN: torch.zeros(x_MN.shape[1]),
    "mean": lambda x_MN: x_MN.mean(dim=0),
    "median": lambda x_MN: x_MN.median(dim=0).values,
    "quantile": lambda x_MN: x_MN.quantile(0.9, dim=0),
    "peak": _mode,
    "soft": lambda x_MN: x_MN.mean(dim=0),
    "far": lambda x_MN: x_MN.mean(dim=0) + 3 * x_MN.std(dim=0),
}
"""What methods that fold hold neurons at, made of activations (M, N): `soft` by half,
and `far` for whatever is learned."""
SHARES = dict.fromkeys(CONSTANTS, 1.0) | {"soft": 0.5}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with plainly.one_thread():
        yield


@cache
def loaded(name: str, dtype: torch.dtype) -> Model:
    return load(tiny.ref(ZOO / name, str(dtype).removeprefix("torch.")))  # type: ignore[arg-type]


@cache
def fed(name: str) -> Batch:
    """Return three sequences, texts of different lengths."""
    facts, draw = loaded(name, torch.float32).facts, np.random.default_rng(5)
    if facts.image is not None:
        return Batch(
            sequence=np.arange(3),
            inputs=draw.integers(0, 256, (3, *facts.image)).astype(np.uint8),
            attended=None,
            targets=np.zeros((3, 1), np.int64),
        )
    shape = (len(LENGTHS), max(LENGTHS))
    attended_ST = np.arange(shape[1]) < np.array(LENGTHS)[:, None]
    ids_ST = np.where(attended_ST, draw.integers(5, facts.vocabulary, shape), facts.specials["pad"])
    ids_ST[:, 0] = facts.specials["bos"]
    return Batch(
        sequence=np.arange(3),
        inputs=ids_ST,
        attended=attended_ST,
        targets=np.full(shape, NOT_SCORED),
    )


@cache
def orders(name: str, sites: tuple[Site, ...]) -> dict[str, CellOrder]:
    """Return a cell for every constant: half of all neurons, and all of the last layer's."""
    model = loaded(name, torch.float32)
    seen = activations(model, {site: range(model.facts.layers) for site in sites}, fed(name))
    found = {}
    for constant, of in CONSTANTS.items():
        holds = []
        for site in sites:
            layers = [x_STN.flatten(0, 1).clone() for x_STN in seen[site]]
            draw, n = np.random.default_rng(len(site)), layers[0].shape[1]
            held = [np.sort(draw.permutation(n)[: n // 2]) for _ in layers[:-1]] + [np.arange(n)]
            values_LN = torch.stack([of(x_MN) for x_MN in layers]).double().numpy()
            holds.append(Hold(site=site, held=tuple(held), value=Constant(values=values_LN)))
        found[constant] = CellOrder(cell=constant, holds=tuple(holds), share=SHARES[constant])
    return found


def hooked(model: Model, order: CellOrder, batch: Batch) -> list[Tensor]:
    """Return the logits of every sequence while values are put in by our hooks."""
    positional = tuple(
        Hold(
            site=hold.site,
            held=hold.held,
            value=ByPosition(values=_values(hold)[None], starts=(0,)),
        )
        for hold in order.holds
    )
    asked = CellOrder(cell=order.cell, holds=positional, share=order.share)
    replacement = Replacement(model, asked, max(LENGTHS) + 64)
    with torch.inference_mode(), replacement.on(batch, {}) as count:
        logits = hooks.logits(model, batch)
    assert count.held() == count.told > 0
    return each(logits, batch)


def folded(model: Model, order: CellOrder, batch: Batch) -> list[Tensor]:
    """Return the logits of every sequence while constants are folded."""
    cell = prepare_folds(model, order)
    with torch.inference_mode(), entered(cell) as proof:
        logits = hooks.logits(model, batch)
    assert proof.held == proof.told > 0
    return each(logits, batch)


def plain_logits(name: str, dtype: torch.dtype, order: CellOrder, batch: Batch) -> list[Tensor]:
    """Return the logits of every sequence by torch's hooks on the library's own model."""
    plain = library(name, dtype)

    def putting(held_H: NDArray[np.int64], values_N: NDArray[np.float64]) -> plainly.Put:
        def put(x_TN: Tensor) -> Tensor:
            c_H = order.share * torch.from_numpy(values_N[held_H])
            kept_TH = (1 - order.share) * x_TN[:, held_H].double()
            x_TN[:, held_H] = (kept_TH + c_H).to(x_TN.dtype)
            return x_TN

        return put

    puts = {
        hold.site: [putting(h, v) for h, v in zip(hold.held, _values(hold), strict=True)]
        for hold in order.holds
    }
    sequences = batch.inputs if batch.attended is None else _unpadded(batch)
    return [plainly.logits_while_put(plain, s, puts).float() for s in sequences]


@cache
def library(name: str, dtype: torch.dtype) -> plainly.Plain:
    return plainly.load(ZOO / name, attention="sdpa", dtype=dtype)


def each(logits: Tensor, batch: Batch) -> list[Tensor]:
    """Return logits sequence by sequence, (T, V) where attended; images (1, V)."""
    if batch.attended is None:
        return [logits_V[None].float() for logits_V in logits]
    return [x[: int(row.sum())].float() for x, row in zip(logits, batch.attended, strict=True)]


def _unpadded(batch: Batch) -> list[NDArray[np.int64]]:
    assert batch.attended is not None
    return [row[here] for row, here in zip(batch.inputs, batch.attended, strict=True)]


def _values(hold: Hold) -> NDArray[np.float64]:
    assert isinstance(hold.value, Constant)
    return hold.value.values


def apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the largest difference, as a share of the largest logit."""
    size = max(float(x.abs().max()) for x in other)
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True)) / size


@pytest.mark.parametrize("sites", GROUPS, ids="+".join)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_fold_is_a_hook_is_a_plain_hook(
    name: str, dtype: torch.dtype, sites: tuple[Site, ...]
) -> None:
    model, batch, limit = loaded(name, dtype), fed(name), TOLERANCE[dtype]
    bare = each(hooks.logits(model, batch), batch)
    for order in orders(name, sites).values():
        plain = plain_logits(name, dtype, order, batch)
        by_hook = hooked(model, order, batch)
        assert apart(by_hook, plain) < limit, order.cell
        assert apart(plain, bare) > 2 * limit, order.cell  # what is held makes a difference
        if order.share < 1 and dtype.itemsize < 4:
            continue  # soft mixtures fold in float32 alone
        by_fold = folded(model, order, batch)
        assert apart(by_fold, plain) < limit, order.cell
        if dtype != torch.float32:
            exact = plain_logits(name, torch.float32, order, batch)
            assert apart(by_fold, exact) < 1.5 * apart(plain, exact) + limit / 8, order.cell
    after = each(hooks.logits(model, batch), batch)
    assert all(torch.equal(a, b) for a, b in zip(after, bare, strict=True))
