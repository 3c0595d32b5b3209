"""Compiled: one graph of the forward pass, for every cell that folds.

`torch.compile` turns the forward pass up to the head into one graph. Folding changes
values of parameters and nothing else, so the graph stays valid from cell to cell. For
that the model is prepared once, and left as it was by `close`:

* A projection without a bias gets one of minus zeros (float32). Below float32 each
  projection gets a standing addition (`workers.additions`). Nothing is put up, taken
  down or replaced between cells.
* Sizes of batches are symbols from the start, so all batches share one graph; only a
  batch of one sequence (or one position) has a graph of its own, because the compiler
  takes a size of 1 for a constant. On CUDA each shape is recorded once as a CUDA graph.
* Causal models are fed no mask: padding is on the right, where no attended position
  looks. A mask would depend on data, and rule out the fastest kernels for attention.
  What padded positions become is another matter, and nobody's concern.

Nothing of that is believed. On a few random inputs the prepared model is compared with
the untouched one (bit for bit where no bias was added) and the compiled with the eager
one, with nothing held and with neurons held in every layer. The graph must be whole, and
among what it reads must be the very weights, biases and additions that folding writes to;
that takes the place of counting calls of additions, which a graph cannot do.
Where any of this fails, or there is no compiler, `reason` says so in a sentence and
`hidden` runs as the library does.

Compiled answers differ from eager ones, because fused operations round less often: the
mean cross-entropy of the bundled OPT by at most 1e-7 nats in float32 and 3e-3 in
bfloat16 (2048 tokens; nothing held, and a quarter to all of attention). So whether a
model was compiled belongs to a cell's name. On a CPU compiling takes half a minute or
more and saves about a tenth of a pass; it is meant for GPUs, where launching small
kernels costs more than running them.

Shapes: S sequences, T positions, N inputs and D outputs of a projection.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from weakref import WeakMethod

import numpy as np
import torch
from torch import Tensor, fx, nn

from workers import hooks
from workers.additions import NOTHING, Addition, standing, take_down
from workers.folding import Fold, own
from workers.loading import Model
from workers.messages import NOT_SCORED, SITES, Batch, Site

Backend = Callable[[fx.GraphModule, list[Tensor]], Callable[..., object]]
"""Turns a graph and examples of what it is called with into what can be called."""

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far compiled and eager hidden states may differ, root mean square over root mean square.

The bundled OPT differed by 1e-6 in float32 and 4e-2 in bfloat16 over 2048 tokens, a random one of
four layers of width 768 by 5e-7 in float32."""

_SEQUENCES, _POSITIONS = 2, 13
"""Sizes to trace with: no two equal, because equal sizes would be taken for one."""


class CompileError(RuntimeError):
    """The compiled model is not the model."""


