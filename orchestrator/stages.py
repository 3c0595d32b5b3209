"""Stages: which function does a task that needs no model.

Tasks on a model are the host's; the rest, by kind, are here. They read and
write the run folder and import no torch, so they run in any process.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from orchestrator import inspection, overlay, prepare, reduce
from orchestrator.centres import centres
from orchestrator.donors import donors
from orchestrator.effects import effects
from orchestrator.selecting import selection
from orchestrator.statistics import statistics
from orchestrator.store import Store
from orchestrator.tasks import Task

KINDS: Mapping[str, Callable[[Task, Store], dict[str, object]]] = {
    "data": prepare.data,
    "donors": donors,
    "effects": effects,
    "selection": selection,
    "merge": reduce.merge,
    "merge_fixed": reduce.merge_fixed,
    "widen": overlay.widen,
    "statistics": statistics,
    "centres": centres,
}


def do(task: Task, store: Store) -> dict[str, object]:
    """Do a task, commit its file, return a summary of it.

    Some read a model's tokenizer, on a machine that may not have the model yet.
    """
    told = dict(task.arguments)
    if "folder" in told:
        told["folder"] = inspection.present(told["model"], told["folder"])
    return KINDS[task.kind](replace(task, arguments=told), store)
