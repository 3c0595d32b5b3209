"""Tables of more answers than are taken at once are those of all at once, to the last bit."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from orchestrator import aggregate, scratch
from orchestrator.buckets import FILE
from tests.orchestrator.answered import OPTIMAL, cells, results, stopped

METRICS = ["top1", "ce", "perplexity", "bits_per_byte"]
SIZES = pl.DataFrame(
    {"model": "zoo:opt", "data": "d", "sequence": range(99), "bytes": range(7, 106)}
)
PEAK = "zoo:opt-peak-None-0.5-1"


def every_table(points: pl.DataFrame, rows: pl.DataFrame | pl.LazyFrame) -> dict[str, pl.DataFrame]:
    made = aggregate.tables(
        points.lazy(),
        rows.lazy(),
        [("peak", "mean"), ("mean", "zero")],
        metrics=METRICS,
        documents_bytes=SIZES.lazy(),
    )
    return dict(made)


def assert_same(one: dict[str, pl.DataFrame], other: dict[str, pl.DataFrame]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert_frame_equal(one[name], other[name], check_exact=True)


def untidy() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Cells that stopped, answers twice, answers of no cell, losses that are no numbers."""
    points = cells(2, 2, models=("zoo:opt", "zoo:vit"), fractions=(0.0, 0.5, 1.0))
    rows = results(points, documents=9, rounds=4)
    extent = {cell: 1 + i % 4 for i, cell in enumerate(points["cell"].unique().sort())}
    extent |= {"zoo:opt-baseline": 4, "zoo:vit-baseline": 4}
    rows = stopped(rows, extent.__getitem__)
    lost = pl.col("cell").str.contains("mean") & (pl.col("sequence") % 5 == 0)
    rows = rows.with_columns(nan=pl.when(lost).then(1).otherwise(0))
    more = rows.head(40).with_columns(cell=pl.lit("of another sweep"), sequence=pl.int_range(40))
    return points, pl.concat([rows, rows.sample(fraction=0.3, seed=1), more])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a block be smaller than one cell's answers over a few documents."""
    monkeypatch.setattr(scratch, "BLOCK", 60)


@pytest.mark.parametrize("stops", [True, False])
def test_the_size_of_a_block_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stops: bool
) -> None:
    points, rows = untidy()
    if not stops:
        points = cells(2, models=("zoo:opt",), swept=OPTIMAL, fractions=(0.0, 0.5, 1.0))
        rows = results(points, documents=11)
    whole = every_table(points, rows)
    assert sum(frame.height for frame in whole.values()) > 100
    monkeypatch.setattr(scratch, "BLOCK", 200)
    assert_same(every_table(points, rows), whole)
    # From files, whose rows come in whatever order.
    for part, some in enumerate(rows.sample(fraction=1, shuffle=True, seed=2).iter_slices(300)):
        some.write_parquet(tmp_path / f"{part}.parquet")
    assert_same(every_table(points, pl.scan_parquet(tmp_path / "*.parquet")), whole)


def test_tables_made_together_are_those_made_alone() -> None:
    points, rows = untidy()
    lazy, sizes = (points.lazy(), rows.lazy()), SIZES.lazy()
    declared = [("peak", "mean"), ("mean", "zero")]
    alone = {
        "summary": aggregate.summary(*lazy, sizes),
        "contrasts": aggregate.contrasts(*lazy, declared, metrics=METRICS, documents_bytes=sizes),
        "curves": aggregate.curves(*lazy, metrics=METRICS, documents_bytes=sizes),
        "areas": aggregate.areas(*lazy, metrics=METRICS, documents_bytes=sizes),
    }
    assert_same(every_table(points, rows), alone)


@pytest.mark.usefixtures("small")
def test_answers_that_differ_are_told_of_all_blocks_with_the_files_they_are_in(
    tmp_path: Path,
) -> None:
    points = cells(2, models=("zoo:opt",))
    rows = results(points)
    for name in ("one", "copy"):
        rows.write_parquet(tmp_path / f"{name}.parquet")
    wrong = pl.col("cell").is_in(["zoo:opt-baseline", PEAK]) & (pl.col("sequence") == 3)
    rows.filter(wrong).with_columns(pl.col("loss") + 1).write_parquet(tmp_path / "wrong.parquet")
    rows.filter(pl.col("cell") == "zoo:opt-mean-None-0.5-0").write_parquet(
        tmp_path / "fine.parquet"
    )
    read = pl.scan_parquet(tmp_path / "*.parquet", include_file_paths=FILE)
    for asked in (lambda: every_table(points, read), lambda: aggregate.distinct(read)):
        with pytest.raises(aggregate.DifferingAnswersError) as raised:
            asked()
        said = str(raised.value)
        assert said.startswith("2 cells in `results` have two different answers")
        assert f"zoo:opt-baseline, {PEAK}" in said
        assert all(f"{name}.parquet" in said for name in ("one", "copy", "wrong"))
        assert "fine.parquet" not in said
    right = pl.scan_parquet([tmp_path / "one.parquet", tmp_path / "copy.parquet"])
    assert_same(every_table(points, right), every_table(points, rows))


