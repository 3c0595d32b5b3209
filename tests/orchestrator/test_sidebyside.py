"""Two runs side by side: what is matched, what is paired, and what numbers come out."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import t as student

from orchestrator.aggregate import contrasts
from orchestrator.coinciding import documents
from orchestrator.sidebyside import SideBySide, side_by_side
from orchestrator.store import Store
from tests.orchestrator import answered
from tests.orchestrator.written_run import write

KEY = ["model_a", "model_b", "method", "parameters", "metric", "fraction"]


def compared(a: Path, b: Path) -> SideBySide:
    return side_by_side(Store.of(a), Store.of(b))


@pytest.fixture
def points() -> pl.DataFrame:
    return answered.cells(models=["zoo:opt"])


def test_a_run_beside_itself_differs_by_exactly_nothing(
    tmp_path: Path, points: pl.DataFrame
) -> None:
    run = write(tmp_path / "a", points, answered.results(points))
    found = compared(run, run)
    for frame in (found.differences, found.contrasts, found.baselines):
        assert frame.height
        assert frame.select("estimate", "low", "high").null_count().row(0) == (0, 0, 0)
        assert not frame.select("estimate", "low", "high").to_numpy().any()
    assert set(found.differences["documents_paired"]) == {"paired"}
    assert found.differences["masks_paired"].all()


def test_two_methods_of_one_run_are_as_far_apart_as_two_runs_with_one_each(
    tmp_path: Path, points: pl.DataFrame
) -> None:
    """What is a contrast in one run is a difference between two, with the same interval."""
    rows = answered.results(points)
    runs = []
    for method in ("mean", "peak"):
        own = points.filter((pl.col("method") == method) | (pl.col("fraction") == 0))
        own = own.filter(pl.col("method") == method).with_columns(
            method=pl.lit("x"), parameters=pl.lit("{}")
        )
        runs.append(write(tmp_path / method, own, rows.filter(pl.col("cell").is_in(own["cell"]))))
    there = contrasts(points.lazy(), rows.lazy(), [("peak", "mean")]).filter(pl.col("declared"))
    made = compared(*runs).differences
    both = there.join(made, on=["metric", "fraction"], nulls_equal=True, suffix="_two")
    assert both.height == there.height
    for column in ("estimate", "low", "high", "p"):
        assert both[column].to_list() == pytest.approx(both[f"{column}_two"].to_list(), rel=1e-9)


def test_the_halves_of_a_runs_documents_are_independent(
    tmp_path: Path, points: pl.DataFrame
) -> None:
    """One estimate and its interval, by hand: a single mask, so documents alone."""
    points = points.filter(pl.col("seed") == 0)
    rows = answered.results(points, documents=12)
    first = pl.col("document").is_in([f"doc{i}" for i in range(5)])
    runs = [
        write(tmp_path / name, points, rows.filter(keep))
        for name, keep in (("a", first), ("b", ~first))
    ]
    found = compared(*runs)
    assert set(found.differences["documents_paired"]) == {"independent"}
    cells = points.filter(pl.col("method") == "mean", pl.col("fraction") == 0.5)["cell"]
    bare = points.filter(pl.col("fraction") == 0)["cell"]
    levels, variances, degrees = [], [], []
    for keep in (first, ~first):
        parts = []
        for cell in (cells[0], bare[0]):
            own = (
                rows.filter(keep, pl.col("cell") == cell)
                .group_by("document")
                .agg(pl.col("loss").sum(), pl.col("tokens").sum())
            )
            own = own.sort("document")
            loss, tokens = own["loss"].to_numpy(), own["tokens"].to_numpy()
            ratio = loss.sum() / tokens.sum()
            parts.append((ratio, (loss - ratio * tokens) / tokens.sum()))
        count = len(parts[0][1])
        levels.append(parts[0][0] - parts[1][0])
        variances.append(((parts[0][1] - parts[1][1]) ** 2).sum() * count / (count - 1))
        degrees.append(count - 1)
    variance = sum(variances)
    welch = variance**2 / sum(v**2 / d for v, d in zip(variances, degrees, strict=True))
    half = student.ppf(0.975, welch) * np.sqrt(variance)
    row = found.differences.filter(
        pl.col("method") == "mean", pl.col("fraction") == 0.5, pl.col("metric") == "d_ce"
    ).row(0, named=True)
    assert row["estimate"] == pytest.approx(levels[1] - levels[0])
    assert row["low"] == pytest.approx(levels[1] - levels[0] - half)
    assert row["high"] == pytest.approx(levels[1] - levels[0] + half)
    assert (row["documents_a"], row["documents_b"]) == (5, 7)


def test_of_runs_that_overlap_much_only_shared_documents_are_compared(
    tmp_path: Path, points: pl.DataFrame
) -> None:
    rows, other = (answered.results(points, documents=9, seed=seed) for seed in (0, 1))
    a = write(tmp_path / "a", points, rows.filter(pl.col("document") != "doc8"))
    b = write(tmp_path / "b", points, other.filter(pl.col("document") != "doc0"))
    found = compared(a, b)
    (pairing,) = found.pairings
    assert (pairing.documents.way, pairing.documents.shared) == ("partly", 7)
    assert pairing.documents.left_out == (1, 1)
    shared = pl.col("document").is_in(["doc0", "doc8"]).not_()
    whole = compared(
        write(tmp_path / "c", points, rows.filter(shared)),
        write(tmp_path / "d", points, other.filter(shared)),
    )
    columns = [*KEY, "estimate", "low", "high"]
    assert found.differences.select(columns).equals(whole.differences.select(columns))


def test_of_runs_that_overlap_little_every_document_counts(
    tmp_path: Path, points: pl.DataFrame
) -> None:
    rows = answered.results(points, documents=13)
    first, last = ([f"doc{i}" for i in which] for which in (range(7), range(6, 13)))
    runs = [
        write(tmp_path / name, points, rows.filter(pl.col("document").is_in(keep)))
        for name, keep in (("a", first), ("b", last))
    ]
    found = compared(*runs)
    assert (found.pairings[0].documents.way, found.pairings[0].documents.shared) == ("partly", 1)
    assert found.pairings[0].documents.left_out == (0, 0)
    assert found.differences.select("documents_a", "documents_b").unique().rows() == [(7, 7)]


def test_other_models_are_matched_by_everything_else_and_their_masks_by_what_is_held(
    tmp_path: Path,
) -> None:
    one, other = (answered.cells(models=[m]) for m in ("zoo:opt", "zoo:vit"))
    other = other.with_columns(model=pl.lit("opt-two"), modality=pl.lit("causal"))
    a = write(tmp_path / "a", one, answered.results(one))
    b = write(tmp_path / "b", other, answered.results(other, seed=1))
    c = write(tmp_path / "c", other, answered.results(other, seed=1), orders=1)
    same, apart = compared(a, b).differences, compared(a, c).differences
    assert same.select("model_a", "model_b").unique().rows() == [("zoo:opt", "opt-two")]
    assert same["masks_paired"].all()
    assert not apart["masks_paired"].any()
    assert same["estimate"].to_list() == pytest.approx(apart["estimate"].to_list())


def test_models_that_could_stand_beside_several_are_left_alone(tmp_path: Path) -> None:
    one = answered.cells(models=["zoo:opt"])
    more = [one.with_columns(model=pl.lit(f"m{i}"), cell=f"m{i}" + pl.col("cell")) for i in (1, 2)]
    both = pl.concat([one, more[0]]), pl.concat([one, *more])
    a, b = (write(tmp_path / n, p, answered.results(p)) for n, p in zip("ab", both, strict=True))
    found = compared(a, b)
    assert len(found.pairings) == 2
    assert [str(x) for x in found.matched.left[1]] == ["m2 on d in float32"]


def test_masked_documents_are_known_whatever_was_masked_of_them() -> None:
    """Whose masked positions differ were fed otherwise, and are the same documents."""
    first = {"input": [[5, 1, 7], [8, 1]], "target": [[-100, 6, -100], [-100, 9]]}
    other = {"input": [[1, 6, 7], [8, 1]], "target": [[5, -100, -100], [-100, 9]]}
    rest = {"document": ["one", "two"], "sequence": [0, 1], "role": ["evaluate"] * 2}
    a, b = (pl.LazyFrame({**rest, **fed}) for fed in (first, other))
    found = documents(a, b, same_source=False, cut_alike=False, masked=True)
    assert (found.way, found.by_content, found.hidden_apart) == ("paired", 2, 1)
