"""The graph: the tasks of one model, each after the tasks whose files it reads.

    data ─┬─ donors ──────────────────────────────────────┐
          ├─ collection ─┬─ statistics                    │
          │              └─ centres ──────────────────────┼─ cells
    selections ───────────────────────────────────────────┘

Collection is a graph of its own (`orchestrator.collection`). Where statistics are
collected again as ablation proceeds, it also builds on selections and centres
(`orchestrator.chains`).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.cells import Inputs
from orchestrator.chains import chain
from orchestrator.collection import Collection, Counts, stratified
from orchestrator.draft import Draft, Made
from orchestrator.names import slug
from orchestrator.sections import MethodSpec
from orchestrator.spec import Spec
from orchestrator.tasks import Task
from workers.messages import ModelRef


class Builder:
    """Adds the tasks of one model, but for its evaluations."""

    def __init__(
        self, spec: Spec, ref: ModelRef, data: str, base: Path, digests: Mapping[str, str]
    ) -> None:
        """Start with nothing; `digests` are those of the data sources, by name."""
        self.spec, self.ref, self.data, self.base, self.digests = spec, ref, data, base, digests
        self.draft = Draft(spec, ref)

    @property
    def tasks(self) -> list[Task]:
        """The tasks so far."""
        return self.draft.tasks

    def build(self) -> Inputs:
        """Add every task of the model but its evaluations; return what its cells need."""
        source = self.spec.statistics.data or self.data
        data = self._data(self.data)
        selections = {seed: self._selection(seed) for seed in self.spec.seeds.masks}
        donors = {}
        for method in self.spec.methods:
            if method.method == "resample":
                of = method.parameters["source"]
                for seed in self.spec.seeds.donors:
                    donors[of, seed] = self._donors(data, of, seed)
        positions = stratified(self.spec, self.ref.facts, source, "position")
        inputs = Inputs(
            data=data,
            selections=selections,
            centres={},
            donors=donors,
            starts=positions.starts if positions else (),
        )
        return self._collected(data, source, inputs)

    def _collected(self, data: Made, source: str, inputs: Inputs) -> Inputs:
        """Add collection, statistics and constants; return the inputs with the constants."""
        collected = data if source == self.data else self._data(source)
        collection = Collection(self.draft, source, collected)
        whole = collection.counts()
        collection.statistics(whole)
        strata = {}
        for by in ("position", "class"):
            counted = stratified(self.spec, self.ref.facts, source, by)
            if counted is not None:
                strata[by] = collection.counts(counted)
                collection.statistics(strata[by])
        fixed: dict[str, Made] = {}
        for method in self.spec.methods:
            if not method.constant:
                continue
            of: Counts | Made | None = strata["position"] if method.by_position else whole
            if method.published:
                estimator = method.parameters["estimator"]
                fixed.setdefault(estimator, collection.fixed(whole, estimator))
                of = fixed[estimator]
            made = self._centres(method, None if method.method == "zero" else of)
            inputs = replace(inputs, centres={**inputs.centres, (method.label, None, None): made})
            if self.spec.statistics.mode != "one_shot" and method.method != "zero":
                for seed in self.spec.seeds.masks:
                    inputs = chain(collection, method, seed, inputs, self._centres)
        return inputs

    def _data(self, key: str) -> Made:
        facts, data = self.ref.facts, self.spec.data[key]
        masking = self.spec.seeds.masking if facts.modality == "masked" else None
        recipe = {
            "digest": self.digests[key],
            "fields": [data.text, data.document],
            "roles": {r: getattr(data, r).model_dump() for r in ("collect", "evaluate")},
            "modality": facts.modality,
            "tokenizer": facts.tokenizer,
            "window": data.window(facts.window),
            "bos": data.bos,
            "image": facts.image,
            "masking": masking,
            "specials": dict(facts.specials),
            "vocabulary": facts.vocabulary if masking is not None else None,
        }
        arguments = {
            "data_name": key,
            "source": data.source,
            "base": str(self.base),
            "folder": self.ref.folder,
            **recipe,
        }
        file = f"data/{self.draft.slug}/{slug(key)}.parquet"
        return self.draft.add("prepare", "data", key, recipe, arguments, folder="data", file=file)

    def _selection(self, seed: int) -> Made:
        facts = self.ref.facts
        recipe = {
            "site": "attn_pre_out",
            "unit": "neuron",
            "selection": "random",
            "seed": seed,
            "layers": facts.layers,
            "neurons": facts.neurons,
        }
        return self.draft.add(
            "prepare",
            "selection",
            f"order of mask {seed}",
            recipe,
            {**recipe, "data_name": self.data},
            folder="selections",
        )

    def _donors(self, data: Made, source: str, seed: int) -> Made:
        recipe = {"data": data.name, "source": source, "seed": seed}
        masked = self.ref.facts.modality == "masked"
        closing = self.ref.facts.specials.get("eos") if masked else None
        # Where only a document's first window begins with bos, donors are matched on it.
        first = self.spec.data[self.data].bos == "first"
        arguments = {
            **recipe,
            "data": data.file,
            "data_name": self.data,
            "opening": self.ref.facts.specials.get("bos") if first else None,
            "closing": closing,
        }
        label = f"donors {source} {seed}"
        return self.draft.add(
            "prepare", "donors", label, recipe, arguments, after=[data], folder="donors"
        )

    def _centres(
        self,
        method: MethodSpec,
        of: Counts | Made | None,
        cell_of: Callable[[Made], str] | None = None,
    ) -> Made:
        """Add the constants of a method, from counts; `cell_of` names the one cell they are for."""
        facts = self.ref.facts
        recipe: dict[str, object] = {
            "method": method.method,
            "parameters": dict(method.parameters),
        }
        shape = {"layers": facts.layers, "neurons": facts.neurons}
        arguments: dict[str, object] = {**recipe, **shape, "site": "attn_pre_out"}
        after: list[Made] = []
        if isinstance(of, Counts):
            recipe["of"], after = of.names, of.after
            arguments |= {**of.files, "starts": list(of.counted.starts), "by": of.counted.by}
        elif of is not None:
            recipe["of"], after = of.name, [of]
            arguments["of"] = of.file
        else:
            recipe |= shape
        if cell_of is not None:  # all that changes the cell's name, but for these constants
            recipe["for"] = cell_of(Made(name="", file=""))
        made = self.draft.named("centres", recipe, "centres")
        return self.draft.add(
            "reduce",
            "centres",
            f"centres {method.label}",
            recipe,
            {
                **arguments,
                "data_name": self.spec.statistics.data or self.data,
                "cell": cell_of and cell_of(made),
            },
            after=after,
            folder="centres",
        )
