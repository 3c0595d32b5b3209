"""Logits: those of the forward pass that evaluation scores, and of no other."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.workers import tiny
from workers import hooks
from workers.evaluate import evaluate
from workers.logits import logits
from workers.messages import CellOrder, Constant, Donated, Donors, Hold, Noise

NAMES = ("opt", "vit")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a model by name, made once."""
    return cache(lambda name: tiny.model(name, tmp_path_factory.mktemp(name)))


def holding(model, value, share=1.0):
    layers, neurons = model.facts.layers, model.facts.neurons
    held = tuple(np.arange(0, neurons, 2) for _ in range(layers))
    hold = Hold(site="attn_pre_out", held=held, value=value)
    return CellOrder(cell="c", holds=(hold,), share=share)


def orders(model):
    shape = (model.facts.layers, model.facts.neurons)
    mean = np.random.default_rng(1).normal(size=shape)
    return {
        "nothing": CellOrder(cell="c"),
        "constants": holding(model, Constant(values=mean)),
        "noise": holding(model, Noise(mean=mean, std=np.ones(shape), seed=3)),
        "donors": holding(model, Donated(donors="d")),
    }


@pytest.mark.parametrize("kind", ["nothing", "constants", "noise", "donors"])
@pytest.mark.parametrize("name", NAMES)
def test_they_add_up_to_the_loss_that_evaluation_measures(name, kind, models):
    model = models(name)
    fed = [tiny.batch(model, [0, 1, 2]), tiny.batch(model, [3, 4])]
    donors = {"d": Donors(passes=(tuple(_reversed(batch) for batch in fed),))}
    order = orders(model)[kind]
    answer = evaluate(model, fed, [order], donors, logits_bytes=1 << 20)[0]
    found = dict(logits(model, fed, order, donors))
    assert sorted(found) == answer.sequence.tolist()
    targets = {n: _targets(b, i) for b in fed for i, n in enumerate(b.sequence.tolist())}
    for number, loss in zip(answer.sequence.tolist(), answer.loss, strict=True):
        said, target = torch.from_numpy(found[number]), torch.from_numpy(targets[number])
        own = functional.cross_entropy(said.double(), target, reduction="sum")
        assert float(own) == pytest.approx(float(loss), rel=1e-5)


def _reversed(batch):
    return replace(batch, inputs=batch.inputs[::-1].copy(), attended=batch.attended)


def _targets(batch, row):
    target_T = batch.targets[row]
    return target_T if batch.attended is None else target_T[batch.attended[row]]


def test_a_batch_without_a_wanted_sequence_does_not_run(models, monkeypatch):
    model = models("opt")
    fed = [tiny.batch(model, [0, 1]), tiny.batch(model, [2, 3])]
    ran = []
    real = hooks.hidden
    monkeypatch.setattr(hooks, "hidden", lambda m, batch: ran.append(batch) or real(m, batch))
    found = dict(logits(model, fed, CellOrder(cell="c"), {}, wanted={3}))
    assert list(found) == [3]
    assert ran == [fed[1]]


def test_the_model_is_as_it_was_when_only_some_were_taken(models):
    model = models("opt")
    fed = [tiny.batch(model, [0, 1])]
    before = hooks.logits(model, fed[0])
    taking = logits(model, fed, orders(model)["constants"], {})
    next(taking)  # and no more of them
    assert torch.equal(hooks.logits(model, fed[0]), before)