@pytest.mark.usefixtures("small")
def test_answers_of_no_cell_that_differ_are_an_error_too() -> None:
    points, rows = untidy()
    other = rows.tail(1).with_columns(pl.col("top1") + 1)
    with pytest.raises(aggregate.DifferingAnswersError, match="of another sweep"):
        every_table(points, pl.concat([rows, other]))


@pytest.mark.parametrize("where", ["one", "all of a method", "the unablated model"])
@pytest.mark.parametrize("how", ["no position has a loss", "the sum is no number"])
def test_a_loss_that_is_no_number_is_a_value_and_is_said(where: str, how: str) -> None:
    points = cells(2, models=("zoo:opt",), fractions=(0.0, 0.5))
    rows = results(points, documents=8)
    here = {
        "one": pl.col("cell") == PEAK,
        "all of a method": pl.col("cell").str.contains("peak"),
        "the unablated model": pl.col("cell") == "zoo:opt-baseline",
    }[where]
    lost = {"nan": pl.col("tokens"), "loss": pl.lit(0.0)}
    if how == "the sum is no number":
        lost = {"loss": pl.lit(math.nan), "nan": pl.lit(1)}
    rows = rows.with_columns(**{c: pl.when(here).then(x).otherwise(c) for c, x in lost.items()})
    made = every_table(points, rows)
    summary, whole = made["summary"], every_table(points, results(points, documents=8))
    none = summary.filter(here)
    assert none.height > 0
    assert none["ce"].null_count() == none.height
    assert none["top1"].null_count() == none["d_top1"].null_count() == 0
    assert summary.filter(~here)["ce"].null_count() == 0
    # Whatever is made of these cells is null, never NaN, and all else is as it would be.
    for name, frame in made.items():
        floats = [c for c, kind in frame.schema.items() if kind == pl.Float64]
        assert not any(frame[c].is_nan().any() for c in floats)
        assert frame.height == whole[name].height
    apart = (pl.col("metric") == "top1") & pl.col("fraction").is_not_null()
    assert_frame_equal(
        made["contrasts"].filter(apart).drop("p_adjusted"),
        whole["contrasts"].filter(apart).drop("p_adjusted"),
        check_exact=True,
    )
    contrast = made["contrasts"].filter("declared", metric="ce", a="peak", fraction=0.5)
    assert contrast["estimate"].null_count() == (0 if where == "the unablated model" else 1)
    said = aggregate.notes(summary, rows.lazy(), made["contrasts"])
    assert any("scored positions, in" in x and "is not a number" in x for x in said)
    (told,) = [x for x in said if "no cross-entropy" in x]
    assert f"{none['cell'].n_unique()} cells have no cross-entropy" in told
    assert ("unablated model among them" in told) == (where == "the unablated model")


@pytest.mark.usefixtures("small")
def test_lost_positions_are_counted_once_however_many_rows_have_some() -> None:
    points, rows = untidy()
    rows = rows.with_columns(nan=pl.lit(2))
    summary = aggregate.summary(points.lazy(), rows.lazy(), None)
    counts = rows.unique().filter(pl.col("cell").str.starts_with("zoo:opt"))
    said = [x for x in aggregate.notes(summary, rows.lazy()) if x.startswith("zoo:opt on d: the l")]
    assert f"the loss of {2 * counts.height} scored positions" in said[0]
    assert f"in {counts['cell'].n_unique()} cells" in said[0]


def test_nothing_is_left_in_the_folder_for_temporary_files(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    points, rows = untidy()
    made = aggregate.tables(points.lazy(), rows.lazy(), [])
    next(made)
    assert list(tmp_path.iterdir()) == []  # not even while it is being used


@pytest.mark.usefixtures("small")
def test_a_folder_for_temporary_files_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    points, rows = untidy()
    with pytest.raises(scratch.ScratchError, match=r"gone .*; tables of many answers .* TMPDIR"):
        every_table(points, rows)


def test_a_full_disk_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(scratch.ScratchError, match="No space left on device"):
        scratch.Matrix(2, 2, filed=True).write(0, np.zeros((2, 2)))


@pytest.mark.parametrize("filed", [True, False])
def test_rows_of_a_matrix_are_those_that_were_written(filed: bool) -> None:
    values = np.random.default_rng(0).standard_normal((7, 5))
    made = scratch.Matrix(7, 5, filed=filed)
    made.write(4, values[4:])
    made.write(0, np.asfortranarray(values[:4]))
    rows = np.array([[3, -1], [3, 0], [5, 6]])
    assert (made[rows] == values[rows]).all()
    kept = np.array([True, False, True, True, False])
    assert (made.choose(kept)[rows] == values[rows][..., kept]).all()
    assert made.choose(kept).columns == 3
    assert made[np.arange(0)].shape == (0, 5)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 101])
def test_no_row_of_a_block_is_alone(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(scratch, "BLOCK", 40)
    blocks = list(scratch.Matrix(rows, 10, filed=False).blocks())
    assert np.concatenate(blocks).tolist() == list(range(rows))
    assert all(2 <= len(block) <= 5 for block in blocks) or rows == 1
