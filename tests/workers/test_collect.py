"""Collection: every attended position of every neuron, and nothing else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.workers import tiny
from tests.workers.counted import CPU, bits
from workers import collect as collecting
from workers.collect import collect, pilot, recount
from workers.histogram import Histogram, empty, merge, overlaid, summarise
from workers.hooks import projections
from workers.loading import Model, adopt
from workers.messages import Batch, Counted
from workers.windows import Windows, stacked

LAYERS, NEURONS, VOCABULARY = 2, 5, 40
TABLE = torch.randn(LAYERS, VOCABULARY, NEURONS, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A model whose activations are looked up token by token, so that padding changes nothing."""
    sinks: list[Callable[[int, torch.Tensor], None]] = []

    @contextmanager
    def recording(
        model: object, site: str, sink: Callable[[int, torch.Tensor], None]
    ) -> Iterator[None]:
        sinks.append(sink)
        yield
        sinks.remove(sink)

    def hidden(model: SimpleNamespace, batch: Batch) -> None:
        model.ran.append(batch)
        for layer in reversed(range(LAYERS)):
            for sink in sinks:
                sink(layer, TABLE[layer][torch.from_numpy(batch.inputs)])

    monkeypatch.setattr(collecting, "recording", recording)
    monkeypatch.setattr(collecting, "hidden", hidden)
    facts = SimpleNamespace(
        layers=LAYERS, modality="causal", window=64, neurons_at=lambda site: NEURONS
    )
    return SimpleNamespace(facts=facts, device=CPU, ran=[], ref=SimpleNamespace(shards=1))


def batch(lengths: list[int], padded_to: int, *, seed: int = 0) -> Batch:
    """Sequences of these lengths, padded on the right with whatever comes."""
    garbage = np.random.default_rng(padded_to)
    inputs_ST = garbage.integers(0, VOCABULARY, (len(lengths), padded_to))
    for s, length in enumerate(lengths):
        inputs_ST[s, :length] = np.random.default_rng((seed, s)).integers(0, VOCABULARY, length)
    attended_ST = np.arange(padded_to) < np.array(lengths)[:, None]
    number_S = np.arange(len(lengths))
    return Batch(sequence=number_S, inputs=inputs_ST, attended=attended_ST, targets=inputs_ST)


def test_padding_differently_gives_the_same_table_to_the_last_bit(looked_up):
    tables = []
    for padded_to in (9, 16, 31):
        batches = [batch([9, 4, 1], padded_to), batch([7, 9], padded_to, seed=1)]
        windows = pilot(looked_up, batches, site="attn_pre_out", bins=16, positions=11, seed=3)
        h = collect(looked_up, batches, site="attn_pre_out", windows=windows, shard=2)
        ends = {"low": h.minimum, "high": h.maximum, "shard": 2}
        fixed = recount(looked_up, batches, site="attn_pre_out", **ends)
        tables.append((bits(windows), bits(h), bits(fixed)))
        assert (h.finite == 30).all()
        assert (fixed.counts.sum(axis=1) == 30).all()
    assert tables[0] == tables[1] == tables[2]


def test_without_a_mask_every_position_is_counted(looked_up):
    padded = batch([3, 8], 8)
    unmasked = Batch(
        sequence=padded.sequence, inputs=padded.inputs, attended=None, targets=padded.targets
    )
    windows = pilot(looked_up, [unmasked], site="attn_pre_out", bins=16, seed=0)
    h = collect(looked_up, [unmasked], site="attn_pre_out", windows=windows, shard=0)
    assert (h.finite == 16).all()


def test_a_shard_without_sequences_leaves_an_empty_histogram_under_its_own_number(looked_up):
    windows = pilot(looked_up, [batch([8], 8)], site="attn_pre_out", bins=16, seed=0)
    h = collect(looked_up, [], site="attn_pre_out", windows=windows, shard=5)
    assert h.shards == (5,)
    assert h.moments.shape == (1, LAYERS * NEURONS, 6)
    assert not h.finite.any()


