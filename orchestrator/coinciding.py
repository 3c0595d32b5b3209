"""Coinciding: which documents, and which held neurons, two runs have in common.

What two runs share is told from what lies in them, not from their names.

*Documents.* A document is the same in both runs if what was fed of it is the same: token ids
(of masked models those before masking) or pixels, window by window. If that differs, because
another tokenizer, window or resolution cut it, it is the same where it has the same name in the
same source, and of images the same class. A name alone says nothing: `row-7` of two data sets are
two documents. Where the same checkpoint cut the same source alike, a document of the same name
without a window in common is another text, and is not paired.

*How they are used.* If every evaluated document is in both runs, differences are paired over them.
If some are, and these are half of the smaller run's or `FEW_CLUSTERS` at least, both runs are
compared over these alone: a difference over documents that one side never read would be a
difference of documents too. If they are fewer, all documents count; those in both still bring
their covariance (`orchestrator.between`), the others add their variances. If there is none, the
runs are independent.

*Masks.* They are paired where the orders in which units are held are the same, by content, for
every seed that both runs have.

Assumes that a source's files did not change between the runs where only names can tell: a run
folder does not record their digest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from orchestrator.answers import label
from orchestrator.intervals import FEW_CLUSTERS

Way = Literal["paired", "partly", "independent"]

_SOURCE = ("source", "config", "revision", "text", "document", "image", "input", "where")
"""Keys of a data section that say which documents a source has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """The evaluated documents of two runs, and how they are compared."""

    way: Way
    names: tuple[pl.DataFrame, pl.DataFrame]
    """Of either run: document and id, of those that are compared; an id in both is one document."""
    shared: int
    """Documents that both runs have."""
    by_content: int
    """Of these, the ones that were fed alike; the others were cut differently."""
    apart: tuple[int, int]
    """Documents of either run that the other lacks."""
    changed: int
    """Documents of one name whose content differs though both runs cut the source alike."""
    hidden_apart: int
    """Shared documents of masked models of which the runs masked other positions."""

    @property
    def left_out(self) -> tuple[int, int]:
        """Documents of either run that are not compared."""
        return (0, 0) if self.way != "partly" or not self.restricted else self.apart

    @property
    def restricted(self) -> bool:
        """Whether only shared documents are compared."""
        return self.names[0].height == self.shared == self.names[1].height


def documents(
    a: pl.LazyFrame, b: pl.LazyFrame, *, same_source: bool, cut_alike: bool, masked: bool = False
) -> Documents:
    """Return how the evaluated documents of two runs are compared.

    `a` and `b` are the rows of `data` of one model each. `same_source`: both read the same source
    (`same_source`). `cut_alike`: by the same checkpoint, with the same windows.
    """
    left, right = (_contents(rows, masked=masked) for rows in (a, b))
    # The same content under the same name first; then under any, where it is there once.
    pairs = left.join(right, on=["document", "content"]).select("document", other="document")
    rest_a, rest_b = _rest(left, pairs, "document"), _rest(right, pairs, "other")
    once = rest_a.filter(pl.col("content").is_unique()).join(
        rest_b.filter(pl.col("content").is_unique()), on="content", suffix="_b"
    )
    pairs = pl.concat([pairs, once.select("document", other="document_b")])
    by_content = pairs.height
    changed = 0
    if same_source:
        rest_a, rest_b = _rest(left, pairs, "document"), _rest(right, pairs, "other")
        named = rest_a.join(rest_b, on="document", suffix="_b").filter(
            pl.col("classes").eq_missing(pl.col("classes_b"))
        )
        if cut_alike:
            alike = pl.col("windows").list.set_intersection("windows_b").list.len() > 0
            changed = named.filter(~alike).height
            named = named.filter(alike)
        pairs = pl.concat([pairs, named.select("document", other="document")])
    made = _used(left, right, pairs, by_content, changed)
    if not masked:
        return made
    fed = (_contents(rows, masked=False).select("document", "content") for rows in (a, b))
    ours, theirs = fed
    shown = pairs.join(ours, on="document").join(
        theirs, left_on="other", right_on="document", suffix="_b"
    )
    return replace(made, hidden_apart=shown.filter(pl.col("content") != pl.col("content_b")).height)


