"""Sharded: how many processes hold a model together, and what cannot be asked of them.

`shards: 2` says it. `shards: auto` asks for the fewest on which a replica fits a device,
by the arithmetic of `orchestrator.footprint`: of those numbers that divide the model's heads
and the neurons of its MLPs. How much a device has, `cluster.device_memory` says, or else
nvidia-smi on the machine that plans. The number is in the names of all that the model
computes, because sums over processes round in another way; write it out where the same
sweep is planned on unlike machines.

What runs through a sharded model is the library's forward pass, cut; what does more with
its parts than that is refused here, before anything runs.
"""

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace

from orchestrator.footprint import MARGIN, footprint
from orchestrator.mistakes import Mistake
from orchestrator.spec import Spec
from workers import cuts
from workers.messages import ModelRef


def fitted(
    spec: Spec, refs: Mapping[str, ModelRef], memory: Callable[[], int | None]
) -> tuple[dict[str, ModelRef], list[Mistake]]:
    """Return the models with their numbers of shards, and what is wrong with these.

    The spec's models have their data sources filled in. `memory` returns the bytes of a
    device where the sweep does not say them, or None; it is asked for `auto` alone.
    """
    found, mistakes = dict(refs), []
    for i, model in enumerate(spec.models):
        ref = refs.get(model.id)
        if ref is None or model.shards == 1:
            continue
        if model.shards == "auto":
            made = _fewest(spec, ref, memory)
        else:
            made = cuts.refusal(ref.facts, model.shards) or model.shards
        why = _beyond(spec, ref) if made != 1 else None
        if isinstance(made, str) or why is not None:
            message = made if isinstance(made, str) else str(why)
            mistakes.append(Mistake(path=f"models[{i}].shards", message=message))
        else:
            found[model.id] = replace(ref, shards=made)
    return found, mistakes


def device_memory() -> int | None:
    """Return the bytes of the smallest GPU that nvidia-smi sees here; None without one."""
    asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout
        return min(int(line) for line in said.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _fewest(spec: Spec, ref: ModelRef, memory: Callable[[], int | None]) -> int | str:
    """Return the fewest shards with which a replica fits, or why there are none."""
    device = spec.cluster.device_memory or memory()
    if device is None:
        return (
            "auto needs to know how much memory a device has, and nvidia-smi says nothing here;"
            " write `cluster: {device_memory: 80GB}`, or the number of shards"
        )
    most = max(ref.facts.heads, 1)
    able = [k for k in range(1, most + 1) if cuts.refusal(ref.facts, k) is None]
    needs = {k: footprint(spec, replace(ref, shards=k)).total + MARGIN for k in able}
    fitting = [k for k in able if needs[k] <= device]
    if fitting:
        return fitting[0]
    least = min(able, key=needs.__getitem__)
    return (
        f"with {least} shards, of which {', '.join(map(str, able))} are possible, a device still"
        f" holds {needs[least] / 2**30:.1f} GiB and has {device / 2**30:.1f} GiB; use `dtype:"
        " bfloat16`, or lower `evaluation.batch_bytes` or `statistics.bins`"
        + ("" if len(able) > 1 else f" ({cuts.refusal(ref.facts, 2)})")
    )


def _beyond(spec: Spec, ref: ModelRef) -> str | None:
    """Return what the sweep asks of a sharded model that cannot be done with one yet."""
    learned = [m.label for m in spec.methods if m.method == "optimal"]
    asked = {
        "`basis`: heads cannot be rotated": any(seed is not None for seed in spec.basis),
        "`compile`: it cannot be compiled": spec.compile,
        "`packed`: packed weights cannot be cut": ref.packed is not None,
        f"`methods`: {', '.join(learned)} cannot be learned": bool(learned),
    }
    wrong = [what for what, is_asked in asked.items() if is_asked]
    if not wrong:
        return None
    return f"{'; '.join(wrong)} in a model that is in shards; leave that out, or `shards`"
