"""The spellings of a method, one by one."""

from collections.abc import Mapping

import pytest

from orchestrator.methods import CONSTANT, DRAWN, METHODS, Parameter, method

OWN: Mapping[str, Mapping[str, Parameter]] = {
    "trimmed": {"share": 0.1, "turns": 2, "how": "both"},
    "plain": {},
}


@pytest.mark.parametrize(
    ("written", "name", "parameters"),
    [
        ("zero", "zero", {}),
        (" zero ", "zero", {}),
        ("mean", "mean", {}),
        ("mean(all)", "mean", {}),
        ("mean(position)", "mean", {"by": "position"}),
        ({"mean": {"by": "position"}}, "mean", {"by": "position"}),
        ("median", "median", {}),
        ("quantile(0.9)", "quantile", {"q": 0.9}),
        ("quantile(q=0.9)", "quantile", {"q": 0.9}),
        ("quantile(0)", "quantile", {"q": 0.0}),
        ({"quantile": {"q": 1}}, "quantile", {"q": 1.0}),
        ("quantile(0.9, position)", "quantile", {"q": 0.9, "by": "position"}),
        ("quantile(position, 0.9)", "quantile", {"q": 0.9, "by": "position"}),
        ("peak", "peak", {"estimator": "smooth"}),
        ({"peak": None}, "peak", {"estimator": "smooth"}),
        ({"peak": {}}, "peak", {"estimator": "smooth"}),
        ("peak(smooth)", "peak", {"estimator": "smooth"}),
        ("peak(paper)", "peak", {"estimator": "paper"}),
        ({"peak": {"estimator": "paper"}}, "peak", {"estimator": "paper"}),
        ("peak(paper_global)", "peak", {"estimator": "paper_global"}),
        (
            "peak(half_sample, position)",
            "peak",
            {"estimator": "half_sample", "by": "position"},
        ),
        ("peak(position)", "peak", {"estimator": "smooth", "by": "position"}),
        ("mean(alpha=0.5)", "mean", {"alpha": 0.5}),
        ("mean(alpha=1)", "mean", {}),
        ({"zero": {"alpha": 0.25}}, "zero", {"alpha": 0.25}),
        ("optimal", "optimal", {}),
        ("optimal(cell)", "optimal", {}),
        ("optimal(shared)", "optimal", {"scope": "shared"}),
        (
            "optimal(steps=7, lr=0.1, seed=3)",
            "optimal",
            {"steps": 7, "lr": 0.1, "seed": 3},
        ),
        ("resample", "resample", {"source": "dataset"}),
        ({"resample": {"source": "dataset"}}, "resample", {"source": "dataset"}),
        ("resample(generated)", "resample", {"source": "generated"}),
        ("resample(per_head)", "resample", {"source": "dataset", "drawn": "per_head"}),
        (
            "resample(random_pixels, shared)",
            "resample",
            {"source": "random_pixels", "donor": "shared"},
        ),
        (
            "resample(published)",
            "resample",
            {"source": "dataset", "behaviour": "published"},
        ),
        ("marginal", "marginal", {}),
        ("noise", "noise", {}),
        ("nearest_peak(alpha=0.5)", "nearest_peak", {"alpha": 0.5}),
    ],
)
def test_every_spelling_of_a_method_becomes_one_form(
    written: object, name: str, parameters: dict[str, object]
) -> None:
    assert method(written, {}) == {"method": name, "parameters": parameters}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("maen", "unknown method 'maen'; did you mean 'mean'"),
        ("peak(papr)", "unknown peak estimator 'papr'; did you mean 'paper'"),
        ({"peak": {"estimator": "papr"}}, "did you mean 'paper'"),
        ("resample(genrated)", "unknown resample source 'genrated'; did you mean 'generated'"),
        ("peak(paper, position)", "smooth and half_sample"),
        ("peak(paper_global, position)", "smooth and half_sample"),
        ("zero(1)", "takes no '1'; its parameters are: alpha"),
        ({"zero": {"by": "position"}}, "takes no parameters but `alpha`; found 'by'"),
        ({"mean": {"of": "x"}}, "takes by; found 'of'"),
        ({"peak": {"bins": 3}}, "takes estimator, by; found 'bins'"),
        ({"peak": "paper"}, "method 'peak': found 'paper', expected a mapping"),
        ({"peak": {}, "mean": {}}, "expected a method's name"),
        (["peak"], "expected a method's name"),
        (None, "expected a method's name"),
        (3, "expected a method's name"),
        ("peak(", r"found 'peak\(', expected a method such as"),
        ("peak of all", "expected a method such as"),
        ("quantile", "'quantile' needs 'q'"),
        ("quantile(1.5)", "found the quantile '1.5', expected a number from 0 to 1"),
        ({"quantile": {"q": True}}, "found the quantile True"),
        ({"quantile": {"q": "much"}}, "found the quantile 'much'"),
        ("quantile(nan)", "found the quantile 'nan'"),
        ("mean(alpha=0)", "alpha .* expected a number from 1e-06 to 1"),
        ("mean(alpha=1.1)", "alpha .* expected a number from 1e-06 to 1"),
        ("optimal(steps=0)", "number of steps '0', expected a whole number from 1"),
        ("optimal(steps=2.5)", "expected a whole number"),
        ("optimal(lr=0)", "learning rate '0'"),
        ("optimal(alpha=0.5)", "learned with nothing kept of x; leave alpha out"),
        ("resample(per_head, shared)", "one donor for all sequences.*leave one of the two out"),
        ("resample(per_layer, published)", "one donor for all sequences"),
    ],
)
def test_a_wrong_method_is_refused_with_what_to_write(written: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        method(written, {})


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
        method(written, {})


@pytest.mark.parametrize(
    ("written", "parameters"),
    [
        ("trimmed", {}),
        ("trimmed(share=0.2)", {"share": 0.2}),
        ("trimmed(share=0.1)", {}),  # the default stays out of the name
        ({"trimmed": {"turns": 3, "how": "low"}}, {"turns": 3, "how": "low"}),
        ("trimmed(turns=3.0)", {"turns": 3}),
        ("trimmed(alpha=0.5)", {"alpha": 0.5}),
        ("plain", {}),
    ],
)
def test_a_users_own_method_is_spelled_like_ours(
    written: object, parameters: dict[str, object]
) -> None:
    found = method(written, OWN)
    (name,) = [n for n in OWN if n in str(written)]
    assert found == {"method": name, "parameters": parameters}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("trimed", "did you mean 'trimmed'"),
        ("trimmed(0.2)", "`key=value`"),
        ("trimmed(shares=0.2)", "takes share, turns, how, alpha; found 'shares'"),
        ("trimmed(share=much)", "found share 'much', expected a number"),
        ("trimmed(alpha=2)", "alpha"),
        ({"plain": {"x": 1}}, "takes alpha; found 'x'"),
    ],
)
def test_a_wrong_spelling_of_a_users_method_is_refused(written: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        method(written, OWN)


def test_without_the_plug_in_its_name_is_unknown() -> None:
    with pytest.raises(ValueError, match="unknown method 'trimmed'"):
        method("trimmed", {})


def test_every_method_is_held_at_a_constant_drawn_or_of_another_kind() -> None:
    others = {"resample", "nearest_peak"}
    assert {*CONSTANT, *DRAWN} | others == set(METHODS)
    assert not set(CONSTANT) & set(DRAWN)