class Compiled:
    """A model's forward pass up to the head, compiled once for all cells that fold.

    Compiles when it is made. `sites` are those at which cells may fold; `backend` takes
    the place of PyTorch's own compiler, inductor (for tests). While it is open the model's
    module has the standing biases and additions; one `Compiled` per model at a time.
    """

    def __init__(
        self, model: Model, sites: Sequence[Site] = SITES, backend: Backend | None = None
    ) -> None:
        self._model, self._sites = model, tuple(sites)
        self._backend = backend or _inductor(model.device)
        self._undo = ExitStack()
        self._run: Callable[[Tensor, Tensor | None], Tensor] | None = self._traced()
        self._ready: dict[tuple[bool, ...], bool] = {}
        self.graphs = 0
        """Graphs compiled so far."""
        self.reason: str | None = None
        """Why some or all batches run eagerly; None where none does."""
        try:
            self._prepare_checked()
        except Exception as error:
            self._refuse(error)
        if self.reason is not None or not self._is_ready((False, False)):
            self.close()

    def hidden(self, batch: Batch) -> Tensor:
        """Return what the head is fed: (S, T, D) for text, (S, 1, D) for images.

        Of texts only attended positions mean anything. The same as `workers.hooks.hidden`
        but for rounding, and exactly that where `reason` says why nothing was compiled.
        """
        if self._run is None or not self._is_ready(_kind(batch)):
            return hooks.hidden(self._model, batch)
        try:
            return self._compiled(batch)
        except (
            torch._dynamo.exc.TorchDynamoException
        ) as error:  # this batch would have needed another graph
            self._ready[_kind(batch)] = False
            self._refuse(error)
            return hooks.hidden(self._model, batch)

    def close(self) -> None:
        """Leave the model as it was, bit for bit; from now on `hidden` runs eagerly."""
        self._undo.close()
        self._run = None

    def _prepare_checked(self) -> None:
        """Put up biases and additions, and compare with the model as it was."""
        probe = _probe(self._model, (False, False))
        bare_STD = hooks.hidden(self._model, probe)
        added = [
            _prepare(projection, self._undo)
            for site in self._sites
            for projection in hooks.projections(self._model, site)
        ]
        limit = TOLERANCE[self._model.dtype] if any(added) else 0.0
        found_STD = hooks.hidden(self._model, probe)
        _compare(found_STD, bare_STD, probe, limit, "With biases and additions of nothing")

    def _is_ready(self, kind: tuple[bool, ...]) -> bool:
        """Whether batches of this kind can run compiled; compiles and checks at the first of it.

        What is compiled never depends on which batch came first.
        """
        if self._run is None:
            return False
        if kind not in self._ready:
            self._ready[kind] = False
            try:
                self._check(_probe(self._model, kind))
                self._ready[kind] = True
            except Exception as error:
                self._refuse(error)
        return self._ready[kind]

    def _check(self, probe: Batch) -> None:
        """Compare compiled and eager passes, of the bare model and of one that is folded."""
        limit, draw = TOLERANCE[self._model.dtype], np.random.default_rng(0)
        found_STD = self._compiled(probe)
        _compare(found_STD, hooks.hidden(self._model, probe), probe, limit, "Compiled")
        with ExitStack() as stack:
            for site in self._sites:
                neurons = self._model.facts.neurons_at(site)
                held = [np.arange(0, neurons, 2)] * self._model.facts.layers
                values_LN = 0.5 * draw.standard_normal((len(held), neurons))
                find = partial(hooks.projections, self._model, site)
                stack.enter_context(Fold(find, held, values_LN))
            found_STD = self._compiled(probe)
            eager_STD = hooks.hidden(self._model, probe)
        _compare(found_STD, eager_STD, probe, limit, "Compiled and with neurons held")

    def _compiled(self, batch: Batch) -> Tensor:
        assert self._run is not None  # or nothing would be ready
        with torch.inference_mode(), hooks.without_head(self._model):
            fed, attended_ST = hooks.inputs(self._model, batch)
            if self._model.family.modality == "causal":
                attended_ST = None
            if self._model.device.type != "cuda":
                return self._run(fed, attended_ST)
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            return self._run(fed, attended_ST).clone()  # the next pass writes to the same memory

    def _traced(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        """Return the function that is compiled where it is first called."""
        model, compiler = self._model, WeakMethod(self._compile)

        def compiled(graph: fx.GraphModule, read: list[Tensor]) -> Callable[..., object]:
            mine = compiler()  # PyTorch keeps compilers for ever, and must not keep the model
            assert mine is not None  # or nobody could have called what is compiled
            return mine(graph, read)

        def run(fed: Tensor, attended_ST: Tensor | None) -> Tensor:
            return hooks.by_position(hooks.forward(model, fed, attended_ST))

        # Graphs are kept, and counted against a limit, by code object: this model's go with it.
        run.__code__ = run.__code__.replace()
        return torch.compile(run, backend=compiled, fullgraph=True, dynamic=True)

    def _compile(self, graph: fx.GraphModule, read: list[Tensor]) -> Callable[..., object]:
        """See that a graph reads what folding writes to, have it compiled, and count it."""
        there = {id(tensor) for tensor in read}
        for site in self._sites:
            for layer, projection in enumerate(hooks.projections(self._model, site)):
                missing = [name for name, t in _written(projection) if id(t) not in there]
                if missing:
                    raise CompileError(
                        f"The graph does not read the {' and '.join(missing)} of layer {layer} at"
                        f" {site}, so nothing could be held there."
                    )
        made = self._backend(graph, read)  # may ask for the graph once more, by an exception
        self.graphs += 1
        return made

    def _refuse(self, error: Exception) -> None:
        cause = getattr(error, "inner_exception", error)
        said = (str(cause).strip().splitlines() or [""])[0]
        self.reason = (
            f"{self._model.ref.label} was not compiled, and runs as it is:"
            f" {type(cause).__name__}: {said}"
        )


def _inductor(device: torch.device) -> Backend:
    """Return PyTorch's compiler, on CUDA with CUDA graphs; parameters stay inputs of a graph."""
    options = {
        "freezing": False,
        "triton.cudagraphs": device.type == "cuda",
        "deterministic": True,  # kernels are not chosen by how long they take
    }
    inductor: Callable[..., Callable[..., object]] = torch._dynamo.lookup_backend("inductor")
    return partial(inductor, config_patches=options)


def _prepare(projection: nn.Linear, undo: ExitStack) -> bool:
    """Let a projection have all that a fold writes to; whether a bias was added."""
    adds_bias = projection.bias is None and projection.weight.dtype.itemsize >= 4
    if projection.weight.dtype.itemsize < 4:
        Addition(projection)
        undo.callback(take_down, projection)
    elif adds_bias:
        undo.callback(setattr, projection, "bias", None)
        with torch.inference_mode(mode=False):
            nothing_D = torch.full_like(projection.weight[:, 0], NOTHING)
            projection.bias = nn.Parameter(nothing_D, requires_grad=False)
    own(projection)
    return adds_bias


def _written(projection: nn.Linear) -> list[tuple[str, Tensor]]:
    """Return what a fold writes to, by name."""
    addition = standing(projection)
    kept = ("bias", projection.bias) if addition is None else ("addition", addition.offset_D)
    return [("weight", projection.weight), kept]


def _kind(batch: Batch) -> tuple[bool, ...]:
    """Return which sizes are 1: these the compiler takes for constants."""
    return tuple(size == 1 for size in batch.inputs.shape[:2])


def _probe(model: Model, kind: tuple[bool, ...]) -> Batch:
    """Return random inputs of a kind; of two texts, the second is padded."""
    draw, facts = np.random.default_rng(0), model.facts
    sequences = 1 if kind[0] else _SEQUENCES
    positions = 1 if kind[1] else min(_POSITIONS, facts.window)
    attended_ST = None
    if facts.image is None:
        inputs = draw.integers(0, facts.vocabulary, (sequences, positions))
        attended_ST = np.ones((sequences, positions), np.bool_)
        attended_ST[1:, positions - positions // 4 :] = False
    else:
        inputs = draw.integers(0, 256, (sequences, *facts.image)).astype(np.uint8)
    return Batch(
        sequence=np.arange(sequences),
        inputs=inputs,
        attended=attended_ST,
        targets=np.full((sequences, 1), NOT_SCORED),
    )


def _compare(found_STD: Tensor, told_STD: Tensor, probe: Batch, limit: float, how: str) -> None:
    """Raise CompileError unless attended positions agree to a share of their size."""
    if probe.attended is not None:
        attended_ST = torch.from_numpy(probe.attended).to(told_STD.device)
        found_STD, told_STD = found_STD[attended_ST], told_STD[attended_ST]
    size = told_STD.float().norm().item()
    difference = (found_STD.float() - told_STD.float()).norm().item()
    if not difference <= limit * size:  # also where it is not a number
        raise CompileError(
            f"{how}, hidden states differ by {difference / (size or 1.0):.3g} of their root mean"
            f" square, where at most {limit:g} was expected in {told_STD.dtype}."
        )
