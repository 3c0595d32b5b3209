"""Fitting: what is wrong between a spec and the models it is meant for.

The spec alone is right, and so are the models and sources; but a batch may be
smaller than a window, or a bucket of positions hold none that is counted.
"""

from collections.abc import Mapping

from orchestrator.collection import stratified
from orchestrator.mistakes import Mistake
from orchestrator.spec import Spec
from workers.messages import ModelRef
from workers.selection import count


def misfits(spec: Spec, refs: Mapping[str, ModelRef]) -> list[Mistake]:
    """Return every mistake of settings that these models do not allow."""
    return [*_fractions(spec, refs), *_settings(spec, refs), *_positions(spec, refs)]


def _window(spec: Spec, ref: ModelRef, key: str | None) -> int:
    """Return the positions of a window of a source; the model's own where it says nothing."""
    longest = ref.facts.window
    return spec.data[key].window(longest) if key in spec.data else longest


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
        collected = _window(spec, ref, source)
        if skipped >= collected:
            message = f"{skipped} of the {collected} positions of {ref.name} leave none to count"
            found.append(Mistake(path="statistics.positions.skip_first", message=message))
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
        if collected < _window(spec, ref, model.data):
            message = (
                f"its windows have {collected} positions, and those that are evaluated"
                f" {_window(spec, ref, model.data)}: {held[0]} has no constants for the rest; give"
                " both sources one `sequence_length`"
            )
            found.append(Mistake(path="statistics.data", message=message))
    return found


def _settings(spec: Spec, refs: Mapping[str, ModelRef]) -> list[Mistake]:
    """Return what is wrong between settings and the models they are meant for."""
    found = [
        Mistake(
            path="evaluation.batch_tokens",
            message=f"{spec.evaluation.batch_tokens} is less than one window of {model.id}"
            f" ({window} positions); allow at least that many",
        )
        for model in spec.models
        if model.id in refs and model.data in spec.data
        for window in [
            max(
                _window(spec, refs[model.id], key)
                for key in (model.data, spec.statistics.data or model.data)
            )
        ]
        if spec.evaluation.batch_tokens < window
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
    return [
        Mistake(
            path="fractions",
            message=f"{fraction} of the {ref.facts.neurons} neurons of a layer of {ref.name} holds"
            f" nothing; the least that holds one is {1 / (2 * ref.facts.neurons):.4g}",
        )
        for ref in refs.values()
        for fraction in spec.fractions
        if fraction and not count(fraction, ref.facts.neurons)
    ]
