"""No model is evaluated on what its statistics were collected on, by way of another source."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator import plan
from orchestrator.mistakes import SpecError
from orchestrator.spec import parse

OWN = {"source": "zoo:text", "collect": {"split": "train"}, "evaluate": {"split": "test"}}


def made(other: dict[str, Any], **more: Any) -> None:
    data = {"own": OWN, "other": {"source": "zoo:text", **other}}
    raw = {"models": ["zoo:opt"], "methods": ["mean"], "data": data, "fractions": [1], **more}
    plan.make(parse(raw), base=Path(), device="cpu")


def test_statistics_of_the_split_that_is_evaluated_are_refused() -> None:
    turned = {"collect": {"split": "test"}, "evaluate": {"split": "train"}}
    with pytest.raises(SpecError, match=r"statistics.data: other collects the split 'test'"):
        made(turned, statistics={"data": "other"})


def test_so_is_a_score_that_compares_with_it() -> None:
    turned = {"collect": {"split": "test"}, "evaluate": {"split": "train"}}
    with pytest.raises(SpecError, match=r"selections\[0\]: other collects the split 'test'"):
        made(turned, selections=["score(rms, low, against=other)"])


def test_the_split_that_is_collected_anyway_may_be_collected_under_another_name() -> None:
    made(
        {"collect": {"split": "train"}, "evaluate": {"split": "test"}}, statistics={"data": "other"}
    )
    made({}, statistics={"data": "other"})  # the first split is collected unless one is named
