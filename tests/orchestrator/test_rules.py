"""The spellings of a selection, one by one."""

import pytest

from orchestrator.rules import rule
from orchestrator.scores import BETWEEN, SCORES


@pytest.mark.parametrize(
    ("written", "name", "parameters"),
    [
        ("random", "random", {}),
        ("random(layer)", "random", {}),
        ({"random": None}, "random", {}),
        ("random(global)", "random", {"over": "global"}),
        ({"random": {"over": "global"}}, "random", {"over": "global"}),
        ("score(rms, low)", "score", {"by": "rms", "first": "low"}),
        ("score(high, rms)", "score", {"by": "rms", "first": "high"}),
        ({"score": {"by": "rms", "first": "high"}}, "score", {"by": "rms", "first": "high"}),
        ("score(by=rms, first=low)", "score", {"by": "rms", "first": "low"}),
        (
            "score(rms, low, global, each_fraction)",
            "score",
            {"by": "rms", "first": "low", "over": "global", "again": "each_fraction"},
        ),
        (
            "score(rms, high, against=web)",
            "score",
            {"by": "rms", "first": "high", "against": "web"},
        ),
        (
            {"score": {"by": "difference", "first": "high", "against": "web"}},
            "score",
            {"by": "difference", "first": "high", "against": "web"},
        ),
        ("explicit(units.npy)", "explicit", {"file": "units.npy"}),
        ({"explicit": {"file": "a/b.parquet"}}, "explicit", {"file": "a/b.parquet"}),
        ("regression", "regression", {}),
        ("regression(low)", "regression", {}),
        ("regression(high, masks=50)", "regression", {"first": "high", "masks": 50}),
        (
            {"regression": {"share": 0.3, "ridge": 0, "block": 4, "seed": 1}},
            "regression",
            {"share": 0.3, "ridge": 0.0, "block": 4, "seed": 1},
        ),
    ],
)
def test_every_spelling_of_a_selection_becomes_one_form(
    written: object, name: str, parameters: dict[str, object]
) -> None:
    assert rule(written) == {"rule": name, "parameters": parameters}


@pytest.mark.parametrize("by", SCORES)
@pytest.mark.parametrize("first", ["low", "high"])
def test_every_score_can_be_asked_for_from_either_end(by: str, first: str) -> None:
    expected = {"rule": "score", "parameters": {"by": by, "first": first}}
    assert rule(f"score({by}, {first})") == expected
    assert rule({"score": {"by": by, "first": first}}) == expected


@pytest.mark.parametrize("by", BETWEEN)
def test_what_compares_two_data_sets_needs_the_name_of_the_other(by: str) -> None:
    with pytest.raises(ValueError, match=f"{by!r} compares two data sets; name the other"):
        rule(f"score({by}, low)")
    found = rule(f"score({by}, low, against=web)")
    assert found == {"rule": "score", "parameters": {"by": by, "first": "low", "against": "web"}}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("randum", "unknown selection 'randum'; did you mean 'random'"),
        ("random(globl)", "unknown `over` 'globl'; did you mean 'global'"),
        ({"random": {"ovr": "global"}}, "'random' takes over; found 'ovr'"),
        ("score", "a score must be named, one of: "),
        ("score(low)", "a score must be named, one of: "),
        ("score(rms)", "say which end of 'rms' is held first"),
        ({"score": {"by": "rms"}}, "say which end of 'rms' is held first"),
        ("score(rsm, low)", "unknown score 'rsm'; did you mean 'rms'"),
        ("score(rms, low, against=web, each_fraction)", "leave `again` or `against` out"),
        ("score(kurtosis, low, against=web)", "has no ratio; leave `against` out"),
        ("score(rms, low, file=x)", "takes by, first, over, again; found 'file'"),
        ("explicit", "expected one file"),
        ("explicit(a.npy, b.npy)", "expected one file"),
        ({"explicit": {"file": 3}}, "expected one file"),
        ({"explicit": {"path": "a.npy"}}, "expected one file"),
        ("regression(masks=7)", "number of masks '7', expected a whole number from 8"),
        ("regression(share=1)", "share held '1', expected a number from 0.01 to 0.99"),
        ("regression(global)", "unknown `first` 'global'"),
        ("regression(block=1.5)", "expected a whole number"),
        ({"random": {}, "score": {}}, "expected a selection's name"),
        (None, "expected a selection's name"),
    ],
)
def test_a_wrong_selection_is_refused_with_what_to_write(written: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rule(written)