def test_activations_of_another_shape_than_what_was_fed_are_refused(looked_up):
    looked_up.facts.modality = "image"  # so 64 positions are expected
    one = batch([8], 8)
    images = Batch(sequence=one.sequence, inputs=one.inputs, attended=None, targets=one.targets)
    with pytest.raises(ValueError, match=r"shape \(1, 8, 5\); 1 sequences of 64 positions"):
        pilot(looked_up, [images], site="attn_pre_out", seed=0)


@pytest.mark.parametrize("name", tiny.NAMES)
@pytest.mark.parametrize("site", ["attn_pre_out", "mlp_mid"])
def test_what_is_counted_is_what_a_plain_hook_on_the_projection_sees(name, site, tmp_path):
    model = tiny.model(name, tmp_path)
    batches = [tiny.batch(model, [0, 1, 2]), tiny.batch(model, [3, 4, 5])]
    seen: list[list[torch.Tensor]] = [[] for _ in range(model.facts.layers)]
    handles = [
        projection.register_forward_pre_hook(lambda _, args, at=at: at.append(args[0].clone()))
        for projection, at in zip(projections(model, site), seen, strict=True)
    ]
    windows = pilot(model, batches, site=site, positions=40, seed=0)
    for at in seen:
        at.clear()
    h = collect(model, batches, site=site, windows=windows, shard=0)
    for handle in handles:
        handle.remove()

    if batches[0].attended is None:
        attended = np.ones(len(seen[0]) * seen[0][0].shape[0] * seen[0][0].shape[1], np.bool_)
    else:
        attended = np.concatenate([b.attended.ravel() for b in batches])
    neurons = seen[0][0].shape[-1]
    flat = [torch.cat([x.reshape(-1, neurons) for x in at]).numpy()[attended] for at in seen]
    values_PR = np.concatenate(flat, axis=1).astype(np.float64)
    assert (h.finite == attended.sum()).all()
    np.testing.assert_array_equal(h.minimum, values_PR.min(axis=0))
    np.testing.assert_array_equal(h.maximum, values_PR.max(axis=0))
    np.testing.assert_allclose(summarise(h).mean, values_PR.mean(axis=0), rtol=1e-6, atol=1e-7)


def test_the_pilot_is_drawn_by_its_seed_alone(looked_up):
    batches = [batch([9, 9, 9, 9], 9), batch([9, 9, 9, 9], 9, seed=1)]
    one = pilot(looked_up, batches, site="attn_pre_out", bins=64, positions=20, seed=1)
    same = pilot(looked_up, batches, site="attn_pre_out", bins=64, positions=20, seed=1)
    assert one.same(same)
    others = [
        pilot(looked_up, batches, site="attn_pre_out", bins=64, positions=20, seed=seed)
        for seed in range(2, 5)
    ]
    assert not all(one.same(other) for other in others)


def test_a_pilot_without_any_attended_position_is_refused(looked_up):
    with pytest.raises(ValueError, match="None of the 1 batches"):
        pilot(looked_up, [batch([0, 0], 4)], site="attn_pre_out", seed=0)


SITE = "attn_pre_out"
BATCHES = [batch([9, 4, 1], 9), batch([7, 9], 9, seed=1)]
COARSE = Windows(  # every value of the table is inside
    exponent=np.full(LAYERS * NEURONS, -1, np.int32),
    first=np.full(LAYERS * NEURONS, -16),
    bins=32,
)


def images(classes: list[int], *, seed: int = 0) -> Batch:
    """Images of 8 positions each, as token ids, which the looked-up model takes for pixels."""
    inputs = np.random.default_rng(seed).integers(0, VOCABULARY, (len(classes), 8))
    return Batch(
        sequence=np.arange(len(classes)),
        inputs=inputs,
        attended=None,
        targets=np.array(classes)[:, None],
    )


def looked_at(batches: list[Batch], where: Callable[[Batch], np.ndarray]) -> np.ndarray:
    """Return the values (P, R) at the positions where `where` says so, read off the table."""
    tokens_P = np.concatenate([b.inputs[where(b)] for b in batches])
    return TABLE[:, torch.from_numpy(tokens_P)].permute(1, 0, 2).flatten(1).numpy()


