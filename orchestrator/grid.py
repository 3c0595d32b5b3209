"""Grid: the points of one model in one basis, as numbers, and what they are called.

A sweep is a cross, so a point is four small numbers: its arm (site, unit, layers, rule
and mask), method, fraction and draw. Every arm has the same pattern of methods, fractions
and draws, so all points of a model are one pattern repeated, and a point's number says
where it stands. What is the same for an arm, a method or a fraction is worked out once,
and columns of a million points are taken from it.

Points come in the order of the sweep file: arm by arm, then method, fraction and draw.

Shapes: A arms, P points of one arm, N = A x P points of the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator.arms import MethodSpec
from orchestrator.cells import Arm, Inputs, data_of, draws, rules, seeded, unordered
from orchestrator.held import HeldSet, scope
from orchestrator.labels import rotated
from orchestrator.names import canonical
from orchestrator.spec import Spec
from orchestrator.tables import SCHEMAS
from workers.messages import ModelRef

Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """The arms that differ in their masks alone."""

    arms: tuple[Arm, ...]
    sets: tuple[HeldSet | None, ...]
    """What each fraction holds, in an order yet to come; None at 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One point of a grid."""

    arm: Arm
    method: MethodSpec
    some: HeldSet | None
    """What is held, in an order yet to come; None at fraction 0."""
    label: str
    """What people read, for example `zoo:opt peak at 0.5, mask 3`."""


class Grid:
    """The points of one model in one basis."""

    def __init__(self, spec: Spec, ref: ModelRef, inputs: Inputs) -> None:
        """Work out what each arm, method and fraction has of its own.

        Raises ListError where a file that lists units cannot be read.
        """
        self.spec, self.ref = spec, ref
        self.methods = [m for m in spec.methods if m.fits(ref.facts.modality)]
        self.draws = [draws(spec, m) for m in self.methods]
        self.rules = [_rule(spec, ref, arm, inputs.listed(arm)) for arm in rules(spec, ref)]
        self.arms = [arm for rule in self.rules for arm in rule.arms]
        self.rule_A = np.repeat(np.arange(len(self.rules)), [len(r.arms) for r in self.rules])
        sizes = [(len(spec.fractions), len(some)) for some in self.draws]
        self.method_P = np.repeat(np.arange(len(sizes)), [f * d for f, d in sizes])
        self.fraction_P = _joined([np.repeat(np.arange(f), d) for f, d in sizes])
        self.draw_P = _joined([np.tile(np.arange(d), f) for f, d in sizes])
        labels = [m.label for m in self.methods]
        self._said_MF = [[f"{ref.name} {m} at {f}" for f in spec.fractions] for m in labels]

    def __len__(self) -> int:
        """How many points there are."""
        return len(self.arms) * len(self.method_P)

    def point(self, number: int) -> Point:
        """Return one point."""
        a, p = divmod(number, len(self.method_P))
        m, f = self.method_P[p], self.fraction_P[p]
        arm = self.arms[a]
        return Point(
            arm=arm,
            method=self.methods[m],
            some=self.rules[self.rule_A[a]].sets[f],
            label=self._said_MF[m][f] + _mask(arm),
        )

    def labels(self, number_C: NDArray[np.integer]) -> pa.Array:
        """Return what people read of some points, (C,)."""
        arm_C, point_C = np.divmod(number_C, len(self.method_P))
        fractions = len(self.spec.fractions)
        said = pa.array([text for per_method in self._said_MF for text in per_method], pa.string())
        said_C = (self.method_P * fractions + self.fraction_P)[point_C]
        masks = pa.array([_mask(arm) for arm in self.arms], pa.string())
        return pc.binary_join_element_wise(said.take(said_C), masks.take(arm_C), "")

    def table(self, cell_N: pa.Array) -> pa.Table:
        """Return the points as rows of the cells table, given the cell of each."""
        columns: dict[str, pa.Array] = {"cell": cell_N}
        for name, value in self._of_model().items():
            kind = SCHEMAS["cells"].field(name).type
            columns[name] = pa.repeat(pa.scalar(value, kind), len(self))
        arm_N = np.repeat(np.arange(len(self.arms)), len(self.method_P))
        for name, values in self._of_arms().items():
            columns[name] = pa.array(values, SCHEMAS["cells"].field(name).type).take(arm_N)
        point_N = np.tile(np.arange(len(self.method_P)), len(self.arms))
        for name, values in self._of_pattern().items():
            columns[name] = pa.array(values, SCHEMAS["cells"].field(name).type).take(point_N)
        sets = [[some.units if some else 0 for some in rule.sets] for rule in self.rules]
        held_AF = np.array(sets, np.int64)[self.rule_A]
        columns["units_held"] = pa.array(held_AF[:, self.fraction_P].ravel())
        schema = SCHEMAS["cells"]
        return pa.table([columns[name] for name in schema.names], schema=schema)

    def _of_model(self) -> dict[str, Any]:
        """Return the columns that all points have in common."""
        facts, seeds = self.ref.facts, self.spec.seeds
        return {
            "model": self.ref.name,
            "modality": facts.modality,
            "data": data_of(self.spec, self.ref.name),
            "dtype": self.ref.dtype,
            "basis": rotated(self.ref.basis),
            "complement": self.spec.complement,
            "masking_seed": seeds.masking if facts.modality == "masked" else None,
        }

    def _of_arms(self) -> dict[str, list[Any]]:
        """Return the columns that differ between arms, (A,) each."""
        facts, arms = self.ref.facts, [rule.arms[0] for rule in self.rules]
        units = [scope(facts, a.sites, a.unit, a.layers, self.spec.complement) for a in arms]
        every = tuple(range(facts.layers))
        of_rules: dict[str, list[Any]] = {
            "site": ["+".join(a.sites) for a in arms],
            "unit": [a.unit for a in arms],
            "layers": ["all" if a.layers == every else ",".join(map(str, a.layers)) for a in arms],
            "selection": [a.selection.label for a in arms],
            "units_total": [some.total for some in units],
        }
        columns = {name: [some[r] for r in self.rule_A] for name, some in of_rules.items()}
        return columns | {"seed": [arm.seed for arm in self.arms]}

    def _of_pattern(self) -> dict[str, list[Any]]:
        """Return the columns that differ between the points of an arm, (P,) each."""
        told = [canonical(dict(m.parameters)) for m in self.methods]
        methods = [self.methods[m] for m in self.method_P]
        seeds = [self.draws[m][d] for m, d in zip(self.method_P, self.draw_P, strict=True)]
        drawn = list(zip(methods, seeds, strict=True))
        return {
            "method": [method.method for method in methods],
            "parameters": [told[m] for m in self.method_P],
            "fraction": [float(self.spec.fractions[f]) for f in self.fraction_P],
            "donor_seed": [seed if method.donated else None for method, seed in drawn],
            "noise_seed": [seed if method.drawn else None for method, seed in drawn],
        }


def _rule(spec: Spec, ref: ModelRef, arm: Arm, listed: int | None) -> Rule:
    sets = tuple(unordered(spec, ref, arm, f, listed) for f in spec.fractions)
    return Rule(arms=tuple(seeded(spec, arm)), sets=sets)


def _mask(arm: Arm) -> str:
    return "" if arm.seed is None else f", mask {arm.seed}"


def _joined(parts: Sequence[Numbers]) -> Numbers:
    """Return numbers one after the other; none where no method fits the model."""
    return np.concatenate([np.empty(0, np.int64), *parts])
