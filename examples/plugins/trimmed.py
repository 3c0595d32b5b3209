"""A constant of one's own: the mean without the extremes.

`trimmed` leaves out a share of the smallest and as large a share of the largest
activations of every neuron, and holds it at the mean of the others. Between the mean
(share 0) and the median (share .5) it asks how much of what mean loses is outliers.

The table keeps counts, not activations, so every value stands in the middle of its
bin and the answer is good to a bin. Exact zeros are counted apart and stand at 0;
what lies outside the window stands at its ends, which matters only where less is
trimmed than lies there, at most 1 %.

`docs/plugins.md` shows how to run it.

Shapes: L layers, N neurons, B bins, K = B + 3 places at which values stand.
"""

from typing import ClassVar

import numpy as np

from workers.plugins import Method


class Trimmed(Method):
    """The mean of the middle 1 − 2·share of a neuron's activations (Tukey and McLaughlin 1963)."""

    name = "trimmed"
    parameters: ClassVar = {"share": 0.05}
    needs = ("counts", "bin_start", "bin_width", "zeros", "below", "above")

    def centre(self, statistics, parameters):
        """Return the trimmed mean of every neuron, (L, N)."""
        share = parameters["share"]
        if not 0 <= share < 0.5:
            raise ValueError(f"share is {share}; expected at least 0 and less than 0.5")
        counts_LNB = statistics["counts"]
        start_LN1, width_LN1 = (statistics[c][..., None] for c in ("bin_start", "bin_width"))
        bins = counts_LNB.shape[-1]
        edges = [start_LN1, start_LN1 + bins * width_LN1, np.zeros_like(start_LN1)]
        middle_LNB = start_LN1 + (np.arange(bins) + 0.5) * width_LN1
        value_LNK = np.concatenate([middle_LNB, *edges], axis=-1)
        beside = [statistics[column][..., None] for column in ("below", "above", "zeros")]
        count_LNK = np.concatenate([counts_LNB, *beside], axis=-1)

        order_LNK = np.argsort(value_LNK, axis=-1, kind="stable")
        value_LNK = np.take_along_axis(value_LNK, order_LNK, -1)
        reached_LNK = np.take_along_axis(count_LNK, order_LNK, -1).cumsum(axis=-1)
        total_LN1 = reached_LNK[..., -1:]
        kept_LNK = np.clip(reached_LNK, share * total_LN1, (1 - share) * total_LN1)
        weight_LNK = np.diff(kept_LNK, axis=-1, prepend=share * total_LN1)
        with np.errstate(invalid="ignore"):  # a neuron without a value has no mean: NaN is meant
            return (weight_LNK * value_LNK).sum(axis=-1) / weight_LNK.sum(axis=-1)


METHODS = [Trimmed()]
