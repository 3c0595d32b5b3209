"""Adopting: a module that a notebook has in memory is used like a loaded one, or refused."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.workers import tiny
from workers.ablation import ablated
from workers.collect import collect
from workers.families import UnknownFamilyError
from workers.histogram import summarise
from workers.hooks import logits
from workers.loading import CheckpointError, adopt


def test_a_module_fresh_from_the_library_is_counted_and_ablated(tmp_path):
    tiny.folder("opt", tmp_path)
    module = tiny.OPTForCausalLM.from_pretrained(tmp_path / "opt")  # it may still be trained
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = adopt(module)
    batch = tiny.batch(model, [0, 1, 2])
    mean_LN = summarise(collect(model, [batch])).mean.reshape(model.facts.layers, -1)
    bare = logits(model, batch)
    with ablated(model, np.ones(mean_LN.shape, np.bool_), mean_LN) as proof:
        assert proof.held == mean_LN.size
        assert not torch.equal(logits(model, batch), bare)
    assert torch.equal(logits(model, batch), bare)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("name", tiny.NAMES)
def test_what_a_module_says_of_itself_is_what_its_checkpoint_says(name, tmp_path):
    model = tiny.model(name, tmp_path)
    facts, known = model.facts, adopt(model.module, pixels=model.pixels).facts
    unknown = {"digest": "", "tokenizer": None, "specials": {}, "bytes": known.bytes}
    for field in facts.__dataclass_fields__:
        assert getattr(known, field) == unknown.get(field, getattr(facts, field)), field


def test_a_module_in_training_is_put_into_evaluation_mode(tmp_path):
    module = tiny.model("opt", tmp_path).module.train()
    assert not adopt(module).module.training


def test_a_module_that_cannot_be_used_is_refused_with_a_cure(tmp_path):
    with pytest.raises(UnknownFamilyError, match="`Sequential`, which has no row"):
        adopt(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(CheckpointError, match="does not say how pixels are scaled"):
        adopt(tiny.model("vit", tmp_path).module)
    with pytest.raises(CheckpointError, match="float64 on cpu"):
        adopt(tiny.model("opt", tmp_path).module.double())