def _used(
    left: pl.DataFrame, right: pl.DataFrame, pairs: pl.DataFrame, by_content: int, changed: int
) -> Documents:
    shared, apart = pairs.height, (left.height - pairs.height, right.height - pairs.height)
    fewer = min(left.height, right.height)
    way: Way = "paired" if shared and apart == (0, 0) else "partly" if shared else "independent"
    ids = pairs.with_columns(id="= " + pl.col("document"))
    names = (
        ids.select("document", "id"),
        ids.select("id", document="other").select("document", "id"),
    )
    if shared < min(FEW_CLUSTERS, fewer / 2) or not shared:
        own = (
            _rest(left, pairs, "document").select("document", id="A " + pl.col("document")),
            _rest(right, pairs, "other").select("document", id="B " + pl.col("document")),
        )
        names = pl.concat([names[0], own[0]]), pl.concat([names[1], own[1]])
    return Documents(
        way=way,
        names=names,
        shared=shared,
        by_content=by_content,
        apart=apart,
        changed=changed,
        hidden_apart=0,
    )


def _rest(found: pl.DataFrame, pairs: pl.DataFrame, column: str) -> pl.DataFrame:
    return found.join(pairs.select(document=column), on="document", how="anti")


def _contents(data: pl.LazyFrame, *, masked: bool) -> pl.DataFrame:
    """Return document, a hash of what was fed of it, those of its windows, and its classes."""
    there = data.collect_schema().names()
    fed = [pl.col(c) for c in ("input", "image") if c in there]
    rows = data.filter(pl.col("role") == "evaluate")
    target = pl.col("target")
    if masked:  # a masked position was fed something else; its target is what stood there
        whole = (
            rows.select("sequence", "input", "target")
            .explode("input", "target")
            .group_by("sequence", maintain_order=True)
            .agg(input=pl.when(target >= 0).then(target).otherwise("input"))
        )
        rows = rows.drop("input").join(whole, on="sequence")
    pictured = "image" in there
    seen = pl.col("image").is_not_null() if pictured else pl.lit(False)
    classes = pl.when(seen).then(pl.col("target").hash())
    windows = (
        rows.sort("sequence")
        .select("document", window=pl.struct(fed).hash(), classes=classes)
        .group_by("document")
        .agg(windows=pl.col("window"), classes=pl.col("classes").first())
    )
    return windows.with_columns(content=pl.col("windows").hash()).sort("document").collect()


def same_source(a: Mapping[str, object], b: Mapping[str, object]) -> bool:
    """Return whether a name is the same document in two data sections of a sweep file.

    One name may stand in several splits of a source, for other content.
    """
    alike = all(a.get(key) == b.get(key) for key in _SOURCE)
    return bool(a.get("source")) and alike and _split(a) == _split(b)


def _split(section: Mapping[str, object]) -> object:
    """Return the split that is evaluated; None where documents are divided by hash."""
    role = section.get("evaluate")
    return role.get("split") if isinstance(role, Mapping) else None


def orders(selections: pl.LazyFrame, model: str) -> dict[tuple[str, str, str, int | None], int]:
    """Return a hash of the orders in which units are held: by site, unit, selection and seed.

    It is that of every layer's order together. Rules that rank again under ablation are left out.
    """
    rows = (
        selections.filter(pl.col("model") == model, pl.col("cell").is_null())
        .select("site", "unit", "selection", "parameters", "seed", "layer", "order")
        .sort("layer", nulls_last=False)
        .group_by("site", "unit", "selection", "parameters", "seed", maintain_order=True)
        .agg(held=pl.struct("layer", "order").hash())
        .with_columns(held=pl.col("held").hash())
        .collect()
    )
    return {
        (site, unit, label(rule, parameters or "{}"), seed): held
        for site, unit, rule, parameters, seed, held in rows.iter_rows()
    }


def same_masks(
    a: Mapping[tuple[str, str, str, int | None], int],
    b: Mapping[tuple[str, str, str, int | None], int],
    *,
    site: str,
    unit: str,
    selection: str,
    seeds: set[int | None],
) -> bool:
    """Return whether these seeds hold the same units, in the same order, in both runs.

    `site` may be several, joined by `+`. What lies in neither folder is not the same.
    """
    parts = {site, *site.split("+")}
    for seed in seeds:
        found = [
            {s: held for (s, u, r, d), held in x.items() if s in parts and (u, r, d) == key}
            for x in (a, b)
            for key in [(unit, selection, seed)]
        ]
        if not found[0] or found[0] != found[1]:
            return False
    return bool(seeds)
