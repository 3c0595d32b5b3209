"""The spellings of a sweep file, one by one."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import notation

law = settings(max_examples=50, deadline=None)


def decimals(*texts: str) -> tuple[Decimal, ...]:
    return tuple(Decimal(text) for text in texts)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([0.5], decimals("0", "0.5")),
        ([1, 0.1, 0.1, 0], decimals("0", "0.1", "1")),
        ([-0.0], decimals("0")),
        ({"start": 0.1, "stop": 0.5, "step": 0.2}, decimals("0", "0.1", "0.3", "0.5")),
        ({"start": 0, "stop": 1, "step": 0.4}, decimals("0", "0.4", "0.8")),
        ({"start": 0, "stop": 1, "step": 2}, decimals("0")),
    ],
)
def test_fractions_are_exact_ascending_and_with_zero(
    written: object, expected: tuple[Decimal, ...]
) -> None:
    assert notation.fractions(written) == expected


@law
@given(st.integers(1, 100))
def test_a_range_of_fractions_ends_where_it_is_told_to(parts: int) -> None:
    step = Decimal(1) / Decimal(100)
    found = notation.fractions({"start": 0, "stop": float(step * parts), "step": 0.01})
    assert found == tuple(step * i for i in range(parts + 1))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ([1.2], "1.2; a fraction lies between 0 and 1"),
        ([-0.1, 0.5, 7], "-0.1, 7; a fraction"),
        ([float("nan")], "expected a number"),
        ([float("inf")], "found inf, expected a number between 0 and 1"),
        ([True], "expected a number"),
        (["0.5"], "expected a number"),
        ([], "at least one"),
        (0.5, "expected a list"),
        ({"start": 0, "stop": 1}, "exactly `start`, `stop` and `step`"),
        ({"start": 0, "stop": 1, "step": 0}, "0 to 1 in steps of 0 makes no fractions"),
        ({"start": 0, "stop": 1, "step": -0.1}, "in steps of -0.1 makes no fractions"),
        ({"start": 0, "stop": 1, "step": 1e-9}, "more than 10,000"),
        ({"start": 0, "stop": 1.5, "step": 0.5}, "1.5; a fraction"),
    ],
)
def test_wrong_fractions_are_refused(written: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        notation.fractions(written)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"start": float("inf"), "stop": 1, "step": 0.1}, "found inf, expected a number"),
        ({"start": 0.5, "stop": 0.45, "step": 0.1}, "0.5 to 0.45 in steps of 0.1 makes no frac"),
    ],
)
def test_a_range_without_an_inside_is_refused(written: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        notation.fractions(written)


@pytest.mark.parametrize(
    ("written", "masks"),
    [(3, (0, 1, 2)), ([7, 2], (7, 2)), ({"masks": 2}, (0, 1)), ({"masks": [4]}, (4,))],
)
def test_a_number_of_seeds_means_that_many(written: object, masks: tuple[int, ...]) -> None:
    assert notation.seeds(written) == {"masks": masks}


def test_seeds_of_every_purpose_have_a_name() -> None:
    written = {"masks": 1, "donors": [5], "noise": 2, "masking": 3}
    expected = {"masks": (0,), "donors": (5,), "noise": (0, 1), "masking": 3}
    assert notation.seeds(written) == expected


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ([], "at least one seed"),
        (0, "at least one seed"),
        ({"donors": []}, "no donors"),
        ([1, 1], "stands twice"),
        ([-1], r"found \[-1\], .* seeds from 0 to 2\^63 - 1"),
        ([1.5], r"found \[1.5\], .* seeds from 0 to 2\^63 - 1"),
        ([True], r"found \[True\], .* seeds from 0 to 2\^63 - 1"),
        ([2**63], r"seeds from 0 to 2\^63 - 1"),
        (10_001, "masks: found 10001, expected 10,000 seeds at most"),
        (True, "expected a number of masks"),
        ("five", "expected a number of masks"),
        (None, "expected a number of masks"),
    ],
)
def test_wrong_seeds_are_refused(written: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        notation.seeds(written)


@pytest.mark.parametrize(
    ("written", "sites"),
    [
        ("attn_pre_out", ("attn_pre_out",)),
        (["mlp_mid"], ("mlp_mid",)),
        (["attn_pre_out", "mlp_mid"], ("attn_pre_out", "mlp_mid")),
        (["mlp_mid", "attn_pre_out"], ("attn_pre_out", "mlp_mid")),  # the order says nothing
        ("mlp_mid+attn_pre_out", ("attn_pre_out", "mlp_mid")),
    ],
)
def test_a_site_stands_alone_or_with_what_is_held_beside_it(
    written: object, sites: tuple[str, ...]
) -> None:
    assert notation.site(written) == sites


@pytest.mark.parametrize(
    ("read", "wrong", "said"),
    [
        (notation.site, "mlp_mit", "unknown site 'mlp_mit'; did you mean 'mlp_mid'"),
        (notation.site, ["attn_pre_out", "x"], "unknown site 'x'"),
        (notation.site, ["mlp_mid", "mlp_mid"], "expected one site, or two"),
        (notation.site, [], "expected one site, or two"),
        (notation.site, None, "unknown site 'None'"),
        (notation.unit, "heads", "did you mean 'head'"),
        (notation.unit, 1, "unknown unit '1'"),
        (notation.layers, "every", "expected `all`, `each`"),
        (notation.layers, [], "expected `all`, `each`"),
        (notation.layers, 3, "expected `all`, `each`"),
        (notation.layers, [0, 0], "each once"),
        (notation.layers, [-1], "numbers of layers from 0"),
        (notation.layers, [True], "numbers of layers from 0"),
        (notation.layers, ["0"], "numbers of layers from 0"),
        (notation.basis, "rotated", r"expected `own` or the seed of a rotation, `{rotate: 0}`"),
        (notation.basis, {"rotate": None}, "expected `own`"),
        (notation.basis, {"rotate": []}, "no rotations; at least one"),
        (notation.basis, {"rotate": [1, 1]}, "rotations: a seed stands twice"),
        (notation.basis, {"rotate": -1}, r"rotations: found \[-1\]"),
        (notation.basis, {"turn": 1}, "expected `own`"),
        (notation.basis, [0], "expected `own`"),
        (notation.basis, None, "expected `own`"),
    ],
)
def test_a_wrong_place_or_basis_is_refused(read, wrong: object, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=said):
        read(wrong)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("all", "all"), ("each", "each"), ([2, 0], (0, 2)), ((1,), (1,))],
)
def test_layers_are_all_each_or_some_ascending(written: object, expected: object) -> None:
    assert notation.layers(written) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("own", (None,)),
        ({"rotate": 0}, (None, 0)),
        ({"rotate": [3, 1]}, (None, 3, 1)),
        ((None, 3), (None, 3)),
    ],
)
def test_a_rotation_stands_beside_the_basis_it_is_compared_with(
    written: object, expected: tuple[int | None, ...]
) -> None:
    assert notation.basis(written) == expected


def test_units_are_neurons_or_heads() -> None:
    assert [notation.unit(u) for u in ("neuron", "head")] == ["neuron", "head"]
