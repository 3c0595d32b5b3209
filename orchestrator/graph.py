"""The graph: the tasks of one model, each after the tasks whose files it reads.

    data ─┬─ donors ──────────────────────────────────────┐
          ├─ collection ─┬─ statistics ─┬─ orders ────────┤
          │              │              └─ learned ───────┼─ cells
          │              └─ centres ──────────────────────┤
          └─ random masks ── effects ── orders ───────────┘

Collection is a graph of its own (`orchestrator.collection`), as are the orders in which
units are held (`orchestrator.orders`). Where statistics are collected again as
ablation proceeds, collection also builds on orders and centres (`orchestrator.chains`).

Each basis of a model has a graph; what knows nothing of the model's axes, as its data,
has the same name in all of them and is made once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator import batching, feeding
from orchestrator.arms import MethodSpec
from orchestrator.cells import turned
from orchestrator.collection import Collection, Counts, stratified
from orchestrator.draft import Draft, Made
from orchestrator.labels import rotated
from orchestrator.names import canonical, data_file
from orchestrator.spec import Spec
from workers.messages import ModelRef, Site
from workers.published import PUBLISHED

DRAWS = 8
"""Donors of a sequence where layers, heads or neurons take theirs independently."""


class Graph:
    """Adds the tasks of one model in one basis, but for its orders and evaluations."""

    def __init__(
        self,
        spec: Spec,
        ref: ModelRef,
        data: str,
        base: Path,
        digests: Mapping[str, str],
        plugins: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Start with the data; `digests` are those of the data sources, by name.

        `plugins` are a user's own methods, by name, as told to tasks.
        """
        self.spec, self.ref, self.data_name = spec, ref, data
        self.base, self.digests, self.plugins = base, digests, plugins
        self.draft = Draft(spec, ref)
        groups = turned(spec, ref)
        self.sites = tuple(dict.fromkeys(site for group in groups for site in group))
        self.collected_on = spec.statistics.data or data
        self.data = self._data(data)
        self._collections: dict[tuple[Site, str], Collection] = {}
        self._counts: dict[tuple[Site, str], Counts] = {}
        self._tables: dict[tuple[Site, str], tuple[Made, ...]] = {}
        self._strata: dict[tuple[Site, str], Counts] = {}
        self._centres: dict[tuple[Site, str], Made] = {}

    def build(self) -> None:
        """Add what every sweep leaves: statistics, and the constants of its methods."""
        for site in self.sites:
            self.tables(site)
            for by in ("position", "class"):
                self._stratified(site, by)
            for method in self.spec.methods:
                if method.constant and method.method != "optimal":
                    self.centre(site, method)

    @property
    def starts(self) -> tuple[int, ...]:
        """First position of every bucket, for constants by position."""
        found = stratified(self.spec, self.ref.facts, self.collected_on, "position")
        return found.starts if found else ()

    def collection(self, site: Site, source: str | None = None) -> Collection:
        """Return the collection at a site, on the sweep's source or another."""
        source = source or self.collected_on
        if (site, source) not in self._collections:
            made = Collection(self.draft, site, source, self._data(source))
            self._collections[site, source] = made
        return self._collections[site, source]

    def counts(self, site: Site, source: str | None = None) -> Counts:
        """Return the counts of the bare model at a site."""
        key = (site, source or self.collected_on)
        if key not in self._counts:
            self._counts[key] = self.collection(*key).counts()
        return self._counts[key]

    def tables(self, site: Site, source: str | None = None) -> tuple[Made, ...]:
        """Return the statistics of the bare model at a site."""
        key = (site, source or self.collected_on)
        if key not in self._tables:
            self._tables[key] = self.collection(*key).statistics(self.counts(*key))
        return self._tables[key]

    def _stratified(self, site: Site, by: str) -> Counts | None:
        counted = stratified(self.spec, self.ref.facts, self.collected_on, by)
        if counted is not None and (site, by) not in self._strata:
            made = self._strata[site, by] = self.collection(site).counts(counted)
            self.collection(site).statistics(made)
        return self._strata.get((site, by))

    def centre(self, site: Site, method: MethodSpec) -> Made:
        """Return the constants of a method at a site, from the bare model's statistics."""
        if (site, method.label) not in self._centres:
            self._centres[site, method.label] = self._centre(site, method)
        return self._centres[site, method.label]

    def _centre(self, site: Site, method: MethodSpec) -> Made:
        if method.method == "zero":
            return self.centre_of(site, method, None)
        if method.plugin is not None:
            return self.centre_of(site, method, self.tables(site))
        if method.by_position:
            return self.centre_of(site, method, self._stratified(site, "position"))
        whole = self.counts(site)
        if not method.published:
            return self.centre_of(site, method, whole)
        of = PUBLISHED[method.estimator]
        return self.centre_of(site, method, self.collection(site).fixed(whole, of.ends, of.bins))

    def centre_of(
        self,
        site: Site,
        method: MethodSpec,
        of: Counts | Made | tuple[Made, ...] | None,
        cell_of: Callable[[Made], str] | None = None,
    ) -> Made:
        """Add the constants of a method from counts, fixed counts or tables.

        `cell_of` names the one cell they are for.
        """
        facts = self.ref.facts
        how: dict[str, object] = {"method": method.method, "parameters": dict(method.plain)}
        shape = {"layers": facts.layers, "neurons": facts.neurons_at(site)}
        recipe = {**how, **self.axes}
        arguments: dict[str, object] = {**how, **shape, "site": site}
        after: list[Made] = []
        if isinstance(of, Counts):
            recipe["of"], after = of.names, of.after
            arguments |= {**of.files, "starts": list(of.counted.starts), "by": of.counted.by}
        elif isinstance(of, Made):
            recipe["of"], after = of.name, [of]
            arguments["of"] = of.file
        elif of is not None:
            recipe["of"], after = [made.name for made in of], list(of)
            recipe["plugin"] = self.plugins[method.method]["digest"]
            arguments |= {
                "statistics": [made.file for made in of],
                "plugin": self.plugins[method.method],
            }
        else:
            recipe |= {**shape, "site": site}
        if cell_of is not None:  # all that changes the cell's name, but for these constants
            recipe["for"] = cell_of(Made(name="", file=""))
        made = self.draft.named("centres", recipe, "centres")
        return self.draft.add(
            "reduce",
            "centres",
            f"centres {method.label} at {site}",
            recipe,
            {
                **arguments,
                "basis": rotated(self.ref.basis),
                "data_name": self.collected_on,
                "cell": cell_of and cell_of(made),
            },
            after=after,
            folder="centres",
        )

    @property
    def axes(self) -> dict[str, object]:
        """What tells the recipes of a rotated model apart where nothing else in them does."""
        return {} if self.ref.basis is None else {"basis": self.ref.basis}

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
            **feeding.told(data, self.ref),
        }
        reading = data.reading()
        if reading:  # left out where it is the default, which is what older names had
            recipe["reading"] = reading
        arguments = {
            "data_name": key,
            "classes": facts.vocabulary,
            "source": data.source,
            "base": str(self.base),
            "folder": self.ref.folder,
            **recipe,
        }
        file = data_file(self.ref.name, key)
        cost = sum(data.positions(role, facts.window) for role in ("collect", "evaluate"))
        return self.draft.add(
            *("prepare", "data", key, recipe, arguments),
            folder="data",
            file=file,
            cost=float(cost),
        )

    def donors(self, method: MethodSpec, seed: int | None) -> Made:
        """Return whose donor is whose, for a method that takes donors; paired ones have no seed."""
        facts = self.ref.facts
        masked = facts.modality == "masked"
        source = method.source(facts.modality)
        draws = 1 if method.word("drawn") == "joint" else DRAWS
        how: dict[str, object] = {"source": source, "seed": seed}
        choices = {
            "donor": method.word("donor"),
            "behaviour": method.word("behaviour"),
            "draws": draws,
        }
        made_up: dict[str, object] = {}
        if source not in ("dataset", "paired"):
            made_up = {
                "vocabulary": facts.vocabulary,
                "tokenizer": facts.tokenizer,
                "specials": dict(facts.specials),
                "masking": self.spec.seeds.masking if masked else None,
            }
        generated = None
        if source == "generated" and seed is not None:
            generated = self._generated(seed, draws)
        recipe = {"data": self.data.name, **how, **choices, **made_up}
        if generated is not None:
            recipe["generated"] = generated.name
        # Where only a document's first window begins with bos, donors are matched on it.
        first = self.spec.data[self.data_name].bos == "first"
        arguments = {
            **how,
            **choices,
            "specials": dict(facts.specials),
            "vocabulary": facts.vocabulary,
            "modality": facts.modality,
            "window": facts.window,
            "masking": self.spec.seeds.masking if masked else None,
            "folder": self.ref.folder,
            "data": self.data.file,
            "data_name": self.data_name,
            "opening": facts.specials.get("bos") if first else None,
            "closing": facts.specials.get("eos") if masked else None,
            "generated": generated.file if generated else None,
        }
        return self.draft.add(
            "prepare",
            "donors",
            f"donors {canonical(how)}",
            recipe,
            arguments,
            after=[self.data, *([generated] if generated else [])],
            folder="donors",
        )

    def _generated(self, seed: int, draws: int) -> Made:
        """Add the texts that the model itself writes as donors."""
        facts = self.ref.facts
        on = {"weights": self.ref.weights, "dtype": self.ref.dtype, "data": self.data.name}
        how: dict[str, object] = {
            "seed": seed,
            "draws": draws,
            "batch_tokens": batching.tokens(self.spec, self.ref),
        }
        positions = self.spec.data[self.data_name].positions("evaluate", facts.window)
        return self.draft.partial(
            "generate",
            f"texts of its own, seed {seed}",
            {**how, **on},
            {**how, "data": self.data.file, "data_name": self.data_name},
            after=[self.data],
            cost=float(facts.parameters * positions * draws),
        )
