"""The published estimator, in both its ranges: what histc and argmax find in the raw values."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.workers.counted import count, recount
from workers.estimators import paper
from workers.histogram import FixedCounts


def published(values_PN: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> list[float]:
    """Return the published peaks: histc on the raw values, argmax, the centre of that bin."""
    found = []
    for values_P, a, b in zip(values_PN.float().T, low.float(), high.float(), strict=True):
        fullest = torch.histc(values_P, bins=100, min=a.item(), max=b.item()).argmax()
        found.append((a + (b - a) / 100 * (fullest + 0.5)).item())
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_paper_and_its_global_range_variant_equal_histc_and_argmax_on_the_raw_values(dtype):
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(3000, 12, generator=generator)
    scale = torch.logspace(-2, 1, 12)
    values = torch.cat([normal * scale, normal.exp(), normal.relu()], dim=1).to(dtype)
    h = count(values)
    own = paper(recount(values.double().numpy(), h))
    raw = values.float()
    np.testing.assert_allclose(
        own, published(values, raw.amin(0), raw.amax(0)), rtol=1e-4, atol=1e-6
    )

    low, high = raw.min(), raw.max()
    same = replace(
        h,
        minimum=np.full(h.minimum.shape, low.item()),
        maximum=np.full(h.maximum.shape, high.item()),
    )
    over_all = paper(recount(values.double().numpy(), same))
    expected = published(values, low.expand(36), high.expand(36))
    np.testing.assert_allclose(over_all, expected, rtol=1e-4, atol=1e-6)
    # What is wrong with it: nearly all neurons have their values in one bin, and the same peak.
    assert np.unique(over_all.round(6)).size < np.unique(own.round(6)).size / 3


def test_paper_takes_the_centre_of_the_first_fullest_bin():
    fixed = FixedCounts(
        low=np.array([0.0, -10.0, np.inf]),
        high=np.array([100.0, 10.0, -np.inf]),
        shards=(0,),
        counts=np.zeros((3, 100), np.int64),
    )
    fixed.counts[0, [3, 7]] = 5
    fixed.counts[1, [0, 99]] = [5, 6]
    np.testing.assert_allclose(paper(fixed), [3.5, 9.9, np.nan])
