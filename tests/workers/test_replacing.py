"""Every kind of value is what plain code makes of it, and drawn as it says.

Shapes: L layers, S sequences, T positions, N neurons of one hookpoint, B bins.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.workers import tiny
from tests.workers.cells import (
    BUDGET,
    KINDS,
    activations,
    baseline,
    batches,
    donors,
    held_at,
    instead,
    needed,
    one,
    only,
    others,
    same,
    told_elements,
)
from tests.workers.holding import hooked, plainly, recorded
from workers import hooks, plugins
from workers.evaluate import evaluate
from workers.loading import Model
from workers.messages import (
    Batch,
    CellOrder,
    Constant,
    Custom,
    Donated,
    Donors,
    Marginal,
    NearestPeak,
    Noise,
    Site,
)
from workers.replacing import Replacement

families = pytest.mark.parametrize("name", tiny.NAMES)
kinds = pytest.mark.parametrize("kind", KINDS)
hooked_kinds = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "constant"])

ATTENTION: tuple[Site, ...] = ("attn_pre_out",)
MLP: tuple[Site, ...] = ("mlp_mid",)
Change = Callable[[int, Tensor], Tensor]
"""Takes a layer's number and what its projection would get; returns what it gets."""


@cache
def loaded(name: str, home: Path, dtype: Literal["float32", "bfloat16"]) -> Model:
    return tiny.model(name, home, dtype)


@cache
def bare_loss(name: str, home: Path, dtype: Literal["float32", "bfloat16"]) -> NDArray[np.float64]:
    model = loaded(name, home, dtype)
    mine = [tiny.batch(model, [7, 2])]
    (answer,) = evaluate(model, mine, [baseline(model)], {}, logits_bytes=BUDGET)
    return answer.loss


def put_in(model: Model, order: CellOrder, mine: Sequence[Batch]) -> list[torch.Tensor]:
    """Return what the first layer's projection is fed while a cell's neurons are held."""
    given = needed([order], donors(model, mine))
    seen: list[torch.Tensor] = []
    projection = hooks.projections(model, only(order).site)[0]
    watch = projection.register_forward_hook(lambda _, args, __: seen.append(args[0].clone()))
    try:
        evaluate(model, mine, [order], given, logits_bytes=BUDGET)
    finally:
        watch.remove()
    passes = sum(len(d.passes) for d in given.values())
    return seen[passes :: passes + 1]  # of each batch: the donors' passes, then the cell's