def assert_counted(h: Histogram, values_PR: np.ndarray) -> None:
    """The histogram is of these values: as many in each bin, and with these extremes."""
    index_PR = np.floor(values_PR / h.windows.width).astype(int) - h.windows.first
    for row in range(h.finite.size):
        expected = np.bincount(index_PR[:, row], minlength=h.windows.bins)
        assert h.counts[row].tolist() == expected.tolist()
    assert (h.finite == len(values_PR)).all()
    if len(values_PR):
        np.testing.assert_array_equal(h.maximum, values_PR.max(axis=0))
        np.testing.assert_allclose(summarise(h).mean, values_PR.mean(axis=0), atol=1e-6)


def rows_of(h: Histogram, rows: slice) -> Histogram:
    per_row = {
        f.name: getattr(h, f.name)[rows]
        for f in fields(Histogram)
        if f.name not in ("windows", "shards", "moments")
    }
    windows, moments = h.windows.taken(rows), h.moments[:, rows]
    return Histogram(windows=windows, shards=h.shards, moments=moments, **per_row)


def test_positions_at_the_start_and_token_ids_can_be_left_out(looked_up):
    first = BATCHES[0].inputs[0, 3]
    for counted, where in (
        (Counted(skip_first=1), lambda b: b.attended & (np.arange(9) >= 1)),
        (Counted(skip_first=4), lambda b: b.attended & (np.arange(9) >= 4)),
        (Counted(without=(int(first),)), lambda b: b.attended & (b.inputs != first)),
        (
            Counted(skip_first=2, without=(int(first), 1)),
            lambda b: b.attended & (np.arange(9) >= 2) & ~np.isin(b.inputs, (first, 1)),
        ),
    ):
        h = collect(looked_up, BATCHES, site=SITE, windows=COARSE, shard=0, counted=counted)
        assert_counted(h, looked_at(BATCHES, where))
        all_of_them = pilot(looked_up, BATCHES, site=SITE, bins=32, seed=0, counted=counted)
        direct = collecting.windows_from(
            list(torch.from_numpy(looked_at(BATCHES, where)).split(NEURONS, dim=1)), 32
        )
        assert all_of_them.same(direct)
        ends = {"low": COARSE.start, "high": -COARSE.start}
        fixed = recount(looked_up, BATCHES, site=SITE, **ends, counted=counted)
        assert fixed.counts.sum(axis=1).tolist() == h.finite.tolist()


@pytest.mark.parametrize("counted", [Counted(), Counted(skip_first=3), Counted(skip_first=20)])
def test_the_value_at_the_first_position_is_known_even_if_it_is_not_counted(looked_up, counted):
    h = collect(looked_up, BATCHES, site=SITE, windows=COARSE, shard=0, counted=counted)
    firsts = looked_at(BATCHES, lambda b: b.attended & (np.arange(9) == 0))
    assert (h.firsts == 5).all()
    np.testing.assert_allclose(
        summarise(h).first, firsts.astype(np.float64).mean(axis=0), rtol=1e-12
    )


def test_strata_of_positions_are_what_is_counted_at_these_positions_alone(looked_up):
    starts, ends = (0, 1, 4), (1, 4, 9)
    counted = Counted(by="position", starts=starts)
    windows = stacked([COARSE] * 3)
    h = collect(looked_up, BATCHES, site=SITE, windows=windows, shard=0, counted=counted)
    rows = LAYERS * NEURONS
    for z, (start, end) in enumerate(zip(starts, ends, strict=True)):
        mine = rows_of(h, slice(z * rows, (z + 1) * rows))
        where = (np.arange(9) >= start) & (np.arange(9) < end)
        assert_counted(mine, looked_at(BATCHES, lambda b, where=where: b.attended & where))
        assert (mine.firsts == (5 if z == 0 else 0)).all()
    assert h.counts.reshape(3, rows, -1).sum(axis=0).tolist() == (
        collect(looked_up, BATCHES, site=SITE, windows=COARSE, shard=0).counts.tolist()
    )


