"""Extents: what was answered on different documents is compared on those that all have read."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy.stats import t as student

from orchestrator import aggregate
from orchestrator.answers import answers, nominal
from orchestrator.comparisons import Sample
from orchestrator.extents import Integers, counted, extents, layers, measure, worth
from orchestrator.intervals import Floats
from tests.orchestrator.answered import OPTIMAL, cells, results, stopped

CE = pl.col("metric") == "ce"
HALF = pl.col("fraction") == 0.5
AREA = pl.col("fraction").is_null()
ROUNDS = 4
EXTENTS = {"baseline": 4, "0.1-0": 2, "0.1-1": 1, "0.1-2": 4, "0.5-0": 3, "0.5-1": 4, "0.5-2": 2}


def mixed() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Three masks that stopped after different rounds, and one method that went on at one of them.

    Where everything is held all stopped after three of four rounds.
    """
    points = cells(3, 2, models=("zoo:opt",))
    rows = results(points, documents=23, rounds=ROUNDS)

    def after(cell: str) -> int:
        if cell == "zoo:opt-resample-1-0.5-0":
            return 1
        if cell == "zoo:opt-mean-None-0.5-2":
            return 4
        return next((k for name, k in EXTENTS.items() if cell.endswith(name)), 3)

    return points, stopped(rows, after)


def every_table(points: pl.DataFrame, rows: pl.DataFrame) -> list[pl.DataFrame]:
    lazy = points.lazy(), rows.lazy()
    declared = [("peak", "mean"), ("mean", "resample")]
    return [
        aggregate.summary(*lazy, None),
        aggregate.contrasts(*lazy, declared, metrics=["top1", "ce", "perplexity"]),
        aggregate.curves(*lazy),
        aggregate.areas(*lazy),
    ]


class Plain:
    """Loss over tokens of cells on documents, in numpy and without any of the orchestrator."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self.names = sorted(set(rows["document"]))
        self.rounds = dict(rows.select("document", "round").rows())
        self.sums: dict[tuple[str, str], Floats] = {}
        for cell, document, loss, tokens in rows.select(
            "cell", "document", "loss", "tokens"
        ).iter_rows():
            self.sums.setdefault((cell, document), np.zeros(2))
            self.sums[cell, document] += (loss, tokens)

    def read(self, cell: str) -> set[str]:
        return {d for c, d in self.sums if c == cell}

    def linear(self, cell: str, documents: set[str]) -> tuple[float, Floats]:
        """A cell's CE on some documents, and the share of each document in its error."""
        loss, tokens = sum(self.sums[cell, d] for d in documents)
        ratio = loss / tokens
        residuals = np.zeros(len(self.names))
        for i, d in enumerate(self.names):
            if d in documents:
                residuals[i] = (self.sums[cell, d] @ (1, -ratio)) / tokens
        return ratio, residuals

    def difference(self, a: Sequence[str], b: Sequence[str]) -> tuple[float, Floats, set[str]]:
        """The mean of some cells less that of others, on what all of them read."""
        documents = set.intersection(*(self.read(cell) for cell in (*a, *b)))
        ratio, residuals = 0.0, np.zeros(len(self.names))
        for sign, some in ((1, a), (-1, b)):
            for cell in some:
                level, linear = self.linear(cell, documents)
                ratio += sign * level / len(some)
                residuals += sign * linear / len(some)
        return ratio, residuals, documents


def interval(value_M: Floats, residuals_MG: Floats, read_M: Sequence[set[str]]) -> Floats:
    """Estimate, low and high of a mean over masks that read these documents, as documented."""
    masks = len(value_M)
    names = sorted(set.union(*read_M))
    times = {d: sum(d in read for read in read_M) for d in names}
    squares = np.square(residuals_MG.mean(axis=0))[residuals_MG.any(axis=0)]
    by_layer: dict[int, list[float]] = {}
    for document, square in zip(names, squares, strict=True):
        by_layer.setdefault(times[document], []).append(square)
    terms = [sum(layer) ** 2 / len(layer) for layer in by_layer.values()]
    n = max(squares.sum() ** 2 / sum(terms), len(by_layer[masks]))
    d = n / (n - 1) * squares.sum()
    estimate, variance, degrees = value_M.mean(), d, n - 1
    if masks > 1:
        m = value_M.var(ddof=1) / masks
        beyond = np.square(residuals_MG - residuals_MG.mean(axis=0)).sum()
        i = n / (n - 1) * beyond / (masks * (masks - 1))
        variance = max(d + m - i, d, m)
        degrees = variance**2 / (d**2 / (n - 1) + m**2 / (masks - 1))
    half = student.ppf(0.975, degrees) * variance**0.5
    return np.array([estimate, estimate - half, estimate + half])


