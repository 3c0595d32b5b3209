"""Draws are uniform, and depend on their address alone.

Shapes: S sequences, T positions, N neurons.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers import draws
from workers.messages import SITES, Site

GAMMA = 0x9E3779B97F4A7C15


def uniform(
    sequence_S: list[int] | torch.Tensor,
    *,
    seed: int = 0,
    layer: int = 0,
    site: Site = "attn_pre_out",
    positions: int = 5,
    neurons: int | torch.Tensor = 7,
    purpose: int = draws.NOISE,
) -> torch.Tensor:
    return draws.uniform(
        seed,
        torch.as_tensor(sequence_S),
        layer=layer,
        site=site,
        positions=positions,
        neurons=neurons,
        device="cpu",
        purpose=purpose,
    )


def mixed(z: int) -> int:
    """Return SplitMix64's mixing, in integers that cannot overflow."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_the_mixing_gives_the_published_numbers_of_splitmix64() -> None:
    states = torch.tensor([draws._signed(1234567 + step * GAMMA) for step in (1, 2, 3, 4, 5)])
    assert [int(z) % 2**64 for z in draws._mixed(states)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(
    seed=st.integers(0, 2**64 - 1),
    sequence=st.integers(0, 2**62),
    layer=st.integers(0, 200),
    site=st.sampled_from(SITES),
    purpose=st.integers(0, 200),
)
def test_a_number_is_the_hash_of_its_address_whatever_wraps_around(
    seed: int, sequence: int, layer: int, site: Site, purpose: int
) -> None:
    state = 0
    for part in (seed, purpose, layer, SITES.index(site), sequence, 4, 6):
        state = mixed((state + (part + 1) * GAMMA) % 2**64)
    drawn_STN = uniform([sequence], seed=seed, layer=layer, site=site, purpose=purpose)
    assert drawn_STN[0, 4, 6].item() == ((state >> 12) + 0.5) / 2**52


def test_draws_are_the_same_again_and_whichever_sequences_positions_and_neurons_are_asked_for() -> (
    None
):
    drawn_STN = uniform([3, 8, 5], positions=9, neurons=20)
    assert torch.equal(drawn_STN, uniform([3, 8, 5], positions=9, neurons=20))
    assert torch.equal(drawn_STN[[2, 0]], uniform([5, 3], positions=9, neurons=20))
    assert torch.equal(drawn_STN[:, :4], uniform([3, 8, 5], positions=4, neurons=20))
    some = torch.tensor([19, 0, 7])
    assert torch.equal(drawn_STN[..., some], uniform([3, 8, 5], positions=9, neurons=some))
    as_numpy = draws.uniform(
        0,
        np.array([3, 8, 5]),
        layer=0,
        site="attn_pre_out",
        positions=9,
        neurons=20,
        device=torch.device("cpu"),
        purpose=draws.NOISE,
    )
    assert torch.equal(drawn_STN, as_numpy)


def test_every_part_of_an_address_draws_anew() -> None:
    everything = torch.cat(
        [
            uniform([0, 1], seed=seed, layer=layer, site=site, purpose=purpose).flatten()
            for seed in (0, 1, -1)
            for layer in (0, 1)
            for site in SITES
            for purpose in (draws.DONOR, draws.NOISE, draws.MARGINAL)
        ]
    )
    assert len(everything.unique()) == len(everything)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_draws_are_uniform_and_neighbours_have_nothing_to_do_with_each_other(axis: int) -> None:
    drawn_STN = uniform(list(range(40)), positions=50, neurons=60, seed=1)
    count = drawn_STN.numel()
    assert ((drawn_STN > 0) & (drawn_STN < 1)).all()
    bins_B = torch.bincount((drawn_STN.flatten() * 100).long(), minlength=100)
    chi2 = ((bins_B - count / 100) ** 2 / (count / 100)).sum().item()
    assert 45 < chi2 < 170  # 99 degrees: beyond these once in 10^5
    low = (drawn_STN.flatten() * 2**40 % 1 * 100).long()  # the low bits alike
    bins_B = torch.bincount(low, minlength=100)
    assert 45 < ((bins_B - count / 100) ** 2 / (count / 100)).sum().item() < 170
    z_STN = (drawn_STN - 0.5) * 12**0.5
    for apart in (1, 2, 7):
        one, other = z_STN.narrow(axis, apart, z_STN.shape[axis] - apart), z_STN
        product = one * other.narrow(axis, 0, one.shape[axis])
        assert abs(product.mean().item()) < 4.5 / product.numel() ** 0.5


def test_normal_draws_are_normal_to_the_ends() -> None:
    ends = [2.0**-53, 0.5, 0.8413447460685429, 1 - 2.0**-53]  # the first and the last there are
    z = draws.normal(torch.tensor(ends, dtype=torch.float64))
    assert z.tolist() == pytest.approx([-8.2095, 0, 1, 8.2095], abs=1e-3)
    z = draws.normal(uniform(list(range(50)), positions=30, neurons=60))
    assert abs(z.mean()) < 4.5 / z.numel() ** 0.5
    assert z.std() == pytest.approx(1, abs=4.5 / (2 * z.numel()) ** 0.5)
    assert (z < -1.6448536).double().mean() == pytest.approx(
        0.05, abs=4.5 * (0.05 / z.numel()) ** 0.5
    )