def test_a_skipped_first_position_still_counts_as_first_in_the_first_bucket(looked_up):
    counted = Counted(by="position", starts=(0, 4), skip_first=1)
    windows = stacked([COARSE] * 2)
    h = collect(looked_up, BATCHES, site=SITE, windows=windows, shard=0, counted=counted)
    rows = LAYERS * NEURONS
    assert h.firsts.tolist() == [5] * rows + [0] * rows
    bucket = (np.arange(9) >= 1) & (np.arange(9) < 4)
    assert_counted(rows_of(h, slice(0, rows)), looked_at(BATCHES, lambda b: b.attended & bucket))


@pytest.mark.parametrize("skip", [0, 1])
def test_strata_of_classes_are_what_is_counted_of_these_images_alone(looked_up, skip):
    looked_up.facts.modality, looked_up.facts.window = "image", 8
    batches = [images([3, 0, 3, 9]), images([5, 5], seed=1)]
    counted = Counted(by="class", starts=(3, 4, 5, 0), skip_first=skip)
    windows = stacked([COARSE] * 4)
    h = collect(looked_up, batches, site=SITE, windows=windows, shard=0, counted=counted)
    rows = LAYERS * NEURONS
    for z, (label, many) in enumerate([(3, 2), (4, 0), (5, 2), (0, 1)]):
        mine = rows_of(h, slice(z * rows, (z + 1) * rows))

        def where(b: Batch, label: int = label) -> np.ndarray:
            return (b.targets == label) & (np.arange(8) >= skip)

        assert_counted(mine, looked_at(batches, where))
        assert (mine.firsts == many).all()  # an image of class 9 is in no stratum


every_counted = pytest.mark.parametrize(
    "counted",
    [Counted(), Counted(skip_first=1), Counted(by="position", starts=(0, 2, 5))],
    ids=["all", "skip", "position"],
)


@every_counted
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_second_pass_of_some_rows_leaves_what_a_first_pass_in_its_windows_would(
    looked_up, counted, share
):
    strata = len(counted.starts)
    first = collect(
        looked_up,
        BATCHES,
        site=SITE,
        windows=stacked([COARSE] * strata),
        shard=2,
        counted=counted,
    )
    total = strata * LAYERS * NEURONS
    rows = np.flatnonzero(np.random.default_rng(0).random(total) < share)
    wide = Windows(exponent=np.full(total, 0, np.int32), first=np.full(total, -16), bins=32)
    again = collect(
        looked_up,
        BATCHES,
        site=SITE,
        windows=wide.taken(rows),
        shard=2,
        counted=counted,
        rows=rows,
    )
    whole = collect(looked_up, BATCHES, site=SITE, windows=wide, shard=2, counted=counted)
    made = overlaid(first, rows, again)
    for name in ("counts", "zeros", "below", "above", "positive", "firsts", "minimum", "maximum"):
        assert bits(getattr(again, name)) == bits(getattr(whole, name)[rows]), name
        assert bits(getattr(made, name)[rows]) == bits(getattr(whole, name)[rows]), name
    np.testing.assert_allclose(again.moments, whole.moments[:, rows], rtol=1e-5, atol=1e-5)


def test_a_second_pass_runs_no_batch_that_has_none_of_its_strata(looked_up):
    looked_up.facts.modality, looked_up.facts.window = "image", 8
    batches = [images([3, 3]), images([5, 5], seed=1)]
    rows = np.array([LAYERS * NEURONS + 1])  # a neuron of class 5
    options = {"counted": Counted(by="class", starts=(3, 5)), "windows": COARSE.taken(rows - 5)}
    looked_up.ran.clear()
    again = collect(looked_up, batches, site=SITE, rows=rows, **options)
    assert looked_up.ran == [batches[1]]
    assert again.finite.tolist() == [16]


def test_a_second_pass_of_no_rows_does_not_run_the_model(looked_up):
    none = np.zeros(0, np.intp)
    looked_up.ran.clear()
    h = collect(looked_up, BATCHES, windows=COARSE.taken(none), shard=3, rows=none)
    assert not looked_up.ran
    assert (h.shards, h.finite.shape, h.moments.shape) == ((3,), (0,), (1, 0, 6))
    merged = merge([h, empty(COARSE.taken(none), (4,))])
    first = merge(collect(looked_up, BATCHES, windows=COARSE, shard=k) for k in (3, 4))
    assert bits(overlaid(first, none, merged)) == bits(first)


