"""Tables: the columns of every Parquet file in a run folder.

These schemas are the public face of a run: people query them with Polars,
DuckDB or pandas without any code of ours, so a column keeps its name, type and
unit. Counts are int64, sums and statistics float64, losses are in nats, shares
between 0 and 1, widths and centres in the units of the activations.
"""

from collections.abc import Sequence

import pyarrow as pa

_text = pa.string()
_int = pa.int64()
_float = pa.float64()
_ints = pa.list_(pa.int32())
_floats = pa.list_(pa.float64())

_CELL = [
    ("model", _text),
    ("modality", _text),
    ("data", _text),
    ("dtype", _text),
    ("basis", _text),  # own | rotated <seed>
    ("site", _text),  # two of them joined by + where they are held together
    ("unit", _text),
    ("layers", _text),  # all, or numbers joined by commas
    ("complement", pa.bool_()),  # whether all but the chosen are held
    ("method", _text),
    ("parameters", _text),  # canonical JSON
    ("selection", _text),  # label: the rule with its parameters
    ("fraction", _float),
    ("seed", _int),
    ("donor_seed", _int),
    ("noise_seed", _int),
    ("masking_seed", _int),
    ("units_held", _int),
    ("units_total", _int),
    ("cell", _text),
]

SCHEMAS: dict[str, pa.Schema] = {
    "plan": pa.schema(
        [
            ("name", _text),
            ("stage", _text),
            ("kind", _text),
            ("label", _text),
            ("model", _text),
            ("file", _text),
            ("rounds", _int),  # in which a cell can be read; null for tasks
        ]
    ),
    "text": pa.schema(
        [
            ("model", _text),
            ("data", _text),
            ("role", _text),  # collect | evaluate
            ("document", _text),
            ("sequence", _int),
            ("bytes", _int),  # UTF-8 bytes of the window's text
            ("input", _ints),
            ("target", _ints),  # -100 where not scored
            ("kind", pa.list_(_text)),  # per scored position, masked models alone
        ]
    ),
    "pairs": pa.schema(
        [
            ("model", _text),
            ("data", _text),
            ("role", _text),
            ("document", _text),
            ("sequence", _int),
            ("bytes", _int),  # null: what is scored is one token
            ("input", _ints),
            ("target", _ints),  # the answer's token at the last position, -100 at all others
            ("kind", pa.list_(_text)),  # null
            ("donor", _ints),  # the prompt that gives its activations; null where there is none
            ("wrong", _ints),  # tokens of the wrong answers
        ]
    ),
    "images": pa.schema(
        [
            ("model", _text),
            ("data", _text),
            ("role", _text),
            ("document", _text),
            ("sequence", _int),
            ("image", pa.list_(pa.uint8())),
            ("shape", _ints),  # H, W, C
            ("target", _int),
        ]
    ),
    "donors": pa.schema(
        [
            ("model", _text),
            ("data", _text),
            ("source", _text),
            ("parameters", _text),  # canonical JSON: own or shared, how many draws, as published
            ("seed", _int),
            ("sequence", _int),
            ("draw", _int),  # 0, 1, …: which of its donors, where it has several
            ("donor", _int),  # a sequence of data; null where the donor is made up
            ("input", _ints),  # what is fed, where it is not the donor's own input; pixels flat
            ("row", _int),  # as published: the one position that gives; -1 for zeros
        ]
    ),
    "selections": pa.schema(
        [
            ("model", _text),
            ("data", _text),
            ("site", _text),
            ("unit", _text),
            ("selection", _text),
            ("parameters", _text),
            ("seed", _int),
            ("basis", _text),  # whose axes a score was of; null where the rule looks at none
            ("cell", _text),  # under whose ablation it was scored; null for the bare model
            ("layer", _int),  # null where the rule ranks over all layers
            ("order", _ints),  # index of the unit held first, second, …
            ("score", _floats),  # of the unit held first, second, …; null without scores
            ("score_low", _floats),  # ends of the score's interval, where it has one
            ("score_high", _floats),
        ]
    ),
    "statistics": pa.schema(
        [
            ("model", _text),
            ("data", _text),
            ("dtype", _text),
            ("basis", _text),
            ("site", _text),
            ("stratum", _text),
            ("layer", _int),
            ("head", _int),
            ("neuron", _int),
            *((c, _int) for c in ("count", "zeros", "below", "above", "nan", "pos_inf", "neg_inf")),
            *((c, _float) for c in ("mean", "std", "rms", "abs_mean", "positive", "min", "max")),
            *((c, _float) for c in ("skewness", "kurtosis")),
            *((c, _float) for c in ("median", "median_low", "median_high", "mean_low")),
            *((c, _float) for c in ("mean_high", "peak", "peak_low", "peak_high")),
            *((c, _float) for c in ("peak_05", "peak_10", "peak_20")),
            ("peak_stable", pa.bool_()),
            ("first_position", _float),
            ("cell", _text),  # under whose ablation it was collected; null for the bare model
            ("bandwidth", _float),
            ("mode_values", _floats),
            ("mode_weights", _floats),
            ("bin_width", _float),
            ("bin_start", _float),
            ("counts", pa.list_(pa.int64())),
        ]
    ),
    "centres": pa.schema(
        [
            ("model", _text),
            ("data", _text),
            ("basis", _text),
            ("site", _text),
            ("layer", _int),
            ("neuron", _int),
            ("stratum", _text),  # all, or the bucket of positions it is held at
            ("method", _text),
            ("parameters", _text),
            ("cell", _text),  # the one cell it is for; null for all that use the method
            ("value", _float),
        ]
    ),
    "cells": pa.schema(_CELL),
    "results": pa.schema(
        [
            ("cell", _text),
            ("document", _text),
            ("sequence", _int),
            ("round", _int),  # 0, 1, …: documents are visited round by round
            ("tokens", _int),
            ("top1", _int),
            ("top10", _int),
            ("loss", _float),
            ("kl", _float),
            ("tokens_rare", _int),
            ("top1_rare", _int),
            ("tokens_mask", _int),  # scored positions that were fed <mask>; masked models alone
            ("top1_mask", _int),
            ("loss_mask", _float),
            ("nan", _int),
            ("logit_diff", _float),  # the answer's logit less the mean of the wrong ones', nats
            ("choice", _int),  # whether it is above all of them; both of paired prompts alone
        ]
    ),
    "executions": pa.schema(
        [
            ("cell", _text),
            ("rounds", _ints),  # that this row answered; a cell has a row for every part
            ("told", _int),
            ("held", _int),
            ("held_by_layer", _ints),  # neurons held in every layer, site after site
            ("seconds", _float),
            ("worker", _text),
            ("device", _text),
            ("threads", _int),
            ("versions", _text),  # canonical JSON
            ("statistics_digest", _text),  # of the constants or donors really used
            ("hostname_hash", _text),
        ]
    ),
}

LATER = {
    "donors": {"draw", "parameters", "row"},
    "selections": {"basis", "cell", "score", "score_high", "score_low"},
    "statistics": {"basis"},
    "centres": {"basis", "stratum"},
    "results": {"choice", "logit_diff", "loss_mask", "round", "tokens_mask", "top1_mask"},
    "executions": {"held_by_layer", "rounds"},
}
"""Columns that tables of earlier versions lack, by kind."""


def lasting(file: str) -> set[str]:
    """Return the columns that all versions of a file's kind of table have, by its folder."""
    kind = file.partition("/")[0]
    return set(SCHEMAS[kind].names) - LATER.get(kind, set()) if kind in SCHEMAS else set()


def stratum_names(by: str, starts: Sequence[int]) -> list[str]:
    """Return what each stratum is called: `all`, `class 3`, `position 0`, `position 16-31`."""
    if by == "all":
        return ["all"]
    if by == "class":
        return [f"class {start}" for start in starts]
    lasts = [*(start - 1 for start in starts[1:]), None]
    return [
        f"position {first}" if last == first else f"position {first}-{'' if last is None else last}"
        for first, last in zip(starts, lasts, strict=True)
    ]
