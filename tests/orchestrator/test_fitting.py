"""Settings that the spec alone allows and these models do not."""

from pathlib import Path

import pytest

from orchestrator.mistakes import SpecError
from tests.orchestrator import planned


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    planned.documents(tmp_path)
    known = {
        "a": planned.facts(),
        "m": planned.facts("masked"),
        "i": planned.facts("image"),
        "deep": planned.facts(layers=5, digest="a deeper model"),
    }
    planned.know(monkeypatch, known)
    return tmp_path


def refused(base: Path, said: str, *, path: str | None = None, **changes: object) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        planned.make(base, **changes)
    assert path is None or [m.path for m in caught.value.mistakes] == [path]


def sources(**lengths: int | None) -> dict[str, object]:
    return {
        key: {"source": "documents.jsonl", **({"sequence_length": n} if n else {})}
        for key, n in lengths.items()
    }


def test_skipping_every_position_leaves_nothing_to_count(base: Path) -> None:
    refused(base, "leave none to count", statistics={"positions": {"skip_first": 32}})


@pytest.mark.parametrize("strata", ["position", {"position": 4}, {"position": [0, 5]}])
def test_a_bucket_that_is_skipped_holds_no_constant(base: Path, strata: object) -> None:
    statistics = {"strata": [strata], "positions": {"skip_first": 8}}
    refused(base, "nothing to hold", methods=["mean(position)"], statistics=statistics)


def test_a_bucket_that_is_skipped_does_no_harm_to_other_methods(base: Path) -> None:
    statistics = {"strata": ["position"], "positions": {"skip_first": 8}}
    planned.make(base, methods=["mean"], statistics=statistics)


def test_constants_by_position_reach_as_far_as_what_is_evaluated(base: Path) -> None:
    data = sources(texts=None, short=16)
    statistics = {"data": "short", "strata": [{"position": 2}]}
    refused(
        base,
        r"statistics.data: .* no constants for the rest",
        data=data,
        methods=["peak(smooth, position)"],
        statistics=statistics,
    )
    planned.make(base, data=data, methods=["peak"], statistics=statistics)


def test_a_batch_holds_a_window_of_either_source(base: Path) -> None:
    data = sources(texts=16, long=None)
    evaluation = {"batch_tokens": 20}
    planned.make(base, data=data, evaluation=evaluation)
    refused(
        base, "less than one window", data=data, evaluation=evaluation, statistics={"data": "long"}
    )


def test_two_sources_never_share_a_file(base: Path) -> None:
    refused(base, "would share a file", data=sources(**{"text v1": None, "text-v1": 16}))


DIGITS = {"digits": {"source": "zoo:digits"}}


def test_a_layer_that_a_model_does_not_have_is_refused(base: Path) -> None:
    refused(base, "a has no layer 3; its layers are 0 to 2", path="layers", layers=[0, 3])
    planned.make(base, models=["deep"], layers=[0, 3])
    refused(base, "a has no layer 3", path="layers", layers=[3], models=["deep", "a"])


def test_a_list_must_be_of_this_models_units(base: Path) -> None:
    file = planned.listing(base, [(0, 1), (2, 9)])
    asked = {"selections": ["random", f"explicit({file})"], "methods": ["mean"]}
    planned.make(base, **asked)
    path = "selections[1]"
    refused(base, r"lists layer 2, head 9", path=path, units=["head"], **asked)
    missing = ["random", "explicit(none.npy)"]
    refused(base, r"none.npy cannot be read .*; name an existing file", path=path,
            selections=missing)  # fmt: skip
    deeper = planned.listing(base, [(4, 0)], "deeper.npy")
    refused(base, r"the model has layers 0 … 2 .*\(a\)", path=path, models=["deep", "a"],
            selections=["random", f"explicit({deeper})"])  # fmt: skip


def test_a_list_cannot_say_which_of_two_sites_it_means(base: Path) -> None:
    file = planned.listing(base, [(0, 1)])
    refused(
        base,
        "units.npy",
        path="selections[0]",
        selections=[f"explicit({file})"],
        sites=[["attn_pre_out", "mlp_mid"]],
    )


@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("m", "resample(generated)"),
        ("a", "resample(random_pixels)"),
        ("a", "resample(shuffled_pixels)"),
        ("i", "resample(random_characters)"),
    ],
)
def test_donors_that_no_model_can_be_fed_are_refused(base: Path, model: str, method: str) -> None:
    data = {"texts": {"source": "documents.jsonl", "document": "name"}, **DIGITS}
    said = r"fits none of the models, which are"
    refused(base, said, path="methods[1]", models=[model], data=data, methods=["zero", method])
    both = {"models": ["a", "m", "i"], "data": data, "methods": ["zero", method]}
    planned.make(base, **both)  # somewhere it fits


