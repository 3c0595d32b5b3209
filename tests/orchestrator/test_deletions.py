"""Deletions: which layers lose how many units."""

import polars as pl
import pytest

from orchestrator import aggregate
from orchestrator.deletions import LayersError
from tests.orchestrator.answered import cells


def executions(held: dict[str, list[int]]) -> pl.DataFrame:
    return pl.DataFrame(
        {"cell": list(held), "held_by_layer": list(held.values())},
        schema={"cell": pl.String, "held_by_layer": pl.List(pl.Int32)},
    )


def test_every_layer_of_every_point_says_how_many_units_it_lost() -> None:
    points = cells(2, models=("zoo:opt",))
    cell = "zoo:opt-peak-None-0.5-1"
    made = aggregate.deletions(points.lazy(), executions({cell: [7, 3, 0]}).lazy())
    assert made.select("layer", "neurons_held").rows() == [(0, 7), (1, 3), (2, 0)]
    row = made.row(0, named=True)
    assert (row["method"], row["fraction"], row["seed"], row["site"]) == (
        *("peak", 0.5, 1, "attn_pre_out"),
    )
    assert row["parameters"] == '{"estimator":"smooth"}'


def test_points_that_share_a_cell_have_rows_each_and_answers_twice_count_once() -> None:
    points = cells(3, models=("zoo:opt",))
    held = executions({"zoo:opt-mean-None-all": [10, 10]})
    made = aggregate.deletions(points.lazy(), pl.concat([held, held]).lazy())
    assert made.height == 3 * 2
    assert made["seed"].to_list() == [0, 0, 1, 1, 2, 2]


def test_a_cell_answered_in_parts_held_the_same_in_all_of_them() -> None:
    points = cells(1, models=("zoo:opt",))
    cell = "zoo:opt-mean-None-0.5-0"
    parts = [executions({cell: held}) for held in ([5, 5], [5, 5], [4, 6])]
    whole = aggregate.deletions(points.lazy(), parts[0].lazy())
    assert aggregate.deletions(points.lazy(), pl.concat(parts[:2]).lazy()).equals(whole)
    with pytest.raises(LayersError, match=rf"{cell} held \[5, 5\] and \[4, 6\] .* the same in all"):
        aggregate.deletions(points.lazy(), pl.concat(parts).lazy())


def test_two_sites_held_together_are_told_apart() -> None:
    points = cells(1, models=("zoo:opt",), sites=("attn_pre_out+mlp_mid",))
    cell = points.filter(pl.col("fraction") == 0.5)["cell"][0]
    made = aggregate.deletions(points.lazy(), executions({cell: [1, 2, 30, 40]}).lazy())
    assert made.select("at", "layer", "neurons_held").rows() == [
        ("attn_pre_out", 0, 1),
        ("attn_pre_out", 1, 2),
        ("mlp_mid", 0, 30),
        ("mlp_mid", 1, 40),
    ]
    with pytest.raises(LayersError, match=r"3 layers .* expected as many of each of its 2 sites"):
        aggregate.deletions(points.lazy(), executions({cell: [1, 2, 3]}).lazy())


def test_what_holds_nothing_or_is_not_executed_has_no_rows() -> None:
    points = cells(1, models=("zoo:opt",))
    made = aggregate.deletions(points.lazy(), executions({"zoo:opt-baseline": [0, 0]}).lazy())
    none = aggregate.deletions(points.lazy(), executions({}).lazy())
    assert made.is_empty()
    assert made.schema == none.schema
    assert dict(made.schema)["neurons_held"] == pl.Int64
