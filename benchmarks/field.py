"""The field's recipe: how an ablated model is usually evaluated.

One text per forward pass, because texts differ in length. At every layer a forward-pre-hook
multiplies the activations by a mask and adds an offset; a resampled neuron's offset is what the
model without hooks has on another text, which is run once more for every cell. The logits of
all positions are made at once, in the model's dtype, and read back as one loss and one count of
best tokens per text. Every nominal cell is run.

Shapes: T positions, M of them with those that are not scored, V tokens, L layers, N neurons.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from benchmarks.grid import DONORS, Fed
from workers import hooks
from workers.loading import Model
from workers.messages import NOT_SCORED, Batch, CellOrder, Constant, Donated


def run(model: Model, fed: Fed, cell: CellOrder, texts: int) -> None:
    """Evaluate a cell as it is usually done, on so many texts of the first batch."""
    batch, projections = fed.batches[0], hooks.projections(model, "attn_pre_out")
    (hold,) = cell.holds
    keep_LN = torch.ones(len(projections), model.facts.neurons)
    for keep_N, held_H in zip(keep_LN, hold.held, strict=True):
        keep_N[held_H] = 0
    keep_LN = keep_LN.to(model.device, model.dtype)
    offset_L: Sequence[Tensor]
    if isinstance(hold.value, Constant):
        values_LN = torch.from_numpy(hold.value.values).to(model.device, model.dtype)
        offset_L = list((1 - keep_LN) * values_LN)
    with torch.inference_mode():
        for s in range(texts):
            inputs = _one(model, batch, s)
            if isinstance(hold.value, Donated):
                (donors,) = fed.donors[DONORS].passes
                with _kept(projections) as kept:
                    _plain(model, _one(model, donors[0], s))
                offset_L = [(1 - keep_N) * x for keep_N, x in zip(keep_LN, kept, strict=True)]
            with _masked(projections, keep_LN, offset_L):
                logits = _plain(model, inputs)
            target = batch.targets[s][: logits.shape[-2]] if logits.ndim == 3 else batch.targets[s]
            target_M = torch.from_numpy(target).to(model.device)
            logits_MV = logits.flatten(0, -2)
            loss = nn.functional.cross_entropy(
                logits_MV.float(), target_M, ignore_index=NOT_SCORED, reduction="sum"
            )
            loss.item()
            (logits_MV.argmax(dim=1) == target_M).sum().item()


def _one(model: Model, batch: Batch, s: int) -> tuple[Tensor, ...]:
    """Return what a model is fed of one sequence, without padding."""
    if batch.attended is None:
        alone = Batch(
            sequence=batch.sequence[s : s + 1],
            inputs=batch.inputs[s : s + 1],
            attended=None,
            targets=batch.targets[s : s + 1],
        )
        return (hooks.inputs(model, alone)[0],)
    length = int(batch.attended[s].sum())
    ids_1T = torch.from_numpy(batch.inputs[s : s + 1, :length]).to(model.device)
    return ids_1T, torch.ones_like(ids_1T)


def _plain(model: Model, inputs: tuple[Tensor, ...]) -> Tensor:
    if len(inputs) == 1:
        answer = model.module(inputs[0])
    else:
        answer = model.module(input_ids=inputs[0], attention_mask=inputs[1])
    logits: Tensor = answer if isinstance(answer, Tensor) else answer.logits
    return logits


@contextmanager
def _kept(projections: Sequence[nn.Linear]) -> Iterator[list[Tensor]]:
    kept: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept.append(args[0].clone())

    with ExitStack() as stack:
        for projection in projections:
            stack.callback(projection.register_forward_pre_hook(keep).remove)
        yield kept


@contextmanager
def _masked(
    projections: Sequence[nn.Linear], keep_LN: Tensor, offset_L: Sequence[Tensor]
) -> Iterator[None]:
    with ExitStack() as stack:
        for projection, keep_N, offset in zip(projections, keep_LN, offset_L, strict=True):

            def hook(
                _: nn.Module, args: tuple[Tensor, ...], keep_N: Tensor = keep_N, c: Tensor = offset
            ) -> tuple[Tensor, ...]:
                return (args[0] * keep_N + c,)

            stack.callback(projection.register_forward_pre_hook(hook).remove)
        yield
