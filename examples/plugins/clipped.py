"""A replacement of one's own: held neurons may not leave the middle of their range.

`clipped` moves an activation that lies more than `width` standard deviations from the
neuron's mean to that distance, and leaves the others alone. A neuron is not silenced: it
keeps saying what is usual, and can no longer shout. With width 0 it is `mean`.

`docs/plugins.md` shows how to run it.

Shapes: S sequences, T positions, N neurons of one hookpoint.
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from workers.plugins import Method


class Clipped(Method):
    """The activation, but never further than `width` standard deviations from the mean."""

    name = "clipped"
    parameters: ClassVar = {"width": 2.0}
    needs = ("mean", "std")

    def replace(
        self,
        x_STN: Tensor,
        *,
        layer,
        site,
        statistics: Mapping[str, Tensor],
        parameters,
        sequence_S,
        seed,
    ) -> Tensor:
        """Return the activations, (S, T, N), moved to mean ± width·std where they lie outside."""
        reach_N = parameters["width"] * statistics["std"]
        low_N, high_N = statistics["mean"] - reach_N, statistics["mean"] + reach_N
        return x_STN.clamp(min=low_N, max=high_N)


METHODS = [Clipped()]
