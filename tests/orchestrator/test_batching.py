"""A batch's size is given, or arithmetic that every machine and every larger sweep agrees on."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import batching
from orchestrator.batching import ACTIVATIONS, tokens, windows
from orchestrator.spec import Spec, parse
from tests.orchestrator import planned
from workers.messages import ModelRef

GIB = 2**30
ZOO = {"layers": 4, "heads": 4, "d_head": 32, "d_model": 128, "d_mlp": 512}
OPT_1_3B = {"layers": 24, "heads": 32, "d_head": 64, "d_model": 2048, "d_mlp": 8192}
SMALL = {"layers": 12, "heads": 12, "d_head": 64, "d_model": 768, "d_mlp": 3072}


def asked(**changes: Any) -> Spec:
    """Return a sweep whose batches have the size that is good."""
    evaluation = {"batch_tokens": "auto", "batch_bytes": GIB, **changes.pop("evaluation", {})}
    models = [{"id": "a", "data": "texts"}]
    raw = planned.raw(models=models, evaluation=evaluation, methods=["mean"])
    return parse({**raw, **changes})


def held(modality: str = "causal", dtype: Any = "float32", **facts: Any) -> ModelRef:
    return ModelRef(
        name="a",
        folder="nowhere",
        dtype=dtype,
        device="cpu",
        threads=1,
        facts=planned.facts(modality, **facts),
    )


def texts(**changes: Any) -> dict[str, Any]:
    return {"source": "documents.jsonl", "document": "name", **changes}


def test_a_given_number_is_what_it_is() -> None:
    spec = asked(evaluation={"batch_tokens": 77})
    assert tokens(spec, held(window=128, **ZOO)) == 77


@pytest.mark.parametrize(
    ("modality", "dtype", "window", "facts", "positions"),
    [
        ("causal", "float32", 128, ZOO, 2048),
        ("masked", "float32", 64, ZOO, 2048),
        ("image", "float32", 17, ZOO, 120 * 17),
        ("causal", "float32", 2048, SMALL, 3 * 2048),
        ("masked", "bfloat16", 512, {**SMALL, "d_model": 1024}, 8192),
        ("image", "bfloat16", 197, SMALL, 31 * 197),
        ("causal", "bfloat16", 2048, OPT_1_3B, 10240),
        ("causal", "float32", 2048, OPT_1_3B, 4096),
    ],
)
def test_sizes_of_models_people_know(
    modality: str, dtype: str, window: int, facts: dict[str, Any], positions: int
) -> None:
    assert tokens(asked(), held(modality, dtype, window=window, **facts)) == positions


@given(
    st.integers(1, 5000),
    st.integers(1, 600),
    st.sampled_from(["float32", "bfloat16"]),
    st.integers(2**20, 2**31),
)
def test_a_batch_is_whole_windows_that_its_bytes_hold_or_one_window(
    d_model: int, window: int, dtype: str, size: int
) -> None:
    found = tokens(
        asked(evaluation={"batch_bytes": size}), held(dtype=dtype, d_model=d_model, window=window)
    )
    assert found % window == 0
    assert found <= max(window, batching.FEWEST, batching.PER_WIDTH * d_model)
    assert found == window or found * d_model * ACTIVATIONS * batching.BYTES[dtype] <= size


def test_more_bytes_never_make_a_smaller_batch_and_half_precision_never_either() -> None:
    sizes = [2**20 * n for n in (1, 10, 100, 1000)]
    of = {
        dtype: [
            tokens(asked(evaluation={"batch_bytes": n}), held(dtype=dtype, window=64, **OPT_1_3B))
            for n in sizes
        ]
        for dtype in ("float32", "bfloat16")
    }
    assert of["float32"] == sorted(of["float32"])
    assert all(b >= f for b, f in zip(of["bfloat16"], of["float32"], strict=True))
    assert len(set(of["float32"])) > 2


def test_a_batch_is_whole_windows_of_what_is_evaluated_and_holds_one_of_all_others() -> None:
    data = {"texts": texts(sequence_length=24), "long": texts(), "longer": texts()}
    ref = held(window=4096, **ZOO)
    assert windows(asked(data=data), ref) == [24, 24]
    assert tokens(asked(data=data), ref) == 2048 // 24 * 24
    statistics = asked(data=data, statistics={"data": "long"})
    assert windows(statistics, ref) == [24, 4096]
    assert tokens(statistics, ref) == 4096
    compared = asked(data=data, selections=["score(rms, low, against=longer)"])
    assert windows(compared, ref) == [24, 24, 4096]
    assert tokens(compared, ref) == 4096


def test_a_cell_keeps_its_name_whatever_else_is_asked_for_and_on_any_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts()})
    given = {"evaluation": {"batch_tokens": "auto"}, "methods": ["mean"]}

    def mean(**changes: Any) -> set[str]:
        made = planned.make(tmp_path, **{**given, **changes})
        return planned.asked(made, method="mean")

    usual = mean()
    assert usual == mean(methods=["mean", "resample", "marginal"])
    assert usual == mean(device="cuda")
    assert usual.isdisjoint(mean(evaluation={"batch_tokens": 64}))
