"""Every sweep in `examples/` plans, runs, and has the rows that its comment promises.

What the numbers are is not tested: they are of small models, and another library may move
them. What must hold whatever they are, is.
"""

from pathlib import Path

import polars as pl
import pytest
import yaml

from orchestrator import sweep

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))
QUESTIONS = [file.stem for file in FILES if file.stem not in ("embedded", "paper")]
MINUTE = 130
"""Cells of a sweep that is meant to take about a minute."""


def rows(run: Path, table: str, **columns: object) -> pl.DataFrame:
    """Return the rows of a table that have these values; None is null."""
    found = pl.read_parquet(run / f"{table}.parquet")
    for name, value in columns.items():
        column = pl.col(name)
        found = found.filter(column.is_null() if value is None else column == value)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_plans(file: Path) -> None:
    made = sweep.plan(file)
    assert made.spec.name == file.stem.replace("_", "-")
    assert file.stem not in QUESTIONS or len(made.cells) <= MINUTE


@pytest.mark.parametrize("question", [*QUESTIONS, "paper"])
def test_an_example_says_in_three_lines_what_it_asks_and_which_table_answers(question: str) -> None:
    lines = (EXAMPLES / f"{question}.yaml").read_text().splitlines()
    comment = [line for line in lines if line.startswith("#")]
    assert lines[: len(comment)] == comment
    assert comment.pop() == "# yaml-language-server: $schema=../docs/schema.json"
    assert len(comment) == 3
    assert comment[0].split(":")[0].rstrip().endswith("?") or "? " in comment[0]
    assert ".parquet" in comment[0] or "selections/" in comment[0]
    assert comment[2].startswith("# Misleading: ")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the run folder of every example."""
    folder = tmp_path_factory.mktemp("examples")
    found = {}
    for question in QUESTIONS:
        ended = sweep.run(EXAMPLES / f"{question}.yaml", out=folder / question, local=True)
        assert not ended.failures
        found[question] = Path(ended.run)
    return found


@pytest.mark.slow
def test_every_example_names_columns_that_its_table_has(runs: dict[str, Path]) -> None:
    named = {
        "which_layer": ("curves", ["metric", "band", "layers", "method", "mean", "low", "high"]),
        "peak_or_mean": ("contrasts", ["estimate", "low", "high", "p_adjusted"]),
        "how_far_from_optimal": ("contrasts", ["estimate", "low", "high", "reason"]),
        "selection_rules": ("curves", ["sd_masks"]),
        "rotated_peaks": ("contrasts", ["a", "b", "method", "fraction"]),
        "precise": ("stops", ["documents", "estimate", "low", "high", "reached"]),
        "circuit": ("curves", ["metric", "band", "layers", "method", "mean", "low", "high"]),
        "mlp_and_attention": ("areas", ["metric", "site", "method", "area", "low", "high"]),
    }
    for question, (table, columns) in named.items():
        text = (EXAMPLES / f"{question}.yaml").read_text()
        assert set(columns) <= set(pl.read_parquet(runs[question] / f"{table}.parquet").columns)
        assert all(column in text for column in columns)


@pytest.mark.slow
def test_each_layer_has_a_change_of_its_own(runs: dict[str, Path]) -> None:
    found = rows(runs["which_layer"], "curves", metric="d_ce", band="pointwise", held_share=1.0)
    assert sorted(set(found["layers"])) == ["0", "1", "2", "3"]
    assert found.height == 2 * 4 * 3  # models x layers x methods
    assert found.drop_nulls(["mean", "low", "high"]).height == found.height


@pytest.mark.slow
def test_each_head_has_an_effect_with_an_interval(runs: dict[str, Path]) -> None:
    orders = pl.read_parquet(runs["which_heads"] / "selections" / "**" / "*.parquet")
    found = orders.filter(pl.col("score_low").is_not_null())
    found = found.explode("order", "score", "score_low", "score_high")
    assert sorted(found["order"]) == list(range(16))
    assert (found["score_low"] < found["score"]).all()
    assert (found["score"] < found["score_high"]).all()
    assert found["score"].is_sorted()  # held first is missed least
    assert rows(runs["which_heads"], "contrasts", declared=True, fraction=None, metric="ce").height
    lost = rows(runs["which_heads"], "deletions", fraction=0.5)
    by_rule = lost.group_by("selection", "seed").agg(pl.col("neurons_held").sum())
    assert set(by_rule["neurons_held"]) == {8 * 32}  # of a head


@pytest.mark.slow
def test_peak_minus_mean_is_one_declared_area_per_model(runs: dict[str, Path]) -> None:
    found = rows(runs["peak_or_mean"], "contrasts", declared=True, metric="ce", fraction=None)
    assert found.select("model", "a", "b", "masks").sort("model").rows() == [
        ("zoo:mistral", "peak", "mean", 10),
        ("zoo:opt", "peak", "mean", 10),
    ]
    assert found["p_adjusted"].is_not_null().all()


@pytest.mark.slow
def test_a_share_of_the_gap_has_an_interval_or_a_reason(runs: dict[str, Path]) -> None:
    found = rows(runs["how_far_from_optimal"], "contrasts", metric="gap_closed")
    assert {(a, b) for a, b in found.select("a", "b").rows()} == {
        ("mean", "zero"),
        ("peak", "zero"),
        ("peak", "mean"),
        ("zero", "mean"),
    }
    assert (found["estimate"].is_null() == found["reason"].is_not_null()).all()


@pytest.mark.slow
def test_learned_constants_lose_no_more_than_any_other_where_all_is_held(
    runs: dict[str, Path],
) -> None:
    found = rows(runs["how_far_from_optimal"], "summary", fraction=1.0).unique("cell")
    by_method = dict(found.select("method", "ce").rows())
    assert min(by_method, key=lambda method: by_method[method]) == "optimal"


@pytest.mark.slow
def test_each_rule_is_set_against_each_random_mask(runs: dict[str, Path]) -> None:
    asked = yaml.safe_load((EXAMPLES / "selection_rules.yaml").read_text())
    found = rows(runs["selection_rules"], "contrasts", declared=True, metric="ce", fraction=None)
    pairs = {(a, b, method) for a, b, method in found.select("a", "b", "method").rows()}
    assert pairs == {(a, b, method) for a, b in asked["contrasts"] for method in asked["methods"]}
    assert set(found["masks"]) == {10}


@pytest.mark.slow
def test_a_rotation_moves_neurons_and_leaves_whole_heads(runs: dict[str, Path]) -> None:
    run = runs["rotated_peaks"]
    statistics = pl.read_parquet(run / "statistics" / "**" / "*.parquet").sort("layer", "neuron")
    own, turned = (statistics.filter(basis=b)["mean"] for b in ("own", "rotated 0"))
    assert (own - turned).abs().mean() > 0.01
    moved = {
        method: abs(rows(run, "contrasts", method=method, fraction=1.0, metric="ce")["estimate"][0])
        for method in ("zero", "mean", "peak")
    }
    assert moved["zero"] < 1e-5
    assert moved["mean"] < 1e-5
    assert moved["peak"] > 1e-5
    found = rows(run, "contrasts", method="peak - mean", fraction=None, metric="ce", declared=True)
    assert found.select("a", "b").rows() == [("own", "rotated 0")]


@pytest.mark.slow
def test_comparisons_stop_when_they_are_known_and_the_unablated_model_is_read_to_the_end(
    runs: dict[str, Path],
) -> None:
    found = pl.read_parquet(runs["precise"] / "stops.parquet")
    assert found.height == 4 * 3  # fractions x masks
    known = (found["high"] - found["low"]) / 2 <= 0.01
    assert (known == found["reached"]).all()
    all_read = found["documents"] == found["documents_total"]
    assert (known | all_read).all()
    assert (found["documents"] >= 30).all()
    assert (found["documents"] < found["documents_total"]).any()
    bare = rows(runs["precise"], "summary", fraction=0.0)
    assert set(bare["documents"]) == set(found["documents_total"])


@pytest.mark.slow
def test_sites_held_together_have_an_area_of_their_own(runs: dict[str, Path]) -> None:
    found = rows(runs["mlp_and_attention"], "areas", metric="d_ce")
    assert set(found["site"]) == {"attn_pre_out", "mlp_mid", "attn_pre_out+mlp_mid"}
    assert found.height == 3 * 3
    peaks = pl.read_parquet(runs["mlp_and_attention"] / "statistics" / "**" / "*.parquet")
    assert (peaks.filter(site="mlp_mid")["peak"] == 0).mean() > 0.9  # as its comment warns