@families
@pytest.mark.parametrize(
    ("sites", "alpha", "dtype", "kind"),
    [
        (sites, alpha, dtype, kind)
        for sites, alpha, dtype in [
            (ATTENTION, 1.0, "float32"),
            (MLP, 0.4, "float32"),
            (ATTENTION + MLP, 1.0, "float32"),
            (ATTENTION, 0.4, "bfloat16"),
            (MLP, 1.0, "bfloat16"),
            (ATTENTION + MLP, 0.4, "bfloat16"),
        ]
        for kind in KINDS
        if kind != "per_head" or sites == ATTENTION  # the MLP has no heads
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else None,
)
def test_what_is_held_is_what_plain_hooks_make_of_it(
    name: str,
    kind: str,
    sites: tuple[Site, ...],
    alpha: float,
    dtype: Literal["float32", "bfloat16"],
    home: Path,
) -> None:
    model = loaded(name, home, dtype)
    mine = [tiny.batch(model, [7, 2])]
    order = held_at(model, kind, sites=sites, alpha=alpha)
    given = needed([order], donors(model, mine))
    with plainly(model, order, mine[0], given):
        (expected,) = evaluate(model, mine, [baseline(model)], {}, logits_bytes=BUDGET)
    (answer,) = evaluate(model, mine, [order], given, logits_bytes=BUDGET)
    folds = kind == "constant" and (dtype == "float32" or alpha == 1)
    columns = sum(len(held_H) for hold in order.holds for held_H in hold.held)
    assert answer.told == answer.held
    assert answer.told == (columns if folds else told_elements(model, order, mine))
    # Below float32 a hook rounds the constant and a fold does not.
    close = 5e-2 if folds and dtype == "bfloat16" else 1e-5
    assert np.allclose(answer.loss, expected.loss, rtol=close, atol=0)
    assert not np.allclose(expected.loss, bare_loss(name, home, dtype), rtol=1e-3, atol=0)
    if close < 1e-3:
        assert np.array_equal(answer.top1, expected.top1)


@hooked_kinds
def test_padding_and_neurons_that_are_not_held_are_left_as_they_are(kind: str, home: Path) -> None:
    model = tiny.shared("roberta", home)
    mine, order = batches(model), held_at(model, kind)
    told_N = torch.zeros(model.facts.neurons, dtype=torch.bool)
    told_N[only(order).held[0]] = True
    for batch, x_STN in zip(mine, put_in(model, order, mine), strict=True):
        assert batch.attended is not None
        chosen_STN = torch.from_numpy(batch.attended)[:, :, None] & told_N
        bare_STN = activations(model, batch)[0]
        assert torch.equal(x_STN[~chosen_STN], bare_STN[~chosen_STN])
        assert (x_STN != bare_STN)[chosen_STN].float().mean() > 0.8


@hooked_kinds
@pytest.mark.parametrize("name", ["mistral", "vit"])
def test_what_is_put_in_depends_on_the_sequence_alone_and_not_on_its_batch(
    name: str, kind: str, home: Path
) -> None:
    model = tiny.shared(name, home)
    order = held_at(model, kind)
    together = [tiny.batch(model, [7, 2, 5, 0])]
    apart = [tiny.batch(model, [0]), tiny.batch(model, [5, 7]), tiny.batch(model, [2])]
    if together[0].attended is not None:  # and on no padding: these have ten tokens each
        short = apart[2]
        assert short.attended is not None
        width = int(short.attended.sum())
        assert width == 10
        apart[2] = replace(
            short,
            inputs=short.inputs[:, :width],
            attended=short.attended[:, :width],
            targets=short.targets[:, :width],
        )
    (all_STN,) = put_in(model, order, together)
    rows = {0: all_STN[3], 5: all_STN[2], 7: all_STN[0], 2: all_STN[1]}
    for batch, x_STN in zip(apart, put_in(model, order, apart), strict=True):
        for number, x_TN in zip(batch.sequence.tolist(), x_STN, strict=True):
            # Equal but for the last bits of what the model computes in batches of other shapes.
            assert torch.allclose(x_TN, rows[number][: len(x_TN)], rtol=1e-4, atol=1e-5)
            if kind in ("by_position", "noise", "marginal"):
                told = only(order).held[0]
                attended = np.ones(len(x_TN), np.bool_)
                if batch.attended is not None:
                    attended = batch.attended[batch.sequence.tolist().index(number)]
                drawn = x_TN[attended][:, told], rows[number][: len(x_TN)][attended][:, told]
                assert torch.equal(*drawn)


@pytest.mark.parametrize("kind", ["per_layer", "per_head", "per_neuron", "noise", "marginal"])
def test_another_seed_draws_anew_and_the_same_seed_does_not(kind: str, home: Path) -> None:
    model = tiny.shared("vit", home)
    order = held_at(model, kind)
    again = one(model, instead(order, value=replace(only(order).value, seed=0)))
    anew = one(model, instead(order, value=replace(only(order).value, seed=1)))
    assert same(one(model, order), again)
    assert not np.allclose(anew.loss, again.loss, rtol=1e-4)


def drawn(home: Path, value: Noise | Marginal) -> NDArray[np.float64]:
    """Return what is put in at two neurons: 2 x 64 images x 17 positions."""
    model = tiny.shared("vit", home)
    mine = [tiny.batch(model, list(range(64)))]
    held = (np.array([3, 9]), np.empty(0, np.int64), np.empty(0, np.int64))
    order = instead(held_at(model, "noise"), value=value, held=held)
    (x_STN,) = put_in(model, order, mine)
    return x_STN[..., [3, 9]].flatten(0, 1).double().numpy()


def test_noise_has_the_mean_and_the_spread_of_its_neuron_and_no_memory(home: Path) -> None:
    shape = (3, 32)
    mean, std = np.zeros(shape), np.ones(shape)
    mean[0, [3, 9]], std[0, [3, 9]] = [2, -1], [0.5, 3]
    x_MN = drawn(home, Noise(mean=mean, std=std, seed=4))
    z_MN = (x_MN - [2, -1]) / [0.5, 3]
    assert np.abs(z_MN.mean(axis=0)).max() < 4 / np.sqrt(len(z_MN))
    assert np.abs(z_MN.std(axis=0) - 1).max() < 4 / np.sqrt(2 * len(z_MN))
    assert np.abs((z_MN**4).mean(axis=0) - 3).max() < 4 * np.sqrt(96 / len(z_MN))
    assert abs(np.corrcoef(z_MN.T)[0, 1]) < 4 / np.sqrt(len(z_MN))
    assert abs((z_MN[1:] * z_MN[:-1]).mean()) < 4 / np.sqrt(len(z_MN))


def test_the_marginal_draws_zeros_and_bins_by_their_shares_and_evenly_inside(home: Path) -> None:
    shape = (3, 32)
    counts = np.zeros((*shape, 6), np.int64)
    counts[..., 0] = 1
    counts[0, 3] = [0, 30, 0, 10, 20, 0]
    counts[0, 9] = 0
    zeros = np.zeros(shape, np.int64)
    zeros[0, [3, 9]] = 40, 5
    start, width = np.full(shape, -2.0), np.full(shape, 0.5)
    value = Marginal(counts=counts, zeros=zeros, start=start, width=width, seed=0)
    x_M, atom_M = drawn(home, value).T
    assert not atom_M.any()  # this neuron was never anything but zero
    assert (x_M == 0).mean() == pytest.approx(0.4, abs=0.06)
    bins = np.floor((x_M[x_M != 0] + 2) / 0.5).astype(int)
    shares = np.bincount(bins, minlength=6) / len(x_M)
    assert shares[[0, 2, 5]].tolist() == [0, 0, 0]
    assert shares[[1, 3, 4]] == pytest.approx([0.3, 0.1, 0.2], abs=0.06)
    inside = np.sort((x_M[x_M != 0] + 2) / 0.5 % 1)
    even = (np.arange(len(inside)) + 0.5) / len(inside)
    assert np.abs(inside - even).max() < 2 / np.sqrt(len(inside))  # Kolmogorov and Smirnov's


def test_of_two_modes_as_near_the_one_nearer_to_zero_is_taken(home: Path) -> None:
    model = tiny.shared("opt", home)
    batch = tiny.batch(model, [0])
    told = np.arange(32), np.empty(0, np.int64), np.empty(0, np.int64)
    x_LTN = activations(model, batch)[0][0].double().numpy()
    x = float(x_LTN[0, 0])  # neuron 0 at position 0; modes are exactly as far on either side
    modes = np.full((3, 32, 3), np.nan)
    modes[..., 0] = 5.0
    step = 2.0 ** np.floor(np.log2(abs(x)))
    modes[0, 0] = [x + np.sign(x) * step, np.nan, x - np.sign(x) * step]
    order = instead(held_at(model, "nearest_peak"), value=NearestPeak(modes=modes), held=told)
    (x_STN,) = put_in(model, order, [batch])
    assert x_STN[0, 0, 0].item() == np.float32(x - np.sign(x) * step)
    assert (x_STN[0, :, 1:] == 5).all()


def test_heads_and_neurons_take_their_donors_apart_and_layers_take_theirs_whole(
    home: Path,
) -> None:
    model = tiny.shared("mistral", home)
    mine = [tiny.batch(model, [0, 3, 6, 9])]
    neurons, size = model.facts.neurons, model.facts.d_head
    given_KSTN = [
        recorded(model, fed[0], "attn_pre_out")[0] for fed in donors(model, mine)["several"].passes
    ]

    def taken(kind: str) -> NDArray[np.int64]:
        """Return whose activations each sequence and neuron got at all positions, (S, N)."""
        order = held_at(model, kind, share=1.0)
        (x_STN,) = put_in(model, order, mine)
        from_KSTN = torch.stack([x_STN == given for given in given_KSTN])
        return from_KSTN[:, :, 1:].all(dim=2).long().argmax(dim=0).numpy()

    layer_SN, head_SN, neuron_SN = map(taken, ("per_layer", "per_head", "per_neuron"))
    head_SHE = head_SN.reshape(4, model.facts.heads, size)
    assert (layer_SN == layer_SN[:, :1]).all()
    assert len(np.unique(layer_SN[:, 0])) > 1
    assert (head_SHE == head_SHE[:, :, :1]).all()
    assert len(np.unique(head_SHE[:, :, 0])) == 3
    assert (np.bincount(neuron_SN.ravel(), minlength=3) > neurons).all()
    assert not (neuron_SN == head_SN).all()


def test_both_sites_of_a_layer_take_one_donor_where_layers_take_theirs(home: Path) -> None:
    model = tiny.shared("vit", home)
    mine = [tiny.batch(model, list(range(12)))]
    sites: tuple[Site, ...] = ("attn_pre_out", "mlp_mid")
    order = held_at(model, "per_layer", share=1.0, sites=sites)
    shape, which = recorded(model, mine[0], "attn_pre_out")[0].shape[:2], []
    numbers = {
        ("several", site): [
            [torch.full((*shape, model.facts.neurons_at(site)), float(k))] * 3 for k in range(3)
        ]
        for site in sites
    }
    replacement = Replacement(model, order, shape[1])
    with replacement.on(mine[0], numbers):
        for site in sites:
            with hooks.recording(model, site, lambda _, x_STN: which.append(x_STN[:, 0, 0])):
                hooks.hidden(model, mine[0])
    attention, mlp = which[:3], which[3:]
    assert all(map(torch.equal, attention, mlp))
    assert not torch.equal(attention[0], attention[1])


def test_the_published_row_is_at_every_position_and_where_there_is_none_zeros_are(
    home: Path,
) -> None:
    model = tiny.shared("opt", home)
    mine = [tiny.batch(model, [1, 3, 8])]
    order = held_at(model, "published", share=1.0)
    (x_STN,) = put_in(model, order, mine)
    donor_STN = recorded(model, others(model, mine)[0], "attn_pre_out")[0]
    assert mine[0].attended is not None
    for s, row in enumerate([-1, 3, 3]):
        expected_N = torch.zeros(32) if row < 0 else donor_STN[s, row]
        assert (x_STN[s, mine[0].attended[s]] == expected_N).all()


def test_what_is_not_a_number_is_put_in_and_counted_all_the_same(home: Path) -> None:
    model = tiny.model("mistral", home)
    model.module.get_submodule("model.layers.0.self_attn.v_proj").weight.data[0, 0] = torch.nan
    for kind in ("nearest_peak", "custom", "joint"):
        for alpha in (0.5, 1.0):
            answer = one(model, held_at(model, kind, alpha=alpha))
            assert answer.held == answer.told > 0


def counted(
    home: Path,
    between: Change,
    share: float = 1.0,
    own: Tensor | None = None,
) -> tuple[int, int]:
    """Return the elements told and held if other hooks change what joint donors put in.

    Donors' activations are `own` in every layer, or random numbers; they must stay as they are.
    """
    model = tiny.shared("roberta", home)
    order, batch = held_at(model, "joint", share), tiny.batch(model, [7, 2])
    shape = (2, tiny.WINDOW, model.facts.neurons)
    given_STN = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    given_STN = given_STN if own is None else own.expand(shape).clone()
    before_STN, real = given_STN.clone(), hooks.recording

    @contextmanager
    def recording(of: Model, site: Site, sink: hooks.Sink) -> Iterator[None]:
        with hooked(of, between, site), real(of, site, sink):
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks, "recording", recording)
        replacement = Replacement(model, order, tiny.WINDOW)
        with replacement.on(batch, {("others", "attn_pre_out"): [[given_STN] * 3]}) as count:
            hooks.hidden(model, batch)
    assert torch.equal(given_STN.view(torch.int32), before_STN.view(torch.int32))
    return count.told, count.held()