@pytest.mark.parametrize(
    ("model", "metric", "said"),
    [
        ("a", "top1_mask", "is of masked models"),
        ("a", "ce_mask", "is of masked models"),
        ("m", "bits_per_byte", "is of causal models"),
        ("i", "bits_per_byte", "is of causal models"),
        ("i", "top1_rare", "is of causal and masked models"),
    ],
)
def test_a_metric_that_no_model_has_is_refused(
    base: Path, model: str, metric: str, said: str
) -> None:
    data = {"texts": {"source": "documents.jsonl", "document": "name"}, **DIGITS}
    asked = {"data": data, "evaluation": {"metrics": ["ce", metric]}}
    refused(base, said, path="evaluation.metrics[1]", models=[model], **asked)
    planned.make(base, models=["a", "m", "i"], **asked)


@pytest.mark.parametrize(("skipped", "fits"), [(30, True), (31, False), (99, False)])
def test_some_position_is_scored(base: Path, skipped: int, fits: bool) -> None:
    evaluation = {"positions": {"skip_first": skipped}}
    if fits:
        planned.make(base, evaluation=evaluation)
    else:
        refused(base, "leave none to score", path="evaluation.positions.skip_first",
                evaluation=evaluation)  # fmt: skip


def test_an_image_is_always_scored(base: Path) -> None:
    planned.make(base, models=["i"], data=DIGITS, evaluation={"positions": {"skip_first": 99}})


def test_what_is_compared_against_fits_the_batch_and_is_counted_too(base: Path) -> None:
    data = sources(texts=20, long=None, short=16)

    def against(other: str) -> dict[str, object]:
        return {"data": data, "selections": [f"score(rms, low, against={other})"]}

    planned.make(base, **against("long"))
    refused(base, "less than one window", evaluation={"batch_tokens": 31}, **against("long"))
    refused(base, "of the 16 positions of a leave none to count",
            path="statistics.positions.skip_first",
            statistics={"positions": {"skip_first": 17}}, **against("short"))  # fmt: skip


def test_a_source_is_not_compared_with_itself(base: Path) -> None:
    data = sources(texts=None, others=None)
    rule = {"data": data, "selections": ["random", "score(rms, low, against=others)"]}
    planned.make(base, **rule)
    said = "compares others with itself"
    models = [{"id": "a", "data": "others"}]
    refused(base, said, path="selections[1]", models=models, **rule)
    statistics = {"data": "others"}
    refused(base, said, path="selections[1]", statistics=statistics, **rule)


def test_what_is_compared_against_must_be_of_what_the_model_takes(base: Path) -> None:
    data = {"texts": {"source": "documents.jsonl", "document": "name"}, **DIGITS}
    refused(base, "digits holds images", path="selections[0]", data=data,
            selections=["score(rms, low, against=digits)"])  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"units": ["head"], "fractions": [0.2]}, "0.2 of the 2 heads of a layer of a holds"),
        ({"sites": ["mlp_mid"], "fractions": [0.02]}, "0.02 of the 20 neurons of a layer"),
        (
            {"sites": [["attn_pre_out", "mlp_mid"]], "fractions": [0.04]},
            "0.04 of the 10 neurons of a layer",  # of the narrower site
        ),
        (
            {"selections": ["random(global)"], "fractions": [0.01]},
            "0.01 of the 30 neurons of a holds nothing; the least that holds one is 0.01667",
        ),
        (
            {"selections": ["random(global)"], "fractions": [0.04], "layers": "each"},
            "0.04 of the 10 neurons of a holds",
        ),
        (
            {"selections": ["random(global)"], "fractions": [0.02], "layers": [0, 2]},
            "0.02 of the 20 neurons of a holds",
        ),
    ],
)
def test_a_fraction_that_chooses_nothing_says_of_what(
    base: Path, changes: dict[str, object], said: str
) -> None:
    refused(base, said, path="fractions", **changes)


def test_over_all_layers_a_smaller_fraction_chooses_something(base: Path) -> None:
    planned.make(base, selections=["random(global)"], fractions=[0.02])


def test_a_regression_needs_three_times_as_many_masks_as_units(base: Path) -> None:
    def rule(text: str) -> dict[str, object]:
        return {"selections": [f"regression({text})"]}

    planned.make(base, **rule("masks=90"))
    refused(base, "ask for `masks: 90` at least", path="selections[0]", **rule("masks=89"))
    planned.make(base, **rule("masks=18, block=5"))
    planned.make(base, units=["head"], **rule("masks=18"))
    refused(base, "`masks: 18`", units=["head"], **rule("masks=17"))
    refused(base, "`masks: 180`", sites=["mlp_mid"], **rule("masks=90"))


def test_a_share_of_a_regression_is_some_and_not_all(base: Path) -> None:
    refused(
        base,
        "a share of 0.01 of the 30 neurons",
        path="selections[0]",
        selections=["regression(masks=90, share=0.01)"],
    )


def test_a_rotation_without_heads_is_refused(base: Path) -> None:
    with pytest.raises(SpecError, match=r"basis: a rotation turns the axes inside heads"):
        planned.make(base, sites=["mlp_mid"], basis={"rotate": 0})


def test_a_fraction_of_a_list_holds_some_of_it(base: Path) -> None:
    file = planned.listing(base, [(0, 0), (1, 1), (2, 2), (0, 5)])
    rule = {"selections": [f"explicit({file})"]}
    refused(base, "0.1 of the 4 neurons that explicit", path="fractions", fractions=[0.1], **rule)
    planned.make(base, fractions=[0.25], **rule)
