"""What people call a method, a selection or a basis; and that the file can say it again."""

from collections.abc import Mapping

import pytest

from orchestrator.labels import OWN, label, rotated
from orchestrator.methods import METHODS, method
from orchestrator.rules import rule


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("zero", "zero"),
        ("mean(position)", "mean(position)"),
        ("quantile(0.9)", "quantile(0.9)"),
        ("quantile(position, 0.9)", "quantile(0.9, position)"),
        ("peak(smooth)", "peak"),
        ("peak(paper)", "peak(paper)"),
        ("peak(position)", "peak(position)"),
        ("peak(position, half_sample)", "peak(half_sample, position)"),
        ("mean(alpha=0.5)", "mean(alpha=0.5)"),
        ("mean(alpha=0.5, position)", "mean(alpha=0.5, position)"),
        ("optimal", "optimal"),
        ("optimal(steps=7, shared)", "optimal(shared, steps=7)"),
        ("resample", "resample"),
        ("resample(per_head)", "resample(per_head)"),
        ("resample(shared, generated)", "resample(generated, shared)"),
        ("resample(published)", "resample(published)"),
    ],
)
def test_a_method_is_called_by_what_is_not_usual_of_it(written: str, expected: str) -> None:
    found = method(written, {})
    assert label(str(found["method"]), _mapping(found)) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("random", "random"),
        ("random(global)", "random(global)"),
        ("score(low, rms)", "score(rms, low)"),
        ("score(rms, high, global)", "score(rms, high, global)"),
        ("score(rms, low, each_fraction)", "score(rms, low, each_fraction)"),
        ("score(rms, low, against=web)", "score(rms, low, against=web)"),
        ("explicit(some/where/units.npy)", "explicit(units.npy)"),
        ("explicit(some\\where\\units.npy)", "explicit(units.npy)"),
        ("regression", "regression"),
        ("regression(masks=50, high)", "regression(high, masks=50)"),
    ],
)
def test_a_selection_is_called_by_what_it_says(written: str, expected: str) -> None:
    found = rule(written)
    assert label(str(found["rule"]), _mapping(found)) == expected


ALIKE = [
    "zero(alpha=0.1)", "mean", "quantile(0.25, position)", "peak(half_sample, position)",
    "optimal(shared, lr=0.01, seed=1, steps=5)", "resample(random_tokens, per_neuron)",
    "resample(shared)", "marginal(alpha=0.5)",
]  # fmt: skip
RULES = [
    "random(global)", "score(std, high, each_fraction, global)",
    "score(standardised, low, against=web)",
    "regression(high, block=2, masks=9, ridge=0.5, seed=3, share=0.1)", "explicit(units.npy)",
]  # fmt: skip


@pytest.mark.parametrize("written", [*ALIKE, *METHODS])
def test_a_methods_label_is_a_spelling_of_it(written: str) -> None:
    found = method("quantile(0.5)" if written == "quantile" else written, {})
    called = label(str(found["method"]), _mapping(found))
    assert method(called, {}) == found


@pytest.mark.parametrize("written", RULES)
def test_a_selections_label_is_a_spelling_of_it(written: str) -> None:
    found = rule(written)
    assert rule(label(str(found["rule"]), _mapping(found))) == found


def test_a_basis_is_its_own_or_rotated_by_a_seed() -> None:
    assert rotated(None) == OWN == "own"
    assert rotated(0) == "rotated 0"


def _mapping(found: Mapping[str, object]) -> Mapping[str, object]:
    parameters = found["parameters"]
    assert isinstance(parameters, Mapping)
    return parameters
