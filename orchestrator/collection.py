"""Collection: the tasks that count a model's activations, and what is read off the counts.

    pilot ─ collect x shards ─ merges ─┬─ widen ─ again x shards ─ merges ─┐
                                       │                                   ├─ statistics, centres
                                       └───────────────────────────────────┘
                                       └─ recount x shards ─ merges ─ centres of peak(paper)

The second pass, `again`, is always planned and mostly empty: which neurons had a
poor window is known only once the first is merged. Where there are none, its
tasks write empty files and no model runs.

Strata are counted by a chain of their own, so that asking for them changes no
other number. With statistics that are collected again as ablation proceeds,
`under` does a whole chain in one task for one held set.

Statistics are estimated by groups of planes, a plane being the N neurons of one
layer (and stratum), so that many tasks share the work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from orchestrator import batching
from orchestrator.draft import Draft, Made
from orchestrator.labels import rotated
from orchestrator.spec import Spec
from workers.messages import Counted, ModelFacts, ModelRef, Site

AGAIN = 0.01
"""Cost of a second pass beside the first, as planned: mostly there is nothing to count again."""
GROUP_ROWS = 4096
"""Neurons whose statistics are estimated by one task, at least."""
INTERVALS_UP_TO = 2**18
"""Rows for which intervals are estimated without being asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Where counts lie: of all shards together and of each, with the second pass beside them."""

    merged: Made
    widen: Made | None
    """Which rows were counted once more, and in which wider windows."""
    again: Made | None
    """What that found; it replaces those rows of `merged`."""
    shards: tuple[tuple[Made, Made], ...] = ()
    """Per shard: the first pass and the second; empty where they are not kept apart."""
    counted: Counted

    @property
    def after(self) -> list[Made]:
        """What a task that reads them comes after."""
        return [made for made in (self.merged, self.widen, self.again) if made is not None]

    @property
    def names(self) -> list[str]:
        """What stands for the counts in a recipe."""
        return [made.name for made in self.after]

    @property
    def files(self) -> dict[str, object]:
        """What tells a task where to read them (`orchestrator.overlay`)."""
        widen, again = self.widen and self.widen.file, self.again and self.again.file
        return {"of": self.merged.file, "widen": widen, "again": again}


def counted(spec: Spec, facts: ModelFacts) -> Counted:
    """Return which positions of a model are counted, all in one stratum."""
    positions = spec.statistics.positions
    specials = {facts.specials[k] for k in ("bos", "eos", "pad") if k in facts.specials}
    without = sorted(specials) if positions.specials == "out" else []
    return Counted(skip_first=positions.skip_first, without=tuple(without))


def stratified(spec: Spec, facts: ModelFacts, data: str, by: str) -> Counted | None:
    """Return the strata of a kind, for a model on a source; None if not asked for, or none."""
    asked = next((s for s in spec.statistics.strata if s.by == by), None)
    if asked is None or (by == "class" and facts.modality != "image"):
        return None
    whole = counted(spec, facts)
    window = spec.data[data].window(facts.window)
    if by == "class":
        starts = tuple(range(facts.vocabulary))
    elif isinstance(asked.buckets, tuple):
        starts = tuple(s for s in asked.buckets if s < window)
    else:
        count = min(asked.buckets or window, window)
        starts = tuple(window * i // count for i in range(count))
    return Counted(
        skip_first=whole.skip_first,
        without=whole.without,
        by="class" if by == "class" else "position",
        starts=starts,
    )


class Collection:
    """The tasks of collection of one model at one site on one source."""

    def __init__(self, draft: Draft, site: Site, data_name: str, data: Made) -> None:
        """Start with the pilot; `data` is the table of the source `data_name`."""
        self.draft, self.site, self.data_name, self.data = draft, site, data_name, data
        self.spec: Spec = draft.spec
        self.ref: ModelRef = draft.ref
        facts = self.ref.facts
        positions = self.spec.data[data_name].positions("collect", facts.window)
        self.where = "" if site == "attn_pre_out" else f" at {site}"
        """What tells its tasks apart, for people."""
        self.cost = float(facts.parameters * positions)
        """Of one pass over all shards."""
        self.whole = counted(self.spec, facts)
        self.neurons = facts.neurons_at(site)
        self._on = {"weights": self.ref.weights, "dtype": self.ref.dtype, "data": data.name}
        statistics = self.spec.statistics
        self.settings = {
            "bins": statistics.bins,
            "positions": statistics.pilot_positions,
            "documents": statistics.pilot_documents,
            "seed": statistics.pilot_seed,
            "shards": statistics.shards,
            "batch_tokens": batching.tokens(self.spec, self.ref),
        }
        self.common: dict[str, object] = {
            "site": self.site,
            "data": data.file,
            "data_name": data_name,
            "batch_tokens": batching.tokens(self.spec, self.ref),
            "shards": statistics.shards,
        }
        kept = {"counted": asdict(self.whole)}
        # A sample: some documents, a window of each, and on until it has its positions.
        sample = statistics.pilot_positions + statistics.pilot_documents * facts.window
        self.pilot = draft.partial(
            "pilot",
            f"pilot{self.where}",
            {"site": self.site, **self.settings, **self._on, **kept},
            {**self.common, **self.settings, **kept},
            after=[data],
            cost=float(facts.parameters * min(positions, sample)),
        )

    def counts(self, counted: Counted | None = None) -> Counts:
        """Add both passes over every shard, and their merges."""
        counted = counted or self.whole
        kept = {"counted": asdict(counted)}
        first = self._shards("collect", "counts", self.pilot, kept)
        merged = self.draft.tree("merge", first, self.data_name)
        widen = self.draft.partial(
            "widen",
            f"wider windows{self.where}",
            {"of": merged.name, "dtype": self.ref.dtype},
            {"of": merged.file, "dtype": self.ref.dtype, "data_name": self.data_name},
            after=[merged],
        )
        second = self._shards("again", "second counts", widen, kept)
        again = self.draft.tree("merge", second, self.data_name)
        shards = tuple(zip(first, second, strict=True))
        return Counts(merged=merged, widen=widen, again=again, shards=shards, counted=counted)

    def fixed(self, counts: Counts, ends: str, bins: int) -> Made:
        """Add the counts between the ends `of each neuron`, or `of all neurons` together."""
        how = {"bins": bins, "ends": ends, "counted": asdict(counts.counted)}
        parts = self._shards("recount", "fixed counts", counts.merged, how)
        return self.draft.tree("merge_fixed", parts, self.data_name)

    def under(
        self,
        label: str,
        recipe: Mapping[str, object],
        arguments: Mapping[str, object],
        *,
        after: Sequence[Made],
        passes: int,
    ) -> Counts:
        """Add one task that counts all shards, pilot and second pass included, under ablation."""
        kept = {"counted": asdict(self.whole)}
        made = self.draft.partial(
            "under",
            label,
            {"site": self.site, **self.settings, **self._on, **kept, **recipe},
            {**self.common, **self.settings, **kept, **arguments},
            after=[self.data, *after],
            cost=self.cost * passes,
        )
        return Counts(merged=made, widen=None, again=None, counted=self.whole)

    def _shards(self, kind: str, label: str, source: Made, how: Mapping[str, object]) -> list[Made]:
        """Add a task for every shard that reads `source` and counts as `how` says."""
        shards = self.spec.statistics.shards
        return [
            self.draft.partial(
                kind,
                f"{label} of shard {shard}{self.where}",
                {"from": source.name, **how, "shard": shard, "shards": shards, **self._on},
                {**self.common, **how, "from": source.file, "shard": shard},
                after=[self.data, source],
                cost=self.cost / shards * (AGAIN if kind == "again" else 1),
            )
            for shard in range(shards)
        ]

    def statistics(self, counts: Counts, cell: str | None = None) -> tuple[Made, ...]:
        """Add the tables of statistics, one per group of planes; `cell` is the ablation if any."""
        facts = self.ref.facts
        planes = len(counts.counted.starts) * facts.layers
        step = max(1, GROUP_ROWS // self.neurons)
        asked = self.spec.statistics.intervals
        small = planes * self.neurons <= INTERVALS_UP_TO
        jackknife = bool(counts.shards) and (small if asked == "auto" else asked)
        shards = counts.shards if jackknife else ()
        made = []
        for start in range(0, planes, step):
            span = {"start": start, "stop": min(start + step, planes)}
            table = self.draft.add(
                "reduce",
                "statistics",
                f"statistics from plane {start}{self.where}",
                {
                    "of": counts.names,
                    **span,
                    "shards": [s.name for pair in shards for s in pair],
                    **({} if cell is None else {"cell": cell}),
                },
                {
                    **counts.files,
                    **span,
                    "shards": [[one.file, two.file] for one, two in shards],
                    "site": self.site,
                    "layers": facts.layers,
                    "neurons": self.neurons,
                    "d_head": facts.d_head,
                    "dtype": self.ref.dtype,
                    "basis": rotated(self.ref.basis),
                    "data_name": self.data_name,
                    "by": counts.counted.by,
                    "starts": list(counts.counted.starts),
                    "cell": cell,
                },
                after=[*counts.after, *(s for pair in shards for s in pair)],
                folder="statistics",
            )
            made.append(table)
        return tuple(made)