@pytest.mark.parametrize("rows", [[1, 0], [0, 10], [0], [-1, 2], [3, 3]])
def test_rows_that_do_not_fit_their_windows_or_the_model_are_refused(looked_up, rows):
    with pytest.raises(ValueError, match="table of 10"):
        collect(looked_up, BATCHES, windows=COARSE.taken([0, 1]), rows=np.array(rows))


def test_strata_without_windows_of_their_own_are_refused(looked_up):
    counted = Counted(by="position", starts=(0, 4))
    with pytest.raises(ValueError, match=r"Windows of 10 rows.*give each stratum its windows"):
        collect(looked_up, BATCHES, windows=COARSE, counted=counted)
    with pytest.raises(ValueError, match="no windows were given"):
        collect(looked_up, BATCHES, rows=np.array([0]))
    with pytest.raises(ValueError, match="one stratum only"):
        recount(looked_up, BATCHES, low=COARSE.start, high=COARSE.start, counted=counted)


@pytest.mark.parametrize(
    ("counted", "modality", "said"),
    [
        (Counted(by="class", starts=(0, 1)), "causal", "texts are to be counted by class"),
        (Counted(without=(1,)), "image", "left out of images"),
        (Counted(by="position", starts=(1, 4)), "causal", "ascend from 0"),
        (Counted(by="position", starts=(0, 4, 4)), "masked", "ascend from 0"),
    ],
)
def test_what_cannot_be_counted_so_is_refused(looked_up, counted, modality, said):
    looked_up.facts.modality = modality
    windows = stacked([COARSE] * max(1, len(counted.starts)))
    with pytest.raises(ValueError, match=said):
        collect(looked_up, BATCHES, windows=windows, counted=counted)


@pytest.mark.parametrize("by", ["all", "position"])
def test_in_a_notebook_two_arguments_are_enough(looked_up, by):
    counted = Counted(by=by, starts=(0, 4) if by == "position" else (0,))
    h = collect(looked_up, BATCHES, counted=counted)
    windows = pilot(looked_up, BATCHES, site=SITE, seed=0)
    assert h.windows.same(stacked([windows] * len(counted.starts)))
    assert bits(h) == bits(
        collect(looked_up, BATCHES, site=SITE, windows=h.windows, shard=0, counted=counted)
    )


def adopted(model: Model) -> Model:
    return adopt(model.module, pixels=model.pixels)


@pytest.mark.parametrize("name", tiny.NAMES)
def test_a_module_in_memory_is_counted_as_the_checkpoint_it_came_from(name, tmp_path):
    model = tiny.model(name, tmp_path)
    batches = [tiny.batch(model, [0, 1, 2]), tiny.batch(model, [3, 4])]
    assert bits(collect(adopted(model), batches)) == bits(collect(model, batches))
    assert adopted(model).facts.neurons == model.facts.neurons


@pytest.mark.parametrize("name", ["opt", "timm-vit"])
def test_strata_of_a_real_model_add_up_to_the_whole(name, tmp_path):
    model = tiny.model(name, tmp_path)
    batches = [tiny.batch(model, [0, 1, 2]), tiny.batch(model, [3, 4])]
    by = Counted(by="position", starts=(0, 1, 6))
    if name == "timm-vit":
        labels = np.unique(np.concatenate([b.targets[:, 0] for b in batches]))
        by = Counted(by="class", starts=tuple(int(label) for label in labels))
    strata = collect(model, batches, counted=by)
    whole = collect(model, batches)
    rows = whole.finite.size
    assert (strata.counts.reshape(-1, rows, 256).sum(axis=0) == whole.counts).all()
    assert (strata.firsts.reshape(-1, rows).sum(axis=0) == whole.firsts).all()
    assert (strata.minimum.reshape(-1, rows).min(axis=0) == whole.minimum).all()
