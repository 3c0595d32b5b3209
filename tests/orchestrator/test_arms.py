"""What the typed values of methods and selections say of themselves."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from orchestrator.arms import Method, MethodSpec, Selection, SelectionSpec
from workers.messages import Modality

_METHOD: TypeAdapter[MethodSpec] = TypeAdapter(Method)
_SELECTION: TypeAdapter[SelectionSpec] = TypeAdapter(Selection)
PLUGINS: dict[str, Any] = {"trimmed": ("constant", {"share": 0.1}), "clipped": ("replacing", {})}


def method(written: object) -> MethodSpec:
    return _METHOD.validate_python(written, context={"plugins": PLUGINS})


def selection(written: object) -> SelectionSpec:
    return _SELECTION.validate_python(written)


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("zero", "constant"),
        ("mean(position)", "constant"),
        ("median", "constant"),
        ("quantile(0.1)", "constant"),
        ("peak(paper)", "constant"),
        ("optimal", "constant"),
        ("trimmed", "constant"),
        ("noise", "drawn"),
        ("marginal", "drawn"),
        ("clipped", "drawn"),
        ("resample(published)", "donated"),
        ("nearest_peak", ""),
    ],
)
def test_a_method_is_of_one_kind(written: str, kind: str) -> None:
    found = method(written)
    said = {"constant": found.constant, "drawn": found.drawn, "donated": found.donated}
    assert [k for k, is_so in said.items() if is_so] == ([kind] if kind else [])


def test_a_users_method_is_of_the_kind_that_its_plug_in_declares() -> None:
    assert (method("trimmed").plugin, method("clipped").plugin) == ("constant", "replacing")
    assert method("mean").plugin is None
    assert method("trimmed(share=0.2)").label == "trimmed(share=0.2)"


def test_alpha_is_how_much_of_the_constant_is_put_in_and_no_part_of_the_constant() -> None:
    found = method("mean(alpha=0.25, position)")
    assert found.share == 0.25
    assert found.by_position
    assert found.plain == {"by": "position"}
    assert method("mean").share == 1


def test_published_peaks_are_known_by_their_estimator() -> None:
    assert [method(m).published for m in ("peak", "peak(paper)", "mean")] == [False, True, False]
    assert [method(m).estimator for m in ("peak", "peak(paper)", "mean")] == ["smooth", "paper", ""]


@pytest.mark.parametrize(
    ("source", "fits"),
    [
        ("dataset", {"causal", "masked", "image"}),
        ("random", {"causal", "masked", "image"}),
        ("random_tokens", {"causal", "masked"}),
        ("random_characters", {"causal", "masked"}),
        ("generated", {"causal"}),
        ("random_pixels", {"image"}),
        ("shuffled_pixels", {"image"}),
    ],
)
def test_donors_come_from_what_a_model_can_be_fed(source: str, fits: set[Modality]) -> None:
    modalities: tuple[Modality, ...] = ("causal", "masked", "image")
    found = method(f"resample({source})")
    assert {m for m in modalities if found.fits(m)} == fits


def test_random_donors_are_of_what_the_model_is_fed() -> None:
    found = method("resample(random)")
    assert found.source("causal") == found.source("masked") == "random_tokens"
    assert found.source("image") == "random_pixels"


def test_a_method_without_donors_fits_every_model() -> None:
    assert all(method("noise").fits(m) for m in ("causal", "masked", "image"))


@pytest.mark.parametrize(
    ("written", "seeded", "over", "iterative"),
    [
        ("random", True, "layer", False),
        ("random(global)", True, "all", False),
        ("score(rms, low)", False, "layer", False),
        ("score(rms, low, global)", False, "all", False),
        ("score(rms, low, each_fraction)", False, "layer", True),
        ("explicit(units.npy)", False, "all", False),
        ("regression", False, "all", False),
    ],
)
def test_a_selection_says_whether_seeds_matter_and_what_is_ranked_together(
    written: str, seeded: bool, over: str, iterative: bool
) -> None:
    found = selection(written)
    assert (found.seeded, found.over, found.iterative) == (seeded, over, iterative)