def numbers(frame: pl.DataFrame, value: str = "estimate") -> Floats:
    return frame.select(value, "low", "high").to_numpy()[0]


def test_the_extent_is_the_number_of_whole_rounds_before_the_first_gap() -> None:
    numbers = {0: [2, 2, 1], 1: [2, 2], 2: [2, 0, 1], 3: [1, 2, 1], 4: [2, 2, 1]}
    pairs = [(c, r) for c, n in numbers.items() for r, times in enumerate(n) for _ in range(times)]
    cell_R, round_R = np.array(pairs).T
    assert extents(counted(cell_R, round_R)).tolist() == [3, 2, 1, 0, 3]


def test_a_summary_has_levels_of_all_that_a_cell_read_and_changes_of_what_both_did() -> None:
    points, rows = mixed()
    # Interrupted: the unablated model is behind some of the others.
    rows = rows.filter((pl.col("cell") != "zoo:opt-baseline") | (pl.col("round") < 3))
    plain = Plain(rows)
    made = aggregate.summary(points.lazy(), rows.lazy(), None)
    for row in made.iter_rows(named=True):
        read = plain.read(row["cell"])
        level, residuals = plain.linear(row["cell"], read)
        se = (len(read) / (len(read) - 1) * np.square(residuals).sum()) ** 0.5
        assert (row["documents"], row["ce"]) == (len(read), pytest.approx(level))
        assert row["ce_se"] == pytest.approx(se)
        value, residuals, both = plain.difference([row["cell"]], ["zoo:opt-baseline"])
        expected = [value, *[value] * 2]
        if row["fraction"]:
            expected = interval(np.array([value]), residuals[None], [both]).tolist()
        assert [row["d_ce"], row["d_ce_low"], row["d_ce_high"]] == pytest.approx(expected)
    bare = made.filter(pl.col("fraction") == 0)
    assert set(bare.select("d_ce", "d_ce_low", "d_ce_high").rows()) == {(0.0, 0.0, 0.0)}


def test_methods_are_compared_mask_by_mask_on_the_documents_that_all_their_draws_read() -> None:
    points, rows = mixed()
    plain = Plain(rows)
    made = aggregate.contrasts(points.lazy(), rows.lazy(), [("mean", "resample")])
    masks = [
        plain.difference(
            [f"zoo:opt-mean-None-0.5-{mask}"],
            [f"zoo:opt-resample-{donor}-0.5-{mask}" for donor in range(2)],
        )
        for mask in range(3)
    ]
    read_M = [read for *_, read in masks]
    assert [len(read) for read in read_M] == [6, 23, 12]
    value_M, residuals_MG = (np.array([m[i] for m in masks]) for i in (0, 1))
    row = made.filter("declared", HALF, CE)
    assert numbers(row) == pytest.approx(interval(value_M, residuals_MG, read_M))
    assert row.select("documents", "masks").row(0) == (6, 3)


def test_an_area_is_made_of_differences_each_on_its_own_documents() -> None:
    points, rows = mixed()
    plain = Plain(rows)
    weights = {"0.1": 0.25, "0.5": 0.45}

    def of(mask: int) -> tuple[float, Floats]:
        parts = [
            (w, *plain.difference(*([f"zoo:opt-{m}-None-{f}-{mask}"] for m in ("peak", "mean"))))
            for f, w in weights.items()
        ]
        ends = [f"zoo:opt-{m}-None-all" for m in ("peak", "mean")]
        parts.append((0.25, *plain.difference([ends[0]], [ends[1]])))
        return sum(w * v for w, v, *_ in parts), sum(w * r for w, _, r, _ in parts)

    made = aggregate.contrasts(points.lazy(), rows.lazy(), [("peak", "mean")])
    row = made.filter("declared", AREA, CE).row(0, named=True)
    value_M, residuals_MG = (np.array(x) for x in zip(*map(of, range(3)), strict=True))
    assert row["estimate"] == pytest.approx(value_M.mean())
    assert (row["documents"], row["masks"]) == (6, 3)
    # The layers are those of the extents 1, 2, 3 and 4 that occur.
    layer_G = np.array([plain.rounds[d] for d in plain.names])
    half = float(
        Sample(value_M=value_M, residuals_MG=residuals_MG, layer_G=layer_G).mean.half_width
    )
    assert row["high"] - row["low"] == pytest.approx(2 * half)


