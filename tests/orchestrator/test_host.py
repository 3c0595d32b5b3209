"""The process that holds a model does nothing on another one."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.host import Host
from orchestrator.store import Store
from orchestrator.tasks import Task
from tests.orchestrator import bundled
from workers.messages import ModelRef


@pytest.fixture(scope="module")
def ref() -> ModelRef:
    return bundled.vit()


def norms(ref: ModelRef, name: str) -> Task:
    return Task(
        name=name,
        stage="collect",
        kind="norms",
        label=f"{ref.label} norms",
        file=f"partials/{name}.arrow",
        model=ref,
        arguments={"site": "attn_pre_out"},
    )


def test_a_task_for_other_axes_of_the_same_model_is_refused(ref: ModelRef, tmp_path: Path) -> None:
    host = Host(Store.open(tmp_path), "w")
    host.load(ref)
    host.do(norms(ref, "own"))
    turned = replace(ref, basis=3)
    with pytest.raises(RuntimeError, match="is for zoo:vit rotated 3, and this process holds zoo:"):
        host.do(norms(turned, "turned"))
    assert not (tmp_path / "partials/turned.arrow").exists()
    host.load(turned)
    host.do(norms(turned, "turned"))
    own, other = (host.store.table(f"partials/{name}.arrow") for name in ("own", "turned"))
    assert not own.column("l1").equals(other.column("l1"))
