"""Prompts: whether a sweep asks of paired prompts what its sources can answer.

A method that takes each prompt's own donor, and metrics that set an answer against wrong
ones, need a source of the kind `pairs` (`orchestrator.paired`). Which source a model is
evaluated on is known only in the plan.
"""

from collections.abc import Iterator, Mapping

from orchestrator.documents import Source
from orchestrator.mistakes import Mistake
from orchestrator.spec import Spec
from workers.messages import ModelRef

METRICS = ("logit_diff", "choice")
"""Metrics of paired prompts alone."""
_CURE = "name a source with `input`, `donor`, `answer` and `wrong` as its `data`"


def misfits(
    spec: Spec, refs: Mapping[str, ModelRef], found: Mapping[str, Source]
) -> Iterator[Mistake]:
    """Yield what is asked of paired prompts where there are none, and the other way round.

    Every model of the spec has its source filled in, if one fits it.
    """
    kinds = {m.id: found[m.data].kind for m in spec.models if m.data and m.data in found}
    for i, method in enumerate(spec.methods):
        for model in spec.models if method.paired else ():
            kind = kinds.get(model.id)
            causal = model.id in refs and refs[model.id].facts.modality == "causal"
            if causal and kind not in (None, "pairs"):
                message = (
                    f"{method.label} takes the donor that stands beside each prompt, and"
                    f" {model.id} is evaluated on {model.data}, which holds {kind}; {_CURE}, or"
                    " sweep it in a file of its own"
                )
                yield Mistake(path=f"methods[{i}]", message=message)
    for i, metric in enumerate(spec.evaluation.metrics):
        path = f"evaluation.metrics[{i}]"
        if metric in METRICS and kinds and "pairs" not in kinds.values():
            message = f"{metric} is of paired prompts, and no model is evaluated on any; {_CURE}"
            yield Mistake(path=path, message=message)
        if metric == "bits_per_byte" and kinds and set(kinds.values()) == {"pairs"}:
            message = "bits_per_byte is of texts, and of a prompt one token is scored; drop it"
            yield Mistake(path=path, message=message)