def test_a_curve_of_changes_is_on_the_documents_that_the_unablated_model_read_too() -> None:
    points, rows = mixed()
    rows = rows.filter((pl.col("cell") != "zoo:opt-baseline") | (pl.col("round") < 3))
    plain = Plain(rows)
    curved = aggregate.curves(points.lazy(), rows.lazy()).filter(
        pl.col("band") == "pointwise", method="mean", held_share=0.5
    )
    names = [f"zoo:opt-mean-None-0.5-{mask}" for mask in range(3)]
    changes = [plain.difference([cell], ["zoo:opt-baseline"]) for cell in names]
    whole = [(*plain.linear(cell, plain.read(cell)), plain.read(cell)) for cell in names]
    for metric, parts in (("d_ce", changes), ("ce", whole)):
        value_M, residuals_MG = (np.array([p[i] for p in parts]) for i in (0, 1))
        expected = interval(value_M, residuals_MG, [read for *_, read in parts])
        assert numbers(curved.filter(metric=metric), "mean") == pytest.approx(expected)


def test_bands_of_whole_curves_are_those_of_the_documents_that_were_taken() -> None:
    points = cells(7, models=("zoo:opt",))
    rows = results(points, documents=16, rounds=ROUNDS)
    here, there = (
        aggregate.curves(points.lazy(), some.lazy()).filter(metric="d_ce", band="simultaneous")
        for some in (
            stopped(rows, lambda cell: ROUNDS if "baseline" in cell else 1),
            stopped(rows, lambda cell: 1),
        )
    )
    assert_frame_equal(here, there, rel_tol=1e-9, abs_tol=1e-12)


def test_a_share_of_a_gap_is_on_the_documents_of_all_three_methods() -> None:
    points = cells(2, models=("zoo:opt",), swept=OPTIMAL)
    rows = results(points, documents=20, rounds=ROUNDS)
    cost = pl.col("cell").replace_strict(
        {c: 10.0 * ("zero" in c) - 10.0 * ("optimal" in c) for c in rows["cell"].unique()}
    )
    rows = rows.with_columns(loss=pl.col("loss") + cost * pl.col("tokens"))
    made = [
        aggregate.contrasts(points.lazy(), some.lazy(), []).filter(
            HALF, pl.col("metric") == "gap_closed", a="peak", b="zero"
        )
        for some in (
            stopped(rows, lambda cell: 2 if "optimal" in cell else 4),
            stopped(rows, lambda cell: 2),
        )
    ]
    assert made[0]["estimate"].null_count() == 0
    assert_frame_equal(made[0], made[1])
    assert made[0]["documents"].item() == 10


