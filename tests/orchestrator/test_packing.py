"""What packed weights cannot give is refused in the plan; what they can is another model's."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator import packing
from orchestrator.footprint import footprint, layer_weights, weight_bytes
from orchestrator.mistakes import SpecError
from orchestrator.plan import Plan
from tests.orchestrator import planned

SHAPE = {"layers": 3, "heads": 4, "d_head": 8, "d_model": 32, "d_mlp": 128, "vocabulary": 61}
INSIDE = 3 * (4 * 32 * 32 + 2 * 32 * 128)
PARAMETERS = INSIDE + 61 * 32 + 997


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Plan a sweep of one model, on a machine that has torchao."""
    planned.documents(tmp_path)
    monkeypatch.setattr(packing, "find_spec", lambda name: name)
    facts = planned.facts(kv_heads=4, parameters=PARAMETERS, **SHAPE)
    planned.know(monkeypatch, {"a": facts})

    def build(packed: str | None = "int8", dtype: str = "float32", **changes: Any) -> Plan:
        model = {"id": "a", "dtype": dtype} | ({"packed": packed} if packed else {})
        return planned.make(tmp_path, **{"models": [model], "methods": ["mean"], **changes})

    return build


def test_packed_weights_are_another_model(plan) -> None:  # type: ignore[no-untyped-def]
    whole, packed = plan(None), plan()
    assert not planned.names(whole, "collect") & planned.names(packed, "collect")
    assert planned.names(whole, "data") == planned.names(packed, "data")
    assert packed.models["a"].weights.endswith(" packed int8")


@pytest.mark.parametrize(("packed", "each"), [("int8", 1.0), ("int4", 0.625)])
def test_the_layers_matrices_take_fewer_bytes(plan, packed: str, each: float) -> None:  # type: ignore[no-untyped-def]
    made = plan(packed, "bfloat16")
    ref = made.models["a"]
    assert layer_weights(ref.facts) == INSIDE
    assert weight_bytes(ref) == (PARAMETERS - INSIDE) * 2 + INSIDE * each
    assert footprint(made.spec, ref).projections == 0  # nothing is folded


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"basis": {"rotate": 0}}, "basis"),
        ({"compile": True}, "compile"),
        ({"methods": ["mean", "optimal"]}, r"methods\[1\]"),
        ({"statistics": {"mode": "per_fraction"}}, "statistics.mode"),
        ({"selections": ["score(wanda, low)"]}, r"selections\[0\]"),
        ({"packed": "int4", "dtype": "float16"}, r"models\[0\].packed: .* bfloat16"),
        (
            {"packed": "int4", "dtype": "bfloat16", "cluster": {"device": "cpu"}},
            r"models\[0\].packed: .* GPU",
        ),
    ],
)
def test_what_writes_or_reads_weights_is_refused(plan, changes: dict[str, Any], path: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpecError, match=path):
        plan(**changes)


def test_a_machine_without_the_library_is_told_to_install_it(
    plan,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match="pip install torchao"):
        plan()
    plan(None)