def test_one_element_that_was_changed_behind_the_replacing_is_missed_in_the_count(
    home: Path,
) -> None:
    def changed(layer: int, x_STN: Tensor) -> Tensor:
        x_STN = x_STN.clone()
        if layer == 1:
            x_STN[0, 3, 5] += 1
        return x_STN

    told, held = counted(home, changed)
    assert held == told - 1


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_change_in_place_shows_and_does_not_reach_the_donors(home: Path, share: float) -> None:
    told, held = counted(home, lambda _, x_STN: x_STN.add_(1), share)
    assert held == 0 < told


def test_what_is_not_held_and_what_is_padding_is_not_counted(home: Path) -> None:
    model = tiny.shared("roberta", home)
    attended_ST = tiny.batch(model, [7, 2]).attended
    assert attended_ST is not None
    assert not attended_ST.all()
    order = held_at(model, "joint", 0.5)

    def elsewhere(layer: int, x_STN: Tensor) -> Tensor:
        kept_STN = torch.zeros(x_STN.shape, dtype=torch.bool)
        kept_STN[..., only(order).held[layer]] = True
        kept_STN &= torch.from_numpy(attended_ST)[:, :, None]
        return torch.where(kept_STN, x_STN, 3.0)

    told, held = counted(home, elsewhere, 0.5)
    assert held == told == 3 * attended_ST.sum() * (model.facts.neurons // 2)


@pytest.mark.parametrize(
    ("put", "got", "counts"),
    [(0.0, -0.0, False), (-0.0, 0.0, False), (-0.0, -0.0, True), (math.nan, math.nan, True)],
)
def test_bits_are_compared_so_that_signed_zeros_differ_and_nan_equals_itself(
    home: Path, put: float, got: float, counts: bool
) -> None:
    told, held = counted(home, lambda _, x_STN: torch.full_like(x_STN, got), own=torch.tensor(put))
    assert held == (told if counts else 0)


def test_values_that_do_not_fit_are_refused(home: Path) -> None:
    model = tiny.shared("opt", home)

    def refused(said: str, order: CellOrder, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error, match=said):
            one(model, order)

    noise, marginal = held_at(model, "noise"), held_at(model, "marginal")
    layer, neuron = 1, only(noise).held[1][0]
    mean, std = np.zeros((3, 32)), np.ones((3, 32))
    std[layer, neuron] = np.nan
    refused(
        f"Neuron {neuron} of layer 1 was to be held at nan",
        instead(noise, value=Noise(mean=mean, std=std, seed=0)),
    )
    value = only(marginal).value
    assert isinstance(value, Marginal)
    counts, zeros = value.counts.copy(), value.zeros.copy()
    counts[layer, neuron], zeros[layer, neuron] = 0, 0
    refused(
        f"neuron {neuron} of layer 1 from its histogram, which is empty",
        instead(marginal, value=replace(value, counts=counts, zeros=zeros)),
    )
    modes = np.zeros((3, 32, 2))
    modes[layer, neuron] = np.nan
    refused(
        f"Neuron {neuron} of layer 1 was to be held at nan",
        instead(held_at(model, "nearest_peak"), value=NearestPeak(modes=modes)),
    )
    refused("mlp_mid, which has no heads", held_at(model, "per_head", sites=MLP))
    nobody = Custom(plugin="nobody's", parameters={}, statistics={}, seed=0)
    refused("nobody's", instead(held_at(model, "custom"), value=nobody), plugins.PluginError)


def test_a_method_of_the_users_that_returns_another_shape_is_refused(home: Path) -> None:
    class Narrow(plugins.Method):
        name = "test_narrow"

        def replace(self, x_STN, **_):
            return x_STN[..., :1]

    plugins.register([Narrow()])
    model = tiny.shared("opt", home)
    value = Custom(plugin="test_narrow", parameters={}, statistics={}, seed=0)
    with pytest.raises(ValueError, match=r"shape \(2, 16, 32\) and returned \(2, 16, 1\)"):
        one(model, instead(held_at(model, "custom"), value=value))


def test_a_method_of_the_users_that_writes_to_what_it_is_given_changes_only_what_is_held(
    home: Path,
) -> None:
    class Writing(plugins.Method):
        name = "test_writing"

        def replace(self, x_STN, **_):
            return x_STN.zero_()

    plugins.register([Writing()])
    model = tiny.shared("opt", home)
    value = Custom(plugin="test_writing", parameters={}, statistics={}, seed=0)
    zero = instead(held_at(model, "constant"), value=Constant(values=np.zeros((3, 32))))
    written = one(model, instead(held_at(model, "custom"), value=value))
    assert np.allclose(written.loss, one(model, zero).loss, rtol=1e-5)


def test_donors_that_do_not_fit_their_cell_are_refused(home: Path) -> None:
    model = tiny.shared("opt", home)
    mine, given = batches(model), donors(model)
    order = held_at(model, "published")

    def refused(said: str, order: CellOrder = order, **changes: object) -> None:
        bad = {"published": replace(given["published"], **changes), "several": given["several"]}
        with pytest.raises(ValueError, match=said):
            evaluate(model, mine, [order], bad, logits_bytes=BUDGET)

    rows = given["published"].rows
    assert rows is not None
    jointly = instead(order, value=Donated(donors="several"))
    refused("takes the donors `several` jointly, and there are 3 passes", order=jointly)
    refused("3 batches, and .* of the donors `published`", passes=())
    refused("3 batches, and .*3, 2.* of the donors `published`", rows=rows[:2])
    refused("where one row is given, that row must be there", rows=(rows[0] * 0 + 16, *rows[1:]))
    refused("where one row is given, that row must be there", rows=(rows[0] * 0 - 2, *rows[1:]))
    refused("where one row is given, that row must be there", rows=(rows[0][:1], *rows[1:]))
    own = Donors(passes=(tuple(mine),), rows=(rows[0] * 0 + 15, *rows[1:]))
    refused("must be there", passes=own.passes, rows=own.rows)  # a short text has no position 15
