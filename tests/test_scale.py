"""The simulated cluster of `benchmarks.scale`: a real plan on the real scheduler."""

import json

import pytest

from benchmarks import scale

TOKENS = 2e7
"""Few: what is looked at does not depend on how long a shard takes."""


def test_a_sweep_is_done_on_machines_that_are_lost_and_what_they_were_at_is_told() -> None:
    sweep = scale.made(TOKENS)
    calm, stages, failed = scale.simulate(sweep, 64, TOKENS, "prepared")
    assert not failed
    assert 0 < calm["busy"] <= 1
    assert calm["lost_gpu_hours"] == 0
    # 64 shards of every neuron, of each model: nothing is counted twice, and nothing left out.
    first = len(scale.SHAPES) * scale.SHARDS * scale.ROWS * scale.row_bytes(1) / 1e6
    fixed = len(scale.SHAPES) * scale.SHARDS * scale.ROWS * 416 / 1e6
    assert stages["collect"]["put_mb"] == pytest.approx(first + fixed, rel=0.01)
    rough, _, failed = scale.simulate(sweep, 64, TOKENS, "spot", life=2.0)
    assert not failed
    assert rough["lost_gpu_hours"] > 0
    assert rough["events"] > calm["events"]


def test_the_last_line_has_every_size_and_way(capsys: pytest.CaptureFixture[str]) -> None:
    scale.main(["--gpus", "64", "--tokens", "2e7", "--ways", "prepared", "hub"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert [(run["gpus"], run["way"]) for run in found] == [(64, "prepared"), (64, "hub")]
    assert found[0]["hub_tb"] == 0 < found[1]["hub_tb"]
