from pathlib import Path

import pytest

from orchestrator.mistakes import SpecError
from tests.orchestrator import planned


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts()})
    return tmp_path


def refused(base: Path, said: str, **changes: object) -> None:
    with pytest.raises(SpecError, match=said):
        planned.make(base, **changes)


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
