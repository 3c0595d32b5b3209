"""Packing: what a sweep asks of packed weights that only whole ones can give.

A model whose weights are packed (`workers.packed`) runs and can be held at anything. What
writes to its weights, or reads them, cannot be done: each such wish is refused here, with its
place in the sweep file.
"""

from collections.abc import Iterator
from importlib.util import find_spec

from orchestrator.mistakes import Mistake
from orchestrator.scores import norms_needed
from orchestrator.sections import ModelSpec
from orchestrator.spec import Spec

_CURE = "take `packed` out, or sweep the packed models in a file of their own"


def misfits(spec: Spec) -> Iterator[Mistake]:
    """Yield what does not go with the packed models of a sweep."""
    packed = [(i, model) for i, model in enumerate(spec.models) if model.packed is not None]
    if not packed:
        return
    for i, model in packed:
        yield from _of_model(spec, f"models[{i}].packed", model)
    names = ", ".join(model.id for _, model in packed)
    if find_spec("torchao") is None:
        message = "torchao packs weights, and is not installed; `pip install torchao` on every node"
        yield Mistake(path=f"models[{packed[0][0]}].packed", message=message)
    if any(seed is not None for seed in spec.basis):
        message = f"rotated weights would be packed into another model ({names}); {_CURE}"
        yield Mistake(path="basis", message=message)
    if spec.compile:
        message = f"what is compiled folds constants, and nothing folds into {names}; {_CURE}"
        yield Mistake(path="compile", message=message)
    if spec.statistics.mode != "one_shot":
        message = f"statistics under ablation fold constants into {names}, which is packed; {_CURE}"
        yield Mistake(path="statistics.mode", message=message)
    for i, method in enumerate(spec.methods):
        if method.method == "optimal":
            message = f"{method.label} is not learned through packed weights ({names}); {_CURE}"
            yield Mistake(path=f"methods[{i}]", message=message)
    for i, selection in enumerate(spec.selections):
        weighed = selection.rule == "score" and norms_needed(str(selection.parameters["by"]))
        if weighed or selection.iterative:
            what = "reads weights" if weighed else "folds constants into weights"
            message = f"{selection.label} {what}, and those of {names} are packed; {_CURE}"
            yield Mistake(path=f"selections[{i}]", message=message)


def _of_model(spec: Spec, path: str, model: ModelSpec) -> Iterator[Mistake]:
    if model.packed == "int4" and model.dtype != "bfloat16":
        message = f"weights of 4 bits are multiplied in bfloat16, and {model.id} is {model.dtype}"
        yield Mistake(path=path, message=message)
    if model.packed == "int4" and spec.cluster.device == "cpu":
        message = "weights of 4 bits need a GPU, and `cluster.device` is cpu; use int8"
        yield Mistake(path=path, message=message)
