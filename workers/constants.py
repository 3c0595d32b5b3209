"""Constants: whether held sets and what they are held at fit a model.

Shapes: L layers, N neurons of one hookpoint, H held ones.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def check_held(held: Sequence[NDArray[np.int64]], *, layers: int, neurons: int) -> None:
    """Raise ValueError unless `held` is one array of ascending neuron indices per layer."""
    if len(held) != layers:
        raise ValueError(
            f"Neurons are held in {len(held)} layers; this model has {layers}. Give one array of"
            " indices per layer, empty where nothing is held."
        )
    for layer, held_H in enumerate(held):
        if len(held_H) and (held_H[0] < 0 or held_H[-1] >= neurons or (np.diff(held_H) < 1).any()):
            raise ValueError(
                f"The neurons to hold in layer {layer} are not ascending indices from 0 to"
                f" {neurons - 1}, each once. Sort them and leave out repetitions."
            )


def check_values(
    held: Sequence[NDArray[np.int64]],
    values_LN: NDArray[np.float64],
    *,
    layers: int,
    neurons: int,
    where: str = "",
) -> None:
    """Raise ValueError unless every held neuron has a constant that is a finite number.

    `held` has been checked; `where` follows the value in what is said.
    """
    if values_LN.shape != (layers, neurons):
        raise ValueError(
            f"The values have shape {values_LN.shape}; this model has {layers} layers of {neurons}"
            " neurons. Give one constant for every neuron, also those not held."
        )
    for layer, held_H in enumerate(held):
        bad_H = held_H[~np.isfinite(values_LN[layer, held_H])]
        if len(bad_H):
            raise ValueError(
                f"Neuron {bad_H[0]} of layer {layer} was to be held at"
                f" {values_LN[layer, bad_H[0]]}{where} ({len(bad_H)} such in this layer); a"
                " constant must be a finite number. Look at the neuron's row in the statistics."
            )
