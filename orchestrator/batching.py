"""Batching: how many positions a model is fed at once.

Floating-point sums depend on a batch's shape, so its size is part of the name of
whatever is computed from it. It must therefore be the same on every machine: a number of
the sweep file, or arithmetic over what the model is and how many bytes the sweep gives
to a batch, never a look at the memory there is. (`orchestrator.budget` looks, and refuses.)
Nor may it depend on the rest of the sweep: a cell keeps its name when a method is added.

A larger batch reads the weights less often and hides the launching of kernels. With
`PER_WIDTH` x d_model positions a product reads and writes ten times as much of activations
as of weights, so more positions save nothing; they cost memory, and on a CPU the cache. Narrow
models get `FEWEST` all the same, because each of their kernels is over too soon. Measured,
hidden states and scores in fp32, microseconds of one core's time for a position:

    positions of a batch                   512   1024   2048   4096   8192   16384
    4 layers of 128 (the bundled OPT)       39     37     40     43     43      48
    2 layers of 768, 8192 tokens             -    526    509    534    545       -

So the bundled models get 2048. Of 1 GiB, OPT-125m gets 6144 positions, RoBERTa-large in
bf16 8192, and OPT-1.3B in bf16 10240, which is five windows. That is 10^12 operations in each
layer, a millisecond or more on a GPU, whose twenty kernels are launched in a tenth of that
(reasoned, not measured).

Of its activations a forward pass holds one layer's at a time, `ACTIVATIONS` widths of the
model at most. What cells keep of a batch beside that (donors' activations, recorded
prefixes) is the budget's affair.
"""

from orchestrator.spec import Spec
from workers.messages import ModelRef

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ACTIVATIONS = 24
"""Widths of d_model that one position of one layer may hold at once (measured: 12 to 23)."""
PER_WIDTH = 8
FEWEST = 2048
"""Positions of a batch of a narrow model, where bytes allow."""
CONSTANTS_PER_CALL = 8
"""Cells of constant methods evaluated in one call: long enough to hide the scheduler."""
DONATED_PER_CALL = 16
"""Cells that share one pass of the donors."""


def tokens(spec: Spec, ref: ModelRef) -> int:
    """Return the most positions of a batch, padding included: as given, or what is good.

    Unless given it is a whole number of the evaluated source's windows (images: of
    images), and never less than the longest window that the model is fed.
    """
    given = spec.evaluation.batch_tokens
    if given != "auto":
        return given
    each, width = windows(spec, ref), ref.facts.d_model
    held = spec.evaluation.batch_bytes // (width * ACTIVATIONS * BYTES[ref.dtype])
    good = min(held, max(FEWEST, PER_WIDTH * width))
    return max(*each, good // each[0] * each[0])


def windows(spec: Spec, ref: ModelRef) -> list[int]:
    """Return the positions of a window of every source that a model is fed.

    The first is the source it is evaluated on, the second what its statistics are of, the
    others are those that a selection compares it with. A source that says nothing, or is not
    there, has the model's own window.
    """
    own = next(m for m in spec.models if m.id == ref.name).data
    against = (str(s.parameters["against"]) for s in spec.selections if "against" in s.parameters)
    longest = ref.facts.window
    return [
        spec.data[key].window(longest) if key in spec.data else longest
        for key in (own, spec.statistics.data or own, *against)
    ]
