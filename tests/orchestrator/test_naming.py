"""Names put together from pieces are those of the recipes written out, point by point."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import plan as planning
from orchestrator.cells import Inputs, bare, draws, held, recipe, rules, seeded
from orchestrator.grid import Grid
from orchestrator.names import name
from orchestrator.naming import Named, named
from orchestrator.plan import Plan
from tests.orchestrator import planned

Slow = list[tuple[str, str, bool]]

SWEEPS: dict[str, dict[str, Any]] = {
    "every kind of value": {
        "models": ["a", "m"],
        "methods": [
            *("zero", "mean", "mean(position)", "mean(alpha=0.5)", "quantile(0.9)", "peak(paper)"),
            *("noise", "marginal", "nearest_peak", "resample", "resample(random)"),
            *("mine", "drawer"),
        ],
        "fractions": [0, 0.05, 0.5, 1],
        "seeds": {"masks": 2, "donors": 2, "noise": [5, 6]},
        "statistics": {"shards": 2, "strata": ["position"]},
    },
    "bases, heads and several sites": {
        "basis": {"rotate": [0]},
        "sites": ["attn_pre_out", ["attn_pre_out", "mlp_mid"]],
        "fractions": [0, 0.5, 1],
    },
    "units": {"units": ["neuron", "head"], "fractions": [0, 0.5, 1]},
    "each layer": {"layers": "each", "fractions": [0, 0.5, 1]},
    "complements": {"complement": True, "layers": [0, 2], "fractions": [0, 0.3, 1]},
    "complements of all": {"complement": True, "fractions": [0, 0.3, 1]},
    "rules": {
        "selections": [
            *("random", "random(global)", "score(rms, low)", "regression"),
            {"explicit": {"file": "units.npy"}},
        ],
        "fractions": [0, 0.25, 1],
    },
    "learned": {"methods": ["mean", "optimal", "optimal(shared)"], "fractions": [0, 0.5, 1]},
    "in sequence": {
        "methods": ["zero", "mean", "resample"],
        "statistics": {"shards": 2, "mode": "layers_in_sequence"},
        "fractions": [0, 0.5, 1],
    },
    "per fraction": {
        "methods": ["mean", "zero"],
        "statistics": {"shards": 2, "mode": "per_fraction"},
        "fractions": [0, 0.3, 0.5, 1],
    },
    "scored again": {
        "methods": ["zero", "mean"],
        "selections": ["random", "score(rms, low, each_fraction)"],
        "fractions": [0, 0.3, 0.5, 1],
    },
    "rounds, kl and compiling": {
        "evaluation": {"batch_tokens": 64, "metrics": ["ce", "kl"]},
        "compile": True,
        "seeds": {"masks": 2, "visits": 3},
    },
    "nothing held": {"fractions": [0]},
}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    planned.documents(tmp_path)
    planned.listing(tmp_path, [(0, 1), (2, 3), (1, 4), (1, 0)])
    models = {"a": planned.facts(), "m": planned.facts("masked"), "i": planned.facts("image")}
    planned.know(monkeypatch, models)
    return tmp_path


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, dict[str, Any]], tuple[Plan, Slow]]:
    """Make a plan, and name its points one by one: name, order's file, whether any unit is held."""

    def make(base: Path, changes: dict[str, Any]) -> tuple[Plan, Slow]:
        slow: Slow = []

        def both(grid: Grid, inputs: Inputs) -> Named:
            done = named(grid, inputs)
            slow.extend(written_out(grid, inputs))
            return done

        monkeypatch.setattr(planning, "named", both)
        plugins = [planned.plugin("mine", x=1.5), planned.plugin("drawer", "replacing")]
        return planned.make(base, plugins=plugins, **changes), slow

    return make


def written_out(grid: Grid, inputs: Inputs) -> Slow:
    """Return what a grid's points are named, each from its whole recipe."""
    spec, ref, found = grid.spec, grid.ref, []
    unablated = bare(spec, ref, inputs.data)
    for rule in rules(spec, ref):
        for arm in seeded(spec, rule):
            for method in spec.methods:
                for fraction in spec.fractions if method.fits(ref.facts.modality) else ():
                    for draw in draws(spec, method):
                        some = held(spec, ref, inputs, arm, method, fraction)
                        if some is None or not some.units:
                            found.append((name("cell", unablated), "", False))
                            continue
                        values = inputs.values(arm, method, some, draw)
                        made = name("cell", recipe(unablated, method, some, values))
                        order = "" if some.whole is not None else some.order.file
                        found.append((made, order, True))
    return found


@pytest.mark.parametrize("kind", SWEEPS)
def test_names_are_those_of_whole_recipes(
    base: Path,
    slowly: Callable[[Path, dict[str, Any]], tuple[Plan, Slow]],
    kind: str,
) -> None:
    plan, slow = slowly(base, SWEEPS[kind])
    assert plan.rows.column("cell").to_pylist() == [made for made, _, _ in slow]
    assert list(plan.cells) == list(dict.fromkeys(made for made, _, _ in slow))
    for made, order, is_held in slow:
        cell = plan.cells[made]
        assert (cell.arguments != {}) == is_held
        assert (cell.arguments.get("selection") or "") == order
        assert {f for f in cell.after if f.startswith("selections/")} == {order} - {""}


def test_points_that_share_a_cell_are_one_cell_said_by_the_first(base: Path) -> None:
    plan = planned.make(base, fractions=[0, 0.5, 1], basis={"rotate": 3})
    shared = planned.points(plan, fraction=0)
    assert len({row["cell"] for row in shared}) == 2  # the model, and the rotated model
    assert plan.cells[shared[0]["cell"]].label == "a zero at 0, mask 0"
    whole = planned.points(plan, fraction=1, method="mean", basis="own")
    assert [row["seed"] for row in whole] == [0, 1]
    assert len({row["cell"] for row in whole}) == 1


def test_a_model_that_no_method_fits_has_no_points(base: Path) -> None:
    data = {
        "texts": {"source": "documents.jsonl", "document": "name"},
        "digits": {"source": "zoo:digits"},
    }
    plan = planned.make(base, models=["a", "i"], data=data, methods=["resample(generated)"])
    assert plan.cells.counts == {"a": len(plan.cells), "i": 0}
    assert plan.rows.column("model").unique().to_pylist() == ["a"]
