"""Fitting: what is wrong between a spec and the models it is meant for.

The spec alone is right, and so are the models and sources; but a batch may be
smaller than a window, or a bucket of positions hold none that is counted.
"""

from collections.abc import Mapping
from decimal import Decimal
from itertools import product
from pathlib import Path

from orchestrator import batching, listed
from orchestrator.collection import stratified
from orchestrator.held import scope
from orchestrator.mistakes import Mistake
from orchestrator.spec import Spec
from workers.messages import Modality, ModelRef, Site
from workers.selection import Unit, count, in_scope


def misfits(spec: Spec, refs: Mapping[str, ModelRef], base: Path) -> list[Mistake]:
    """Return every mistake of settings that these models do not allow.

    Paths of lists of units start at `base`.
    """
    return [
        *_fractions(spec, refs),
        *_settings(spec, refs),
        *_positions(spec, refs),
        *_units(spec, refs, base),
        *_sources(spec, refs),
    ]


def _units(spec: Spec, refs: Mapping[str, ModelRef], base: Path) -> list[Mistake]:
    """Return layers that models do not have, and lists that are not of their units."""
    found = []
    for ref in refs.values():
        depth = ref.facts.layers
        if isinstance(spec.layers, tuple) and spec.layers[-1] >= depth:
            message = f"{ref.name} has no layer {spec.layers[-1]}; its layers are 0 to {depth - 1}"
            found.append(Mistake(path="layers", message=message))
        for i, selection in enumerate(spec.selections):
            for sites, unit in product(spec.sites, spec.units):
                units = scope(ref.facts, sites, unit, range(depth), False).units
                if selection.rule == "regression":
                    blocks = depth * -(-units[0] // int(selection.number("block")))
                    if selection.number("masks") < 3 * blocks:
                        message = (
                            f"{selection.label} has too few masks for the {blocks} {unit}s (or"
                            f" blocks of them) of {ref.name}; ask for `masks: {3 * blocks}` at"
                            " least, or for a larger `block`"
                        )
                        found.append(Mistake(path=f"selections[{i}]", message=message))
                    share = Decimal(str(selection.number("share")))
                    if not 0 < count(share, blocks) < blocks:
                        message = (
                            f"a share of {share} of the {blocks} {unit}s (or blocks of them) of"
                            f" {ref.name} is none or all of them; choose one in between"
                        )
                        found.append(Mistake(path=f"selections[{i}]", message=message))
                if selection.rule == "explicit":
                    found += _listed(spec, ref, base, i, sites, unit)
    return found


def _listed(
    spec: Spec, ref: ModelRef, base: Path, i: int, sites: tuple[Site, ...], unit: Unit
) -> list[Mistake]:
    """Return what is wrong with a list of units: of the file, and of fractions of it."""
    every = range(ref.facts.layers)
    layers = spec.layers if isinstance(spec.layers, tuple) else every
    units = scope(ref.facts, sites, unit, layers, False)
    path = base / str(spec.selections[i].parameters["file"])
    try:
        order = listed.read(path, sites=sites, unit=unit, layers=units.depth, units=units.units)
    except listed.ListError as error:
        return [Mistake(path=f"selections[{i}]", message=f"{error} ({ref.name})")]
    there = len(in_scope(units, order)) if layers[-1] < units.depth else len(order)
    none = [str(f) for f in spec.fractions if f and not count(f, there)]
    if not none or spec.layers == "each":  # a layer that the list leaves out holds nothing
        return []
    message = (
        f"{none[0]} of the {there} {unit}s that {spec.selections[i].label} lists in these layers of"
        f" {ref.name} holds nothing; a fraction is of the list"
    )
    return [Mistake(path="fractions", message=message)]


def _sources(spec: Spec, refs: Mapping[str, ModelRef]) -> list[Mistake]:
    """Return sources that are of no use, and donors and metrics that fit none of the models."""
    found = []
    modalities = {ref.facts.modality for ref in refs.values()}
    for i, method in enumerate(spec.methods):
        if modalities and not any(method.fits(modality) for modality in modalities):
            message = (
                f"{method.label} fits none of the models, which are {', '.join(sorted(modalities))}"
            )
            found.append(Mistake(path=f"methods[{i}]", message=message))
    for i, selection in enumerate(spec.selections):
        other = selection.parameters.get("against")
        if other is not None and other in {spec.statistics.data or m.data for m in spec.models}:
            message = f"{selection.label} compares {other} with itself; name another source"
            found.append(Mistake(path=f"selections[{i}]", message=message))
    for i, metric in enumerate(spec.evaluation.metrics):
        wanted = _METRICS.get(metric, tuple(modalities))
        if modalities and not modalities & set(wanted):
            message = f"{metric} is of {' and '.join(wanted)} models, and the sweep has none"
            found.append(Mistake(path=f"evaluation.metrics[{i}]", message=message))
    return found


_METRICS: Mapping[str, tuple[Modality, ...]] = {
    "top1_rare": ("causal", "masked"),
    "top1_mask": ("masked",),
    "ce_mask": ("masked",),
    "bits_per_byte": ("causal",),
    "logit_diff": ("causal",),
    "choice": ("causal",),
}
"""Modalities that a metric is of; any for those not named."""


def _positions(spec: Spec, refs: Mapping[str, ModelRef]) -> list[Mistake]:
    """Return what is wrong with the positions that are counted."""
    found = []
    skipped = spec.statistics.positions.skip_first
    held = [m.label for m in spec.methods if m.by_position]
    for model in spec.models:
        if model.id not in refs:
            continue
        ref = refs[model.id]
        source = spec.statistics.data or model.data
        evaluated, collected, *compared = batching.windows(spec, ref)
        least = min([collected, *compared])
        if skipped >= least:
            message = f"{skipped} of the {least} positions of {ref.name} leave none to count"
            found.append(Mistake(path="statistics.positions.skip_first", message=message))
        # The last position of a window has no next token, or is one that closes it.
        if spec.evaluation.positions.skip_first >= evaluated - 1 and ref.facts.modality != "image":
            message = f"the {evaluated} positions of {ref.name} leave none to score; skip fewer"
            found.append(Mistake(path="evaluation.positions.skip_first", message=message))
        if not held or source not in spec.data:
            continue
        strata = stratified(spec, ref.facts, source, "position")
        second = (*strata.starts, collected)[1] if strata else collected
        if second <= skipped < collected:
            message = (
                f"the first {skipped} positions are not counted, so {held[0]} has nothing to hold"
                f" the first bucket at ({second} positions); begin the second bucket later, or skip"
                " fewer"
            )
            found.append(Mistake(path="statistics.positions.skip_first", message=message))
        if collected < evaluated:
            message = (
                f"its windows have {collected} positions, and those that are evaluated"
                f" {evaluated}: {held[0]} has no constants for the rest; give"
                " both sources one `sequence_length`"
            )
            found.append(Mistake(path="statistics.data", message=message))
    return found


def _settings(spec: Spec, refs: Mapping[str, ModelRef]) -> list[Mistake]:
    """Return what is wrong between settings and the models they are meant for."""
    given = spec.evaluation.batch_tokens
    found = [
        Mistake(
            path="evaluation.batch_tokens",
            message=f"{given} is less than one window of {model.id} ({window} positions); allow at"
            " least that many, or say `auto`",
        )
        for model in spec.models
        if model.id in refs and model.data in spec.data
        for window in [max(batching.windows(spec, refs[model.id]))]
        if given != "auto" and given < window
    ]
    found += [
        Mistake(
            path="evaluation.logits_bytes",
            message=f"{spec.evaluation.logits_bytes} bytes do not hold the logits of one position"
            f" of {ref.name}; allow at least {4 * ref.facts.vocabulary}",
        )
        for ref in refs.values()
        if spec.evaluation.logits_bytes < 4 * ref.facts.vocabulary
    ]
    found += [
        Mistake(
            path="statistics.bins",
            message=f"{spec.statistics.bins} bins are finer than {ref.dtype} can tell apart"
            f" ({ref.name}); use 256 at most, or float32",
        )
        for ref in refs.values()
        if ref.dtype == "bfloat16" and spec.statistics.bins > 256
    ]
    return found


def _fractions(spec: Spec, refs: Mapping[str, ModelRef]) -> list[Mistake]:
    """Return fractions that choose nothing of what they are of."""
    found = {}
    for ref in refs.values():
        for sites, unit in product(spec.sites, spec.units):
            depth = ref.facts.layers
            layers = 1 if spec.layers == "each" else depth
            if isinstance(spec.layers, tuple):
                layers = len(spec.layers)
            sizes = scope(ref.facts, sites, unit, range(depth), False).units
            for selection in spec.selections:
                if selection.rule == "explicit":
                    continue
                of = sum(sizes) * layers if selection.over == "all" else min(sizes)
                where = "" if selection.over == "all" else " of a layer"
                for fraction in spec.fractions:
                    if fraction and not count(fraction, of):
                        message = (
                            f"{fraction} of the {of} {unit}s{where} of {ref.name} holds nothing;"
                            f" the least that holds one is {1 / (2 * of):.4g}"
                        )
                        found[message] = Mistake(path="fractions", message=message)
    return list(found.values())
