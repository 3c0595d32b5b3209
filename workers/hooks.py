"""Hooks: the sites of a live model, and what runs through them.

A site is the input of a projection, so one hook before the projection sees it,
whatever the model's attention looks like inside. The forward pass is the
library's own from end to end. It is only cut before the head: `hidden` returns
what the head is fed, and `scores` is the head, to be applied to the few
positions that matter, because the logits of a whole batch would not fit.

Assumes that the head, applied to its input, gives the scores; where the family has a
cap behind it (Gemma 2), `scores` caps them as the library does, and while the forward
pass is cut there is none. `logits` is the library's uncut forward; where it differs from
`scores` of `hidden`, the family's row is wrong.

Nothing is remembered for a backward pass unless `grad` is set: constants that
are put in by `replacing` can then be learned (`workers.learn`).

Shapes: S sequences, T positions, N neurons of one hookpoint, D width of the
head's input, M positions picked out of S x T, V tokens or classes scored,
C channels.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from workers.loading import Model, sites
from workers.messages import Batch, Site
from workers.parts import at
from workers.sharding import whole

Sink = Callable[[int, Tensor], None]
"""Takes a layer's number and its activations (S, T, N)."""
Change = Callable[[int, Tensor], Tensor]
"""Takes a layer's number and its activations (S, T, N); returns what takes their place."""

_NO_HEAD = nn.Identity()  # always the same, so that a compiled graph finds what it was made with


def projections(model: Model, site: Site) -> list[nn.Linear]:
    """Return the projection of every layer, in order, whose input is the site."""
    return sites(model.module, model.family, site)


def hidden(model: Model, batch: Batch, grad: bool = False) -> Tensor:
    """Return what the head is fed: (S, T, D) for text, (S, 1, D) for images.

    With `grad` it can be differentiated by whatever was put in; also inside `inference_mode`.
    """
    with _mode(grad), without_head(model):
        return by_position(forward(model, *inputs(model, batch)))


def scores(model: Model, hidden_MD: Tensor, grad: bool = False) -> Tensor:
    """Return the logits (M, V) of chosen rows of `hidden`, by the model's head alone."""
    with _mode(grad):
        logits_MV: Tensor = model.module.get_submodule(model.family.head)(hidden_MD)
        cap = None if model.family.softcap is None else at(model.module, model.family.softcap)
        return logits_MV if cap is None else torch.tanh(logits_MV / cap) * cap


def logits(model: Model, batch: Batch) -> Tensor:
    """Return the library's own answer, uncut: (S, T, V) for text, (S, V) for images."""
    with _mode(grad=False):
        return forward(model, *inputs(model, batch))


@contextmanager
def recording(model: Model, site: Site, sink: Sink) -> Iterator[None]:
    """Hand each layer's activations to `sink` in every forward pass made inside.

    What the sink gets is the model's own tensor: copy what is to be kept, write nothing.
    """

    def unchanged(layer: int, x_STN: Tensor) -> Tensor:
        sink(layer, x_STN)
        return x_STN

    with replacing(model, site, unchanged):
        yield


@contextmanager
def replacing(model: Model, site: Site, change: Change) -> Iterator[None]:
    """Let projections receive `change(layer, activations)` in every forward pass made inside."""
    sequences, change = 0, whole(model.ref.shards, change)

    def count(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        nonlocal sequences
        del module
        fed = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
        sequences = len(fed)

    def before(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def hook(projection: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            del projection
            x = args[0]
            # Some layers flatten (S, T) on the way (OPT's MLP); the batch knows S.
            x_STN = x.reshape(sequences, -1, x.shape[-1])
            return (change(layer, x_STN).reshape(x.shape), *args[1:])

        return hook

    handles = [model.module.register_forward_pre_hook(count, with_kwargs=True)]
    try:
        for layer, projection in enumerate(projections(model, site)):
            handles.append(projection.register_forward_pre_hook(before(layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _mode(grad: bool) -> Iterator[None]:
    """Remember what a backward pass needs, or nothing at all, whatever it is outside."""
    with torch.inference_mode(not grad), torch.set_grad_enabled(grad):
        yield


@contextmanager
def without_head(model: Model) -> Iterator[None]:
    """Let the forward pass end with what the head would be fed, inside the block."""
    path, _, name = model.family.head.rpartition(".")
    parent = model.module.get_submodule(path)
    with ExitStack() as stack:
        stack.callback(setattr, parent, name, getattr(parent, name))
        setattr(parent, name, _NO_HEAD)
        if model.family.softcap is not None:  # of hidden states it would make something else
            path, _, name = model.family.softcap.rpartition(".")
            said = at(model.module, path)
            stack.callback(setattr, said, name, getattr(said, name))
            setattr(said, name, None)
        yield


def inputs(model: Model, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return what `forward` takes: token ids and what is attended, (S, T); or pixels and None."""
    fed = torch.from_numpy(batch.inputs).to(model.device)
    if batch.attended is None:
        return _seen(model, fed), None
    return fed, torch.from_numpy(batch.attended).to(model.device, torch.int64)


def forward(model: Model, fed: Tensor, attended_ST: Tensor | None) -> Tensor:
    """Return what the module answers: (S, T, …) for text, (S, …) for images."""
    if model.family.modality == "image":
        answer = model.module(fed)
    else:
        cache = {"use_cache": False} if model.family.modality == "causal" else {}
        answer = model.module(input_ids=fed, attention_mask=attended_ST, **cache)
    logits: Tensor = answer if isinstance(answer, Tensor) else answer.logits  # timm answers plainly
    return logits


def by_position(fed: Tensor) -> Tensor:
    """Return what the head is fed as (S, T, D): one position for images."""
    return fed if fed.ndim == 3 else fed[:, None]


def _seen(model: Model, bytes_SHWC: Tensor) -> Tensor:
    """Return images as the model was trained to see them: scaled, (S, C, H, W), in its dtype."""
    if model.pixels is None:
        raise ValueError(
            f"{model.ref.name} is a text model and was given images. Feed it token ids with a mask."
        )
    mean_C = torch.tensor(model.pixels.mean, device=model.device)
    std_C = torch.tensor(model.pixels.std, device=model.device)
    seen_SHWC = (bytes_SHWC.float() * model.pixels.scale - mean_C) / std_C
    return seen_SHWC.permute(0, 3, 1, 2).contiguous().to(model.dtype)
