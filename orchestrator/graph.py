"""The graph: the tasks of one model, each after the tasks whose files it reads.

    data ─┬─ donors ───────────────────────────────────────────────┐
          ├─ pilot ─ counts x shards ─ merge tree ─┬─ statistics   ├─ cells
          │                                        ├─ centres ─────┤
          │            fixed x shards ─ merge tree ┘ (peak(paper)) │
    selections ────────────────────────────────────────────────────┘

A task's recipe holds what changes its answer: the weights, the data's name, the
bins. Its arguments hold what is needed to do it: files and folders, which may
move without changing a number and so stay out of the name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.cells import Inputs
from orchestrator.names import name, slug
from orchestrator.spec import Spec
from orchestrator.tasks import Stage, Task
from workers.messages import ModelRef

FAN_IN = 8
"""Partials merged by one task."""
PAPER_BINS = 100
"""Bins of the published peak, between a neuron's least and largest activation."""


class Builder:
    """Writes down the tasks of one model.

    Its methods add tasks and return the (name, file) that later ones build on.
    """

    def __init__(self, spec: Spec, ref: ModelRef, data: str, base: Path, digest: str) -> None:
        """Start with nothing; `digest` is that of the data source named `data`."""
        self.spec, self.ref, self.data, self.base, self.digest = spec, ref, data, base, digest
        self.slug = slug(ref.name)
        self.tasks: list[Task] = []
        collected = spec.data[data].positions("collect", ref.facts.window)
        self.pass_cost = float(ref.facts.parameters * collected)

    def build(self) -> Inputs:
        """Add every task of the model but its evaluations; return what its cells need."""
        data = self._data()
        selections = {seed: self._selection(seed) for seed in self.spec.seeds.masks}
        donors = {}
        for method in self.spec.methods:
            if method.method == "resample":
                source = method.parameters["source"]
                for seed in self.spec.seeds.donors:
                    donors[source, seed] = self._donors(data, source, seed)
        centres = self._centres(data)
        return Inputs(data=data, selections=selections, centres=centres, donors=donors)

    def _add(
        self,
        stage: Stage,
        kind: str,
        label: str,
        recipe: Mapping[str, object],
        arguments: Mapping[str, object],
        *,
        after: Sequence[str] = (),
        folder: str,
        file: str | None = None,
        on_model: bool = False,
        cost: float = 0.0,
    ) -> tuple[str, str]:
        made = name(kind, recipe)
        file = file or f"{folder}/{self.slug}/{kind}.{made}.parquet"
        self.tasks.append(
            Task(
                name=made,
                stage=stage,
                kind=kind,
                label=f"{self.ref.name} {label}",
                file=file,
                model=self.ref if on_model else None,
                after=tuple(after),
                arguments={"model": self.ref.name, "data_name": self.data, **arguments},
                cost=cost,
            )
        )
        return made, file

    def _data(self) -> tuple[str, str]:
        facts, data = self.ref.facts, self.spec.data[self.data]
        masking = self.spec.seeds.masking if facts.modality == "masked" else None
        recipe = {
            "digest": self.digest,
            "fields": [data.text, data.document],
            "roles": {r: getattr(data, r).model_dump() for r in ("collect", "evaluate")},
            "modality": facts.modality,
            "tokenizer": facts.tokenizer,
            "window": data.sequence_length or facts.window,
            "bos": data.bos,
            "image": facts.image,
            "masking": masking,
            "specials": dict(facts.specials),
            "vocabulary": facts.vocabulary if masking is not None else None,
        }
        arguments = {
            "source": data.source,
            "base": str(self.base),
            "folder": self.ref.folder,
            **recipe,
        }
        file = f"data/{self.slug}/{slug(self.data)}.parquet"
        return self._add(
            "prepare", "data", f"{self.data}", recipe, arguments, folder="data", file=file
        )

    def _selection(self, seed: int) -> tuple[str, str]:
        facts = self.ref.facts
        recipe = {
            "site": "attn_pre_out",
            "unit": "neuron",
            "selection": "random",
            "seed": seed,
            "layers": facts.layers,
            "neurons": facts.neurons,
        }
        return self._add(
            "prepare", "selection", f"order of mask {seed}", recipe, recipe, folder="selections"
        )

    def _donors(self, data: tuple[str, str], source: str, seed: int) -> tuple[str, str]:
        recipe = {"data": data[0], "source": source, "seed": seed}
        masked = self.ref.facts.modality == "masked"
        closing = self.ref.facts.specials.get("eos") if masked else None
        arguments = {**recipe, "data": data[1], "closing": closing}
        label = f"donors {source} {seed}"
        return self._add(
            "prepare", "donors", label, recipe, arguments, after=[data[1]], folder="donors"
        )

    def _centres(self, data: tuple[str, str]) -> dict[str, tuple[str, str]]:
        """Add what the constant methods need, statistics always; return the files per label."""
        counts = self._counts(data)
        self._statistics(counts)
        centres = {}
        for method in self.spec.methods:
            if method.method == "resample":
                continue
            parameters = dict(method.parameters)
            paper = parameters.get("estimator") == "paper"
            of: tuple[str, str] | None = self._fixed(data, counts) if paper else counts
            recipe: dict[str, object] = {"method": method.method, "parameters": parameters}
            if method.method == "zero":
                of = None
                recipe |= {"layers": self.ref.facts.layers, "neurons": self.ref.facts.neurons}
            else:
                recipe["of"] = of and of[0]
            arguments = {
                "site": "attn_pre_out",
                "method": method.method,
                "parameters": parameters,
                "layers": self.ref.facts.layers,
                "neurons": self.ref.facts.neurons,
                "of": of and of[1],
            }
            centres[method.label] = self._add(
                "reduce",
                "centres",
                f"centres {method.label}",
                recipe,
                arguments,
                after=[of[1]] if of else [],
                folder="centres",
            )
        return centres

    def _common(self, data: tuple[str, str]) -> dict[str, object]:
        statistics = self.spec.statistics
        return {
            "site": "attn_pre_out",
            "data": data[1],
            "batch_tokens": self.spec.evaluation.batch_tokens,
            "shards": statistics.shards,
        }

    def _counts(self, data: tuple[str, str]) -> tuple[str, str]:
        statistics = self.spec.statistics
        common = self._common(data)
        settings = {"bins": statistics.bins, "positions": statistics.pilot_positions, "seed": 0}
        on = {"weights": self.ref.facts.digest, "dtype": self.ref.dtype, "data": data[0]}
        recipe = {**common, **settings, **on}
        pilot = self._add(
            "collect",
            "pilot",
            "pilot",
            recipe,
            {**common, **settings},
            after=[data[1]],
            folder="partials",
            on_model=True,
            cost=self.pass_cost,
        )
        parts = [
            self._add(
                "collect",
                "collect",
                f"counts of shard {shard}",
                {"windows": pilot[0], "shard": shard, **on, "shards": statistics.shards},
                {**common, "windows": pilot[1], "shard": shard},
                after=[data[1], pilot[1]],
                folder="partials",
                on_model=True,
                cost=self.pass_cost / statistics.shards,
            )
            for shard in range(statistics.shards)
        ]
        return self._tree("merge", parts)

    def _fixed(self, data: tuple[str, str], counts: tuple[str, str]) -> tuple[str, str]:
        statistics = self.spec.statistics
        common = self._common(data)
        parts = [
            self._add(
                "collect",
                "recount",
                f"fixed counts of shard {shard}",
                {"of": counts[0], "bins": PAPER_BINS, "shard": shard},
                {**common, "of": counts[1], "bins": PAPER_BINS, "shard": shard},
                after=[data[1], counts[1]],
                folder="partials",
                on_model=True,
                cost=self.pass_cost / statistics.shards,
            )
            for shard in range(statistics.shards)
        ]
        return self._tree("merge_fixed", parts)

    def _tree(self, kind: str, parts: Sequence[tuple[str, str]]) -> tuple[str, str]:
        while len(parts) > 1:
            groups = [parts[i : i + FAN_IN] for i in range(0, len(parts), FAN_IN)]
            parts = [
                self._add(
                    "reduce",
                    kind,
                    f"{kind.replace('_', ' ')} of {len(group)}",
                    {"of": [n for n, _ in group]},
                    {"parts": [f for _, f in group]},
                    after=[f for _, f in group],
                    folder="partials",
                )
                for group in groups
            ]
        return parts[0]

    def _statistics(self, counts: tuple[str, str]) -> None:
        facts = self.ref.facts
        arguments = {
            "of": counts[1],
            "site": "attn_pre_out",
            "layers": facts.layers,
            "d_head": facts.d_head,
            "dtype": self.ref.dtype,
        }
        self._add(
            "reduce",
            "statistics",
            "statistics",
            {"of": counts[0]},
            arguments,
            after=[counts[1]],
            folder="statistics",
        )
