"""The norm of a column is the norm of what the neuron alone writes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.workers import tiny
from workers import weights
from workers.messages import Site
from workers.weights import column_norms

sites = pytest.mark.parametrize("site", ["attn_pre_out", "mlp_mid"])
PARTS = {  # written out again, so that a wrong row of `families` cannot agree with itself
    ("opt", "attn_pre_out"): "model.decoder.layers.{}.self_attn.out_proj",
    ("opt", "mlp_mid"): "model.decoder.layers.{}.fc2",
    ("mistral", "attn_pre_out"): "model.layers.{}.self_attn.o_proj",
    ("mistral", "mlp_mid"): "model.layers.{}.mlp.down_proj",
}


@sites
@pytest.mark.parametrize("name", ["opt", "mistral"])
def test_a_norm_is_that_of_what_one_neuron_writes_when_it_alone_is_one(
    name: str, site: Site, home: Path
) -> None:
    model = tiny.shared(name, home)
    norms = column_norms(model, site)
    assert norms.l1.shape == norms.l2.shape == (3, model.facts.neurons_at(site))
    for layer in range(3):
        projection = model.module.get_submodule(PARTS[name, site].format(layer))
        assert isinstance(projection, torch.nn.Linear)
        one_NN = torch.eye(projection.in_features)
        with torch.no_grad():
            written_ND = (projection(one_NN) - projection(torch.zeros(1, len(one_NN)))).double()
        np.testing.assert_allclose(norms.l1[layer], written_ND.abs().sum(dim=1), rtol=1e-5)
        np.testing.assert_allclose(
            norms.l2[layer], written_ND.square().sum(dim=1).sqrt(), rtol=1e-5
        )


def test_columns_that_are_upcast_together_do_not_matter(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.shared("opt", home)
    whole = column_norms(model, "mlp_mid")
    monkeypatch.setattr(weights, "_COLUMNS", 7)
    parts = column_norms(model, "mlp_mid")
    np.testing.assert_allclose(whole.l1, parts.l1, rtol=1e-14)
    np.testing.assert_allclose(whole.l2, parts.l2, rtol=1e-14)


def test_norms_of_a_half_precision_model_are_summed_in_double(home: Path) -> None:
    model = tiny.model("opt", home, "bfloat16")
    weight = model.module.get_submodule("model.decoder.layers.1.fc2").weight
    assert isinstance(weight, torch.Tensor)
    assert weight.dtype == torch.bfloat16
    exact_N = np.abs(weight.detach().double().numpy()).sum(axis=0)
    np.testing.assert_allclose(column_norms(model, "mlp_mid").l1[1], exact_N, rtol=1e-14)
