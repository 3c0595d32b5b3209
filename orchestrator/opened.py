"""Opened: a finished or running sweep in a notebook, one line to an answer.

    run = results.open("runs/embedded")     a folder of this machine, or s3://…
    run.summary                             every table, as a lazy Polars frame
    run.curve("peak", "mean")               the curves of some methods, with their bands
    run.compare("peak", "mean")             one method against another, with its interval
    run.neurons(layer=3)                    what was counted of every neuron
    run.heads()                             the same by heads, with their scores

Opening reads nothing and writes nothing, and needs neither the models nor torch. A run that
is going on may be opened too: open it again to see what has been answered meanwhile.

The functions choose rows and columns of tables that are there; they compute no statistics of their
own, so a number here is the number of the report. Rows of all models, sites and selections stand
below each other with the columns that tell them apart: filter before drawing.

Weak where many comparisons are looked at: of what the sweep file did not declare the intervals are
of one comparison each (`declared` is false), and some exclude zero by chance.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from orchestrator.aggregate import method_label
from orchestrator.frames import Frames, asked, frames
from orchestrator.gap import METRIC as GAP
from orchestrator.groups import GROUP
from orchestrator.mistakes import nearest
from orchestrator.store import Store, StoreError

_HISTOGRAM = ("counts", "bin_width", "bin_start")
_BARE = pl.col("cell").is_null() & (pl.col("stratum") == "all")
_HEAD = ["model", "data", "dtype", "basis", "site", "layer", "head"]


class NotInRunError(ValueError):
    """What was asked for by name is not in the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run folder, to be asked."""

    store: Store
    tables: Frames
    """Every table by name; the properties below are these."""

    @property
    def plan(self) -> pl.LazyFrame:
        """Every task and every cell."""
        return self.tables["plan"]

    @property
    def cells(self) -> pl.LazyFrame:
        """The points of the sweep, each with the name of the cell that answers it."""
        return self.tables["cells"]

    @property
    def data(self) -> pl.LazyFrame:
        """What models were fed: token ids or pixels, and targets."""
        return self.tables["data"]

    @property
    def donors(self) -> pl.LazyFrame:
        """Whose activations each sequence was given."""
        return self.tables["donors"]

    @property
    def selections(self) -> pl.LazyFrame:
        """Which units are held first, second, …, and what they were ranked by."""
        return self.tables["selections"]

    @property
    def statistics(self) -> pl.LazyFrame:
        """What was counted of every neuron, with its histogram."""
        return self.tables["statistics"]

    @property
    def centres(self) -> pl.LazyFrame:
        """What neurons are held at, in the units of the activations."""
        return self.tables["centres"]

    @property
    def results(self) -> pl.LazyFrame:
        """The answers: sums over the scored positions of each sequence, by cell."""
        return self.tables["results"]

    @property
    def executions(self) -> pl.LazyFrame:
        """Who computed each cell, with what, and how long it took."""
        return self.tables["executions"]

    @property
    def summary(self) -> pl.LazyFrame:
        """A row per point: levels, and changes to the unablated model with intervals."""
        return self.tables["summary"]

    @property
    def contrasts(self) -> pl.LazyFrame:
        """Methods, selections and bases against each other, with intervals."""
        return self.tables["contrasts"]

    @property
    def curves(self) -> pl.LazyFrame:
        """Levels at growing shares of held units, with bands."""
        return self.tables["curves"]

    @property
    def areas(self) -> pl.LazyFrame:
        """The mean level under each curve."""
        return self.tables["areas"]

    @property
    def deletions(self) -> pl.LazyFrame:
        """How many neurons each point held in each layer."""
        return self.tables["deletions"]

    @property
    def stops(self) -> pl.LazyFrame:
        """Where a sweep with `precision` stopped reading."""
        return self.tables["stops"]

    def curve(
        self,
        *methods: str,
        metric: str = "ce",
        band: Literal["pointwise", "simultaneous"] = "pointwise",
        model: str | None = None,
    ) -> pl.DataFrame:
        """Return the curves of some methods, by `held_share` (0 to 1); of all, if none is named.

        Methods are named as a sweep file does: `peak`, `peak(paper)`. Columns: what tells groups of
        curves apart, label, held_share, mean, low, high, sd_masks, masks; `mean` is in nats
        for `ce`, a share for `top1`. The band covers documents and masks (`orchestrator.bands`).
        Raises NotInRunError for a name that the run does not have.
        """
        rows = method_label(self._of(model, self.curves).collect())
        _known("metric", [metric], rows["metric"])
        _known("band", [band], rows["band"])
        _known("method", methods, rows["label"])
        rows = rows.filter(pl.col("metric") == metric, pl.col("band") == band)
        if methods:
            rows = rows.filter(pl.col("label").is_in(methods))
        columns = (*GROUP, "label", "held_share", "mean", "low", "high", "sd_masks", "masks")
        return rows.select(columns).sort(*GROUP, "label", "held_share")

    def compare(
        self, a: str, b: str, *, metric: str = "ce", model: str | None = None
    ) -> pl.DataFrame:
        """Return a − b: over all fractions first (`fraction` null), then at each of them.

        `a` and `b` are two methods, or two selections or bases, as the column says that they stand
        in. Pairs stand in `contrasts` one way round; the other way the signs change. Only the
        metric `gap_closed`, a share of the way from `b`, has no other way round. Columns are
        those of `contrasts`: estimate with low and high, p, p_adjusted where the sweep file
        declared the pair, documents and masks that the interval is over, and `reason` where it
        could not be compared. Raises NotInRunError for a pair that the run does not have.
        """
        rows = self._of(model, self.contrasts).collect()
        _known("metric", [metric], rows["metric"])
        rows = rows.filter(pl.col("metric") == metric)
        _known("method, selection or basis", [a, b], pl.concat([rows["a"], rows["b"]]))
        there = rows.filter(pl.col("a") == b, pl.col("b") == a, pl.col("metric") != GAP)
        turned = there.with_columns(
            a=pl.col("b"),
            b=pl.col("a"),
            estimate=-pl.col("estimate"),
            low=-pl.col("high"),
            high=-pl.col("low"),
        )
        found = pl.concat([rows.filter(pl.col("a") == a, pl.col("b") == b), turned])
        if found.is_empty():
            pairs = rows.select("a", "b").unique().sort("a", "b").iter_rows()
            told = ", ".join(f"{x} with {y}" for x, y in pairs)
            raise NotInRunError(
                f"{a!r} and {b!r} are not compared in {self.store.uri}; compared are {told}."
                " Methods are compared where they hold the same units, selections where they hold"
                " them at the same values."
            )
        return found.sort(*GROUP, "method", "fraction", nulls_last=False)

    def neurons(
        self, *, model: str | None = None, layer: int | None = None, head: int | None = None
    ) -> pl.DataFrame:
        """Return the statistics of every neuron of the unablated model, without its histogram.

        Beside the columns of `statistics`: `modes`, how many peaks its density has, and
        `gap`, |mean − peak| in standard deviations (null where it is constant): where that is
        large, holding a neuron at its mean and at its peak differ. Raises NotInRunError.
        """
        rows = self._of(model, self.statistics).filter(_BARE)
        for column, wanted in (("layer", layer), ("head", head)):
            rows = rows if wanted is None else rows.filter(pl.col(column) == wanted)
        apart = (pl.col("mean") - pl.col("peak")).abs() / pl.col("std")
        return (
            rows.drop(_HISTOGRAM)
            .with_columns(
                modes=pl.col("mode_values").list.len(),
                gap=pl.when(pl.col("std") > 0).then(apart),
            )
            .sort("model", "data", "basis", "site", "layer", "neuron")
            .collect()
        )

    def heads(self, *, model: str | None = None) -> pl.DataFrame:
        """Return every head of the unablated model: its neurons, and how it was ranked.

        Columns: neurons, their mean `gap` and its largest (as in `neurons`), `several_modes` (the
        share of neurons with more than one peak), mean `kurtosis`; and for every selection that
        scored heads (`selection`, `seed`) their `score` with its interval, where it has one.
        A head has one row for each of these, and one with nulls if there is none. Raises
        NotInRunError.
        """
        made = (
            self.neurons(model=model)
            .filter(pl.col("head").is_not_null())
            .group_by(_HEAD)
            .agg(
                neurons=pl.len(),
                gap=pl.col("gap").mean(),
                largest_gap=pl.col("gap").max(),
                several_modes=(pl.col("modes") > 1).mean(),
                kurtosis=pl.col("kurtosis").mean(),
            )
        )
        scores = self._scores(model, made)
        keys = ["model", "data", "basis", "site", "layer", "head"]
        return made.join(scores, on=keys, how="left").sort(*_HEAD, "selection", "seed")

    def _scores(self, model: str | None, heads: pl.DataFrame) -> pl.DataFrame:
        """Return what selections scored heads by, a row per head."""
        ranked = self._of(model, self.selections).filter(
            pl.col("unit") == "head", pl.col("score").is_not_null(), pl.col("cell").is_null()
        )
        # Rules without intervals have null, which cannot be exploded beside a list.
        ends = {
            name: pl.coalesce(name, pl.lit(None, pl.Float64).repeat_by(pl.col("order").list.len()))
            for name in ("score_low", "score_high")
        }
        each = ranked.with_columns(**ends).explode("order", "score", "score_low", "score_high")
        many = heads.group_by("model", "site").agg(per_layer=pl.col("head").max() + 1)
        unit = pl.col("order").cast(pl.Int64)
        # Selections name the data that is evaluated, statistics what they were counted of.
        counted = asked(self.store).get("statistics", {}).get("data")
        bases = heads.select("model", of="basis").unique()
        return (
            each.join(many.lazy(), on=["model", "site"])
            .join(bases.lazy(), on="model")
            # A score of one basis says nothing of others' axes; one that looks at none is of all.
            .filter(pl.col("basis").is_null() | (pl.col("basis") == pl.col("of")))
            .with_columns(
                basis="of",
                data=pl.col("data") if counted is None else pl.lit(counted),
                head=unit % pl.col("per_layer"),
                layer=pl.coalesce("layer", unit // pl.col("per_layer")),
            )
            .select(
                *("model", "data", "basis", "site", "layer", "head", "selection", "seed"),
                *("score", "score_low", "score_high"),
            )
            .collect()
        )

    def _of(self, model: str | None, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Return the rows of a model; all, if none is named."""
        if model is None:
            return rows
        _known("model", [model], self.cells.select("model").collect()["model"])
        return rows.filter(pl.col("model") == model)


def _known(what: str, asked: Collection[str], column: pl.Series) -> None:
    """Raise NotInRunError for a name that stands nowhere in a column."""
    known = column.drop_nulls().unique().sort().to_list()
    for name in asked:
        if name not in known:
            near = nearest(name, known) if known else ": nothing is answered yet."
            there = f" There are {', '.join(known)}." if known else ""
            raise NotInRunError(f"The run has no {what} {name!r}{near}{there}")


def open(where: str | Path | Store) -> Run:
    """Return the run in a folder, or at a URI that fsspec knows; nothing is read yet.

    Raises StoreError where there is no run.
    """
    store = Store.of(where)
    if not store.exists("plan.parquet"):
        raise StoreError(
            f"{store.uri} holds no run (no plan.parquet); give a folder made by `peaksweep run` or"
            " `peaksweep collect`"
        )
    return Run(store=store, tables=frames(store))
