"""A sweep over models and data of a hub is planned without one, and run only with."""

from pathlib import Path

import pytest

from orchestrator import budget as budgeting
from orchestrator import sweep
from orchestrator.absent import absent, told
from orchestrator.footprint import layer_weights
from orchestrator.mistakes import SpecError
from orchestrator.plan import Plan
from orchestrator.remarks import remarks

PAPER = Path(__file__).parents[2] / "examples" / "paper.yaml"


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Look for hub models in an empty cache, and do not ask the hub."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def paper(nowhere: None) -> Plan:
    return sweep.plan(PAPER)


def test_the_papers_experiment_has_its_models_neurons_and_fractions(paper: Plan) -> None:
    shapes = {name: (ref.facts.layers, ref.facts.neurons) for name, ref in paper.models.items()}
    assert shapes == {
        "facebook/opt-1.3b": (24, 2048),
        "mistralai/Mistral-7B-v0.1": (32, 4096),
        "FacebookAI/roberta-large": (24, 1024),
        "google/vit-base-patch16-224": (12, 768),
    }
    assert [float(f) for f in paper.spec.fractions] == [i / 10 for i in range(11)]
    positions = {
        key: paper.spec.data[key].positions("collect", 197 if key == "imagenet-1k" else 2048)
        for key in paper.spec.data
    }
    assert positions == {"pile": 100_000, "pile_512": 100_000, "imagenet-1k": 197_000}
    assert len(paper.tasks) > 300


def test_sizes_are_those_of_the_published_checkpoints(paper: Plan) -> None:
    billions = {name: ref.facts.parameters / 1e9 for name, ref in paper.models.items()}
    known = {
        "facebook/opt-1.3b": 1.3158,
        "mistralai/Mistral-7B-v0.1": 7.2417,
        "FacebookAI/roberta-large": 0.3554,
        "google/vit-base-patch16-224": 0.0866,
    }
    assert billions == pytest.approx(known, rel=1e-3)
    for ref in paper.models.values():
        assert 0.8 < layer_weights(ref.facts) / ref.facts.parameters < 1
    needs = budgeting.budget(paper)
    assert all(need.replica_bytes > 0 and need.seconds > 0 for need in needs.needs)


def test_what_is_absent_is_said_with_the_cure(paper: Plan) -> None:
    said = absent(paper)
    assert len(said) == 4 + 3
    assert "facebook/opt-1.3b is not on this machine; a run downloads it" in said[0]
    assert next(remarks(paper)).startswith("SYMBOLIC: ")
    assert list(told(paper))[1:] == said


def test_a_plan_of_what_is_here_says_nothing_of_it() -> None:
    assert not list(told(sweep.plan(PAPER.with_name("peak_or_mean.yaml"))))


def test_a_run_refuses_what_it_cannot_get(nowhere: None, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        sweep.run(PAPER, out=tmp_path / "run", local=True)
    paths = {mistake.path for mistake in caught.value.mistakes}
    assert {f"models[{i}]" for i in range(4)} <= paths
    assert not (tmp_path / "run").exists()
    assert "network" in str(caught.value) or "HF_HUB_OFFLINE" in str(caught.value)
