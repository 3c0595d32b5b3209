"""Statistics under ablation are of the neurons of the site that was asked for."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.workers import tiny
from tests.workers.holding import Held, bits, random_held, random_values
from workers.ablation import folded
from workers.histogram import Histogram, summarise
from workers.messages import SITES, Site
from workers.under import Passes, in_sequence, under


def means(histogram: Histogram) -> NDArray[np.float64]:
    return summarise(histogram).mean


@pytest.mark.parametrize("site", SITES)
def test_a_layer_is_counted_while_those_below_it_are_held_at_what_they_counted(
    site: Site, tmp_path: Path
) -> None:
    model = tiny.model("opt", tmp_path)
    mine = [tiny.batch(model, [0, 1, 2, 3])]
    passes, before = Passes(pilot=mine, shards=[(0, mine)], site=site), bits(model)
    neurons = model.facts.neurons_at(site)
    held = random_held(model, 0.5, site=site)
    values_LN = means(in_sequence(model, passes, held, means)).reshape(3, neurons)

    for layer in range(3):  # each again, by `under`, with what is below it held
        below: Held = tuple(held_H if at < layer else held_H[:0] for at, held_H in enumerate(held))
        again_LN = means(under(model, passes, below, values_LN)).reshape(3, neurons)
        np.testing.assert_allclose(again_LN[layer], values_LN[layer], rtol=1e-6, atol=1e-9)
    assert bits(model) == before

    nothing = tuple(held_H[:0] for held_H in held)
    bare_LN = means(under(model, passes, nothing, values_LN)).reshape(3, neurons)
    np.testing.assert_allclose(bare_LN[0], values_LN[0], rtol=1e-6)
    assert not np.allclose(bare_LN[2], values_LN[2], rtol=1e-2)


def test_neurons_of_one_site_are_counted_while_those_of_another_are_held(tmp_path: Path) -> None:
    model = tiny.model("vit", tmp_path)
    mine = [tiny.batch(model, [0, 1])]
    passes = Passes(pilot=mine, shards=[(0, mine)], site="mlp_mid")
    everything = random_held(model, 1.0)
    with folded(model, "attn_pre_out", everything, random_values(model)):
        nothing = random_held(model, 0, site="mlp_mid")
        values_LN = random_values(model, site="mlp_mid")
        inside = means(under(model, passes, nothing, values_LN))
    bare = means(under(model, passes, nothing, values_LN))
    assert inside.shape == bare.shape == (3 * 48,)
    assert not np.allclose(inside, bare, rtol=1e-2)
