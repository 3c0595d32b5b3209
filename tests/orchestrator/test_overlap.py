"""No model is evaluated on what its statistics were collected on, by way of another source."""

import json
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


def lines(folder: Path) -> dict[str, Any]:
    rows = ({"set": "abc"[i % 3], "text": f"number {i} is a text " * 9} for i in range(12))
    file = folder / "lines.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return {"source": str(file)}


def of_lines(one: dict[str, Any], two: dict[str, Any]) -> None:
    raw = {"models": [{"id": "zoo:opt", "data": "own"}], "methods": ["mean"], "fractions": [1]}
    given = {**raw, "data": {"own": one, "other": two}, "statistics": {"data": "other"}}
    plan.make(parse(given), base=Path(), device="cpu")


def test_the_halves_of_one_file_are_apart_under_any_name(tmp_path: Path) -> None:
    of_lines(lines(tmp_path), lines(tmp_path))


def test_the_halves_of_one_file_that_is_read_in_two_ways_are_not_apart(tmp_path: Path) -> None:
    rows = [{"page": f"p{i // 3}", "text": f"row {i} is a text " * 9} for i in range(24)]
    file = tmp_path / "lines.jsonl"
    file.write_text("\n".join(json.dumps({**row, "body": row["text"]}) for row in rows))
    source = {"source": str(file)}
    joined = {**source, "document": "page"}
    of_lines(joined, joined)
    of_lines(source, {**source, "where": {"page": ["p0", "p1"]}})  # rows are the same ones
    for other in ({**source, "text": "body"}, joined):
        with pytest.raises(SpecError, match=r"other collects documents of the very content"):
            of_lines(source, other)
    with pytest.raises(SpecError, match=r"other collects documents of the very content"):
        of_lines(joined, {**joined, "where": {"page": [f"p{i}" for i in range(6)]}})


def test_passages_of_a_text_and_the_whole_of_it_are_not_apart(tmp_path: Path) -> None:
    for name in "ab":
        text = "\n\n".join(f"paragraph {name}{i} " * 20 for i in range(60))
        (tmp_path / f"{name}.txt").write_text(text)
    with pytest.raises(SpecError, match=r"other collects documents of the very content"):
        of_lines({"source": str(tmp_path)}, {"source": str(tmp_path / "a.txt")})


def test_filters_that_let_the_same_row_through_do_not_keep_roles_apart(tmp_path: Path) -> None:
    splits = ("train", "test")
    folder = tmp_path / "set"
    for split in splits:
        (folder / split).mkdir(parents=True)
        lines(folder / split)
    source = {"source": str(folder)}
    ahead = {"collect": {"split": "train"}, "evaluate": {"split": "test"}}
    turned = {"collect": {"split": "test"}, "evaluate": {"split": "train"}}
    some = {"where": {"set": ["a", "b"]}}
    with pytest.raises(SpecError, match=r"other collects the split 'test'"):
        of_lines({**source, **ahead, **some}, {**source, **turned, "where": {"set": ["b", "c"]}})
    of_lines({**source, **ahead, **some}, {**source, **turned, "where": {"set": ["c"]}})


def test_filters_by_number_and_by_name_do_not_keep_roles_apart(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
        lines(tmp_path / "set" / split)
    source = {"source": str(tmp_path / "set")}
    ahead = {"collect": {"split": "train"}, "evaluate": {"split": "test"}}
    turned = {"collect": {"split": "test"}, "evaluate": {"split": "train"}}
    names, numbers = {"where": {"set": ["a", "b"]}}, {"where": {"set": ["c", 2]}}
    with pytest.raises(SpecError, match=r"other collects the split 'test'"):
        of_lines({**source, **ahead, **names}, {**source, **turned, **numbers})
