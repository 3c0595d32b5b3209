"""Notes: what is said of rotated axes and of few masks."""

import polars as pl

from orchestrator import aggregate
from tests.orchestrator.answered import cells, holding, results, shifted, stopped


def said(points: pl.DataFrame, rows: pl.DataFrame, *declared: tuple[str, str]) -> list[str]:
    summary = aggregate.summary(points.lazy(), rows.lazy(), None)
    contrasts = aggregate.contrasts(points.lazy(), rows.lazy(), declared)
    return aggregate.notes(summary, rows.lazy(), contrasts)


def turned(effect: float, base: float = 0.0) -> list[str]:
    """Notes of a sweep in which peaks cost `effect` nats more in a model's own axes."""
    points = cells(7, models=("zoo:opt",), bases=("own", "rotated 3"))
    rows = results(points, documents=40)
    rows = rows.with_columns(loss=2.0 * pl.col("tokens") + pl.col("sequence") % 3)
    rows = rows.with_columns(
        loss=pl.col("loss") + (pl.col("cell").rank("dense") % 7) * (pl.col("sequence") % 2) * 0.01
    )

    def by(cell: str) -> float:
        ablated = "baseline" not in cell
        own = effect if "peak" in cell and "rotated" not in cell else 0.0
        return own if ablated else base * ("rotated" in cell)

    return said(points, shifted(rows, by), ("mean", "peak"))


def test_a_turned_model_is_said_to_be_the_same_model_or_how_far_it_is_from_it() -> None:
    (sentence,) = [x for x in turned(0.0, base=0.25) if "unablated" in x]
    assert "zoo:opt on d: unablated, the model in rotated axes differs from itself" in sentence
    assert "by at most 0.25 nats" in sentence or "0.24" in sentence or "0.26" in sentence


def test_peaks_that_cost_more_in_their_own_axes_are_said_to_hang_on_them() -> None:
    (sentence,) = [x for x in turned(0.5) if "holding at the peak" in x]
    assert "the model's own axes and rotated 3 by +0.47" in sentence
    assert sentence.endswith("so what peaks do hangs on these axes.")


def test_peaks_that_cost_the_same_in_any_axes_are_said_to_show_nothing() -> None:
    (sentence,) = [x for x in turned(0.0) if "holding at the peak" in x]
    assert sentence.endswith("nothing shows that peaks mean more in these axes than in any others.")


def test_without_a_rotation_nothing_is_said_of_axes() -> None:
    points = cells(7, models=("zoo:opt",))
    assert said(points, results(points, documents=30), ("peak", "mean")) == []


def test_few_masks_are_said_aloud_where_something_was_declared() -> None:
    points = cells(3, models=("zoo:opt",))
    rows = results(points, documents=30)
    (sentence,) = said(points, rows, ("peak", "mean"))
    assert sentence.startswith("zoo:opt on d: 3 masks; ")
    assert said(points, rows) == []


def test_what_is_not_compared_warns_of_no_few_masks() -> None:
    points = cells(3, models=("zoo:opt",), selections=("random", "explicit(u.npy)"))
    points = holding(points, "explicit(u.npy)", {0.1: 1, 0.5: 3, 1: 4})
    assert said(points, results(points, documents=30), ("explicit(u.npy)", "random")) == []


def test_a_curve_that_jumps_to_nearly_everything_is_said_to_have_an_area_unmeasured() -> None:
    fractions = (0, 0.1, 0.5, 0.75, 1)
    points = cells(7, models=("zoo:opt",), fractions=fractions, complement=True)
    rows = results(points, documents=30)
    assert said(points, rows, ("peak", "mean")) == []
    # All but some of one layer of four: three quarters are held wherever anything is.
    layer = points.with_columns(
        layers=pl.lit("2"),
        units_held=pl.when(pl.col("fraction") == 0).then(0).otherwise(60 + pl.col("units_held")),
        units_total=80,
    )
    (sentence,) = said(layer, rows, ("peak", "mean"))
    assert sentence == (
        "zoo:opt on d: with complement, the curves of layers 2 jump from the unablated model to"
        " their first point, at 75% held or more, so their areas are mostly a straight line that"
        " nobody measured; look at single fractions."
    )


def test_cells_that_stopped_early_are_counted_with_what_they_saved() -> None:
    points = cells(7, models=("zoo:opt",), fractions=(0, 0.1, 0.5))
    rows = results(points, documents=60, rounds=6)
    assert said(points, rows, ("peak", "mean")) == []
    fewer = stopped(rows, lambda cell: 3 if "-0.1-" in cell else 6)
    tokens = fewer["tokens"].sum() / rows["tokens"].sum()
    (sentence,) = said(points, fewer, ("peak", "mean"))
    assert sentence.startswith(
        "zoo:opt on d: 21 of 42 cells stopped before the last document, at 50% of them (median),"
        f" which saved {1 - tokens:.0%} of the sweep's scored positions. "
    )
    assert sentence.endswith("Those in stops.parquet hold whenever one stops.")


def test_few_documents_are_said_where_the_fewest_were_read() -> None:
    points = cells(7, models=("zoo:opt",), fractions=(0, 0.5))
    rows = stopped(results(points, documents=60, rounds=6), lambda cell: 2 if "peak" in cell else 6)
    few, sentence = said(points, rows, ("peak", "mean"))
    assert few.startswith("zoo:opt on d: 20 documents where the fewest were read; ")
    assert "7 of 21 cells stopped" in sentence


def test_a_cell_without_one_whole_round_is_answered_in_part_and_did_not_stop() -> None:
    points = cells(7, models=("zoo:opt",), fractions=(0, 0.5))
    rows = results(points, documents=60, rounds=6)
    part = (pl.col("cell") == "zoo:opt-peak-None-0.5-3") & (pl.col("sequence") > 20)
    told = said(points, rows.filter(~part), ("peak", "mean"))
    assert told == ["zoo:opt on d: 1 cells are answered in part, so without comparisons."]
