"""Collection: every attended position of every neuron, and nothing else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.workers import tiny
from tests.workers.counted import CPU, bits
from workers import collect as collecting
from workers.collect import collect, pilot, recount
from workers.histogram import summarise
from workers.hooks import projections
from workers.messages import Batch

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

    def hidden(model: object, batch: Batch) -> None:
        for layer in reversed(range(LAYERS)):
            for sink in sinks:
                sink(layer, TABLE[layer][torch.from_numpy(batch.inputs)])

    monkeypatch.setattr(collecting, "recording", recording)
    monkeypatch.setattr(collecting, "hidden", hidden)
    facts = SimpleNamespace(layers=LAYERS, modality="causal", window=64)
    return SimpleNamespace(facts=facts, device=CPU)


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
    assert h.moments.shape == (1, LAYERS * NEURONS, 5)
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
    np.testing.assert_allclose(summarise(h).mean, values_PR.mean(axis=0), rtol=1e-9, atol=1e-12)


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