@settings(max_examples=6, deadline=None)
@given(st.integers(1, ROUNDS - 1), st.integers(0, 50))
def test_dropping_rounds_is_the_same_as_never_having_read_them(rounds: int, seed: int) -> None:
    points = cells(2, models=("zoo:opt",))
    rows = results(points, documents=13, seed=seed, rounds=ROUNDS)
    less = stopped(rows, lambda cell: rounds)
    # The unablated model, or one mask more, has read everything.
    for further in ("baseline", "peak-None-0.1-1"):
        here = stopped(rows, lambda cell, on=further: ROUNDS if cell.endswith(on) else rounds)
        for some, whole in zip(every_table(points, here), every_table(points, less), strict=True):
            assert some.schema == whole.schema
            kept = []
            for frame in (some, whole):
                if "d_ce" in frame:
                    kept.append(frame.select(c for c in frame.columns if c.startswith("d_")))
                elif "a" in frame:
                    kept.append(frame)
                else:
                    kept.append(frame.filter(pl.col("metric").str.starts_with("d_")))
            if further == "baseline" or "a" in some:
                assert_frame_equal(*kept, rel_tol=1e-9, abs_tol=1e-12)


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_each_row_is_that_of_a_sweep_that_read_no_more_than_its_own_cells(
    data: st.DataObject,
) -> None:
    points = cells(2, models=("zoo:opt",))
    rows = results(points, documents=13, rounds=ROUNDS)
    names = sorted(set(rows["cell"]))
    after = {c: data.draw(st.integers(0, ROUNDS), label=c) for c in names}
    after["zoo:opt-baseline"] = ROUNDS
    made = aggregate.summary(points.lazy(), stopped(rows, after.__getitem__).lazy(), None)
    whole = {
        k: aggregate.summary(points.lazy(), stopped(rows, lambda _, k=k: k).lazy(), None)
        for k in range(1, ROUNDS + 1)
    }
    assert set(made["cell"]) == {c for c in names if after[c]}
    for cell in set(made["cell"]):
        here, there = (f.filter(pl.col("cell") == cell) for f in (made, whole[after[cell]]))
        assert_frame_equal(here, there, rel_tol=1e-9, abs_tol=1e-12)


def test_neither_the_order_of_rows_nor_of_parts_changes_a_bit() -> None:
    points, rows = mixed()
    tables = every_table(points, rows)
    parts = [rows.filter(pl.col("round") == r) for r in range(ROUNDS)]
    again = pl.concat([parts[2], parts[0], parts[3], parts[1], parts[0]])
    for other in (rows[np.random.default_rng(0).permutation(rows.height)], again):
        for here, there in zip(every_table(points, other), tables, strict=True):
            assert_frame_equal(here, there, check_exact=True)


def test_where_all_have_read_everything_rounds_change_no_bit_and_no_sums_are_kept() -> None:
    points = cells(3, 2, models=("zoo:opt",))
    rows = results(points, documents=17, rounds=ROUNDS)
    tables = every_table(points, rows)
    older = [
        rows.drop("round"),
        rows.with_columns(round=None),
        rows.with_columns(round=pl.lit(0, pl.Int32)),
    ]
    for other in older:
        for here, there in zip(every_table(points, other), tables, strict=True):
            assert_frame_equal(here, there, check_exact=True)
    for whole, some in ((True, rows), (False, mixed()[1])):
        (found,) = answers(nominal(points.lazy()), some.lazy())
        assert all((m.sums is None) == whole for m in found.measures.values())


def test_a_cell_stands_where_its_whole_rounds_end_and_keeps_its_level_of_all() -> None:
    points = cells(2, models=("zoo:opt",))
    rows = results(points, documents=12, rounds=ROUNDS)
    cell = "zoo:opt-peak-None-0.5-1"
    # Of its third round a part is there, of another cell's first round nothing but a part.
    third = rows.filter(pl.col("round") == 2)["sequence"].min()
    first = rows.filter(pl.col("round") == 0)["sequence"].min()
    mine, other = pl.col("cell") == cell, pl.col("cell") == "zoo:opt-mean-None-0.5-0"
    some = rows.filter(
        ~mine | (pl.col("round") < 2) | ((pl.col("round") == 2) & (pl.col("sequence") > third)),
        ~other | (pl.col("sequence") != first),
    )
    made = aggregate.summary(points.lazy(), some.lazy(), None)
    two = aggregate.summary(points.lazy(), rows.filter(pl.col("round") < 2).lazy(), None)
    changes = [c for c in made.columns if c.startswith("d_")]
    assert_frame_equal(made.filter(mine).select(changes), two.filter(mine).select(changes))
    assert made.filter(mine)["tokens"].item() > two.filter(mine)["tokens"].item()
    assert made.filter(other)["ce"].null_count() == 0
    assert made.filter(other)["d_ce"].null_count() == 1
    contrasted = aggregate.contrasts(points.lazy(), some.lazy(), [("peak", "mean")])
    half = contrasted.filter("declared", HALF, CE)
    assert half.select("documents", "masks").row(0) == (6, 1)


