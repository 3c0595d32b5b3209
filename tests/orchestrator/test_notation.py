"""The spellings of a sweep file, one by one."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import notation

law = settings(max_examples=50, deadline=None)


@pytest.mark.parametrize(
    ("written", "method", "parameters"),
    [
        ("zero", "zero", {}),
        ("mean", "mean", {}),
        ("peak", "peak", {"estimator": "smooth"}),
        ("peak(paper)", "peak", {"estimator": "paper"}),
        ({"peak": {"estimator": "paper"}}, "peak", {"estimator": "paper"}),
        ({"peak": None}, "peak", {"estimator": "smooth"}),
        ({"peak": {}}, "peak", {"estimator": "smooth"}),
        ("resample", "resample", {"source": "dataset"}),
        ({"resample": {"source": "dataset"}}, "resample", {"source": "dataset"}),
    ],
)
def test_every_spelling_of_a_method_becomes_one_form(
    written: object, method: str, parameters: dict[str, str]
) -> None:
    assert notation.method(written) == {"method": method, "parameters": parameters}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("maen", "did you mean 'mean'"),
        ("median", "designed but not built yet"),
        ("peak(paper, position)", "smooth and half_sample"),
        ("peak(papr)", "did you mean 'paper'"),
        ({"resample": {"source": "generated"}}, "designed but not built yet"),
        ("zero(1)", "takes no parameters"),
        ({"mean": {"of": "x"}}, "takes 'by'"),
        ({"peak": {"bins": 3}}, "takes 'estimator' and 'by'"),
        ({"peak": "paper"}, "takes 'estimator' and 'by'"),
        ({"peak": {}, "mean": {}}, "expected a method's name"),
        (["peak"], "expected a method's name"),
        (None, "expected a method's name"),
    ],
)
def test_a_wrong_method_is_refused_with_what_to_write(written: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        notation.method(written)


@pytest.mark.parametrize(
    "written",
    [
        {"method": "maen", "parameters": {}},
        {"method": "resample", "parameters": {}},
        {"method": "mean", "parameters": {}},
    ],
)
def test_the_form_that_a_spec_keeps_is_no_spelling_of_a_method(written: object) -> None:
    with pytest.raises(ValueError, match=r"found .*, expected a method's name"):
        notation.method(written)


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
    ("read", "later", "known"),
    [
        (notation.site, "mlp_mid", "attn_pre_out"),
        (notation.unit, "head", "neuron"),
        (notation.selection, "score", "random"),
    ],
)
def test_what_is_not_built_yet_is_refused_by_name(read, later: str, known: str) -> None:  # type: ignore[no-untyped-def]
    assert read(known) == known
    with pytest.raises(ValueError, match=f"{later}' is designed but not built yet; use .*{known}"):
        read(later)
    with pytest.raises(ValueError, match=f"did you mean {known!r}"):
        read(known + "s")
