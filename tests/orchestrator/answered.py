"""Nominal points of a small sweep and random answers to them, without a sweep."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from orchestrator.answers import RESULTS

FRACTIONS = (0.0, 0.1, 0.5, 1.0)
UNITS = 20
MODALITY = {"zoo:opt": "causal", "zoo:vit": "image", "zoo:roberta": "masked"}
MODELS = ("zoo:opt", "zoo:vit")
SWEPT = (("peak", '{"estimator":"smooth"}'), ("mean", "{}"), ("resample", '{"source":"dataset"}'))
DEFAULTS = ("own", "attn_pre_out", "random")
OPTIMAL = tuple((name, "{}") for name in ("zero", "mean", "peak", "optimal"))


def cells(
    masks: int = 3,
    donors: int = 1,
    models: Sequence[str] = MODELS,
    *,
    swept: Sequence[tuple[str, str]] = SWEPT,
    bases: Sequence[str] = ("own",),
    selections: Sequence[str] = ("random",),
    sites: Sequence[str] = ("attn_pre_out",),
    fractions: Sequence[float] = FRACTIONS,
    complement: bool = False,
) -> pl.DataFrame:
    """Return points that share cells as a plan would: fraction 0, and what holds the same."""
    rows = []
    for model in models:
        for basis, site, selection in ((b, s, r) for b in bases for s in sites for r in selections):
            random = selection.startswith("random")
            for method, parameters in swept:
                for fraction in fractions:
                    held = round(fraction * UNITS)
                    held = UNITS - held if complement and fraction else held
                    for seed in range(masks) if random else [None]:
                        for donor in range(donors) if method == "resample" else [None]:
                            which = "all" if held == UNITS else f"{fraction}-{seed}"
                            rest = [x for x in (basis, site, selection) if x not in DEFAULTS]
                            name = [model, method, str(donor), which, *rest]
                            if held == 0:
                                name = [model, "baseline", *([] if basis == "own" else [basis])]
                            rows.append(
                                {
                                    "model": model,
                                    "modality": MODALITY[model],
                                    "data": "d",
                                    "dtype": "float32",
                                    "basis": basis,
                                    "site": site,
                                    "unit": "neuron",
                                    "layers": "all",
                                    "complement": complement,
                                    "method": method,
                                    "parameters": parameters,
                                    "selection": selection,
                                    "fraction": fraction,
                                    "seed": seed,
                                    "donor_seed": donor,
                                    "noise_seed": None,
                                    "masking_seed": None,
                                    "units_held": held,
                                    "units_total": UNITS,
                                    "cell": "-".join(name),
                                }
                            )
    return pl.DataFrame(
        rows, schema_overrides={"seed": pl.Int64, "donor_seed": pl.Int64}, infer_schema_length=None
    )


def holding(points: pl.DataFrame, selection: str, units: Mapping[float, int]) -> pl.DataFrame:
    """Say how many units a rule holds at some fractions, as of a file that lists a few."""
    held = pl.col("fraction").replace_strict(units, default=pl.col("units_held"))
    here = pl.col("selection") == selection
    return points.with_columns(units_held=pl.when(here).then(held).otherwise("units_held"))


def results(
    points: pl.DataFrame, documents: int = 6, seed: int = 0, rounds: int = 1
) -> pl.DataFrame:
    """Return random answers: one to three sequences a document, the same positions for all.

    Documents are visited in an order that is not that of their names.
    """
    visited = np.random.default_rng(7).permutation(documents)
    round_of = {f"doc{d}": i * rounds // documents for i, d in enumerate(visited)}
    shapes = np.random.default_rng(99)
    windows = [
        (f"doc{document}", tokens)
        for document in range(documents)
        for tokens in shapes.integers(3, 30, shapes.integers(1, 4)).tolist()
    ]
    rng = np.random.default_rng(seed)
    rows = []
    for cell, modality in points.select("cell", "modality").unique().sort("cell").iter_rows():
        for sequence, (document, tokens) in enumerate(windows):
            text, masked = modality != "image", modality == "masked"
            row = {
                "cell": cell,
                "document": document,
                "sequence": sequence,
                "round": round_of[document],
                "tokens": tokens,
                "top1": int(rng.integers(0, tokens + 1)),
                "top10": tokens,
                "loss": float(rng.gamma(2.0, tokens)),
                "kl": None,
                "tokens_rare": tokens - 1 if text else None,
                "top1_rare": int(rng.integers(0, tokens)) if text else None,
                "tokens_mask": tokens - 2 if masked else None,
                "top1_mask": int(rng.integers(0, tokens - 1)) if masked else None,
                "loss_mask": float(rng.gamma(2.0, tokens - 2)) if masked else None,
                "nan": 0,
            }
            rows.append(row)
    return pl.DataFrame(rows, schema=RESULTS)


def shifted(rows: pl.DataFrame, by: Callable[[str], float]) -> pl.DataFrame:
    """Add nats per token to every cell: a difference between cells that all documents share."""
    shift = pl.Series([by(c) for c in rows["cell"]], dtype=pl.Float64)
    return rows.with_columns(loss=pl.col("loss") + shift * pl.col("tokens"))


def stopped(rows: pl.DataFrame, after: Callable[[str], int]) -> pl.DataFrame:
    """Keep of every cell the first so many rounds."""
    extent = pl.Series([after(c) for c in rows["cell"]], dtype=pl.Int64)
    return rows.filter(pl.col("round") < extent)
