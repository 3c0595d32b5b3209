"""Chains: statistics that are collected again as ablation proceeds.

With `layers_in_sequence` each layer's statistics are of the model in which the
held neurons of all layers below it are held already; one task goes up the
layers. With `per_fraction` the statistics of a fraction are of the model in
which the next smaller fraction is held; the smallest uses those of the bare
model, and all neurons held so far are held anew at the new constants.

Either way the constants depend on the mask and the fraction, so there is a chain
per (method, mask), and cells that share nothing but their batches. What is
held at zero needs no statistics.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from orchestrator.cells import Inputs, cell
from orchestrator.collection import Collection, Counts
from orchestrator.draft import Made
from orchestrator.sections import MethodSpec
from workers.selection import count

Centre = Callable[[MethodSpec, Counts, Callable[[Made], str]], Made]
"""Adds the constants that a method takes from counts; told how to name the cell they are for."""


def chain(
    collection: Collection, method: MethodSpec, seed: int, inputs: Inputs, centre: Centre
) -> Inputs:
    """Add one method's tasks for one mask; return the inputs with its constants."""
    spec, ref = collection.spec, collection.ref
    in_sequence = spec.statistics.mode == "layers_in_sequence"
    held = [count(fraction, ref.facts.neurons) for fraction in spec.fractions]

    def name_of(each: int, values: Made) -> str:
        known = replace(inputs, centres={**inputs.centres, (method.label, seed, each): values})
        return cell(spec, ref, known, "attn_pre_out", method, each, seed, None).name

    before = 0
    for each in dict.fromkeys(k for k in held if k):
        values = inputs.centre(method.label, seed, before) if before else None
        if in_sequence or values is not None:
            told = each if in_sequence else before
            counts = _under(collection, method, seed, inputs, told, None if in_sequence else values)
            made = centre(method, counts, partial(name_of, each))
            inputs = replace(inputs, centres={**inputs.centres, (method.label, seed, each): made})
            during = made if in_sequence or values is None else values
            collection.statistics(counts, name_of(told, during))
        before = each
    return inputs


def _under(
    collection: Collection,
    method: MethodSpec,
    seed: int,
    inputs: Inputs,
    told: int,
    values: Made | None,
) -> Counts:
    """Add the counts of a model in which `told` neurons of every layer are held.

    At `values`, or where these are None at what the layers' own statistics say, one by one.
    """
    neurons = collection.ref.facts.neurons
    selection = inputs.selections[seed] if told < neurons else None
    how = {"method": method.method, "parameters": dict(method.parameters)}
    return collection.under(
        f"counts under {method.label} at {told}/{neurons}, mask {seed}",
        {
            **how,
            "held": {"selection": selection.name, "each": told} if selection else "all",
            "values": values.name if values else "in sequence",
        },
        {
            **how,
            "each": told,
            "selection": selection and selection.file,
            "centres": values and values.file,
        },
        after=[made for made in (selection, values) if made is not None],
        passes=collection.ref.facts.layers if values is None else 1,
    )