def test_a_document_in_two_rounds_is_refused() -> None:
    points = cells(1, models=("zoo:opt",))
    rows = results(points, rounds=2)
    moved = (pl.col("cell") == "zoo:opt-baseline") & (pl.col("document") == "doc3")
    rows = rows.with_columns(round=pl.when(moved).then(1 - pl.col("round")).otherwise("round"))
    with pytest.raises(aggregate.DifferingRoundsError, match="1 documents of zoo:opt on d are in"):
        aggregate.summary(points.lazy(), rows.lazy(), None)


def test_a_level_does_not_depend_on_which_cells_are_asked_for_beside_it() -> None:
    rng = np.random.default_rng(0)
    over, under = rng.gamma(2, 5, (9, 500)), rng.integers(1, 9, (9, 500)).astype(float)
    made = measure(over, under, rng.integers(0, 5, 500), alike=False, exponential=True)
    rows_XY = np.array([[0, 8, 3], [3, 3, 1]])
    level_XY, residuals_XYG = made.at(rows_XY, np.array([[3], [2]]))
    for x, y in np.ndindex(2, 3):
        level, residuals_G = made.at(rows_XY[x, y : y + 1], np.array([3, 2])[x : x + 1])
        assert level == level_XY[x, y]
        assert (residuals_G == residuals_XYG[x, y]).all()
    assert made.documents(np.array([0, 5])).tolist() == [0, 500]


def test_documents_that_tell_alike_are_worth_their_number() -> None:
    residuals_G = np.random.default_rng(0).standard_normal(50)
    assert worth(residuals_G, np.zeros(50, np.int64)) == 50.0
    layer_G = layers(np.repeat(np.arange(5), 10), np.array([[1, 3], [3, 5]]))
    assert layer_G.tolist() == [0] * 10 + [1] * 20 + [2] * 20
    assert worth(np.ones(50), layer_G) == pytest.approx(50)
    # Where the first layer is all that varies, the others add nothing.
    assert worth(np.where(layer_G == 0, 1.0, 0.0), layer_G) == pytest.approx(10)
    assert worth(np.where(layer_G == 0, 1.0, 0.1), layer_G) == pytest.approx(10, abs=1)
    assert worth(np.zeros(50), layer_G) == worth(np.full(50, np.nan), layer_G) == 10


def covered(
    read: Sequence[int], scales: Sequence[float], *, masks: int = 1, of_any: bool = False
) -> float:
    """How often the interval of a mean of points that read so many documents covers its truth."""
    rng = np.random.default_rng(3)
    repetitions, most, points = 1200, max(read), len(read)
    shared = rng.standard_normal((repetitions, 1, 1, most))
    own = rng.standard_normal((repetitions, masks, points, most))
    x = (0.7**0.5 * shared + 0.3**0.5 * own) * np.array(scales)[:, None]
    read_P = np.array(read)
    seen_PG = np.arange(most) < read_P[:, None]
    value = (x * seen_PG).sum(axis=-1) / read_P
    residuals = np.where(seen_PG, (x - value[..., None]) / read_P[:, None], 0).mean(axis=2)
    layer_G: Integers = layers(np.arange(most), read_P)
    hits = 0
    for value_MP, residuals_MG in zip(value, residuals, strict=True):
        sample = Sample(
            value_M=value_MP.mean(axis=-1),
            residuals_MG=residuals_MG,
            layer_G=np.zeros_like(layer_G) if of_any else layer_G,
        )
        hits += bool(sample.mean.low <= 0 <= sample.mean.high)
    return hits / repetitions


@pytest.mark.parametrize(
    ("read", "scales", "masks"),
    [
        ((8, 20, 40, 80), (1, 1, 1, 1), 1),
        ((8, 20, 40, 80), (0.1, 0.3, 0.6, 1), 5),
        ((3, 60, 60, 60), (0.05, 1, 1, 1), 1),
        ((6, 80, 80, 80), (1, 0.2, 0.2, 0.2), 1),
        ((5, 6, 7, 8), (1, 1, 1, 1), 1),
    ],
)
def test_intervals_cover_whatever_the_parts_have_read(
    read: Sequence[int], scales: Sequence[float], masks: int
) -> None:
    assert 0.93 <= covered(read, scales, masks=masks) <= 0.975


def test_with_all_documents_for_their_number_intervals_would_cover_too_little() -> None:
    assert covered((6, 80, 80, 80), (1, 0.2, 0.2, 0.2), of_any=True) < 0.91
