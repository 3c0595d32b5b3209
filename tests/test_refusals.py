"""Wrong sweeps, each refused before any work: exit 2, or 3 where the cluster is too small."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator import sweep
from orchestrator.mistakes import SpecError
from tests.sweeps import peaksweep, written
from tests.workers import tiny

RIGHT = "models: [zoo:opt]\nmethods: [zero, mean]\n"
MLP = "sites: [mlp_mid]\n"
AGAIN = "selections: ['score(rms, low, each_fraction)']\n"


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose weights are a pickle."""
    folder = tiny.folder("opt", tmp_path_factory.mktemp("pickled"))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says it is a masked model and has no head."""
    folder = tiny.folder("roberta", tmp_path_factory.mktemp("headless"))
    weights = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in weights.items() if not k.startswith("lm_head")}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def mistakes(folder: Path, text: str) -> dict[str, str]:
    with pytest.raises(SpecError) as refused:
        sweep.run(written(folder, text), out=folder / "run", local=True)
    assert not (folder / "run").exists()
    return {m.path: m.message for m in refused.value.mistakes}


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        (RIGHT + "fractoins: [0.5]\n", "fractoins", "did you mean 'fractions'"),
        (RIGHT.replace("zoo:opt", "zoo:otp"), "models[0]", "Known: "),
        (RIGHT.replace("zoo:opt", "./nowhere"), "models[0]", "there is no folder"),
        (RIGHT.replace("zoo:opt", "org/name"), "models[0]", "needs a `revision`"),
        (RIGHT + "fractions: [1.2]\n", "fractions", "between 0 and 1"),
        (RIGHT.replace("mean", "maen"), "methods[1]", "did you mean 'mean'"),
        (RIGHT.replace("mean", "optimal(alpha=0.5)"), "methods[1]", "leave alpha out"),
        (RIGHT.replace("mean", "quantile(1.5)"), "methods[1]", "from 0 to 1"),
        (RIGHT.replace("mean", "mean(position)"), "methods[1]", "statistics by position"),
        (RIGHT.replace("mean", "resample(per_head)") + MLP, "methods[1]", "has no heads"),
        (RIGHT.replace("mean", "resample(random_pixels)"), "methods[1]", "fits none"),
        (RIGHT + "sites: [mlp_in]\n", "sites[0]", "did you mean 'mlp_mid'"),
        (RIGHT + MLP + "units: [head]\nfractions: [0.5]\n", "sites[0]", "mlp_mid has no heads"),
        (RIGHT + "layers: [0, 4]\n", "layers", "has no layer 4"),
        (RIGHT + "basis: rotated\n", "basis", "`{rotate: 0}`"),
        (RIGHT + "selections: [score(rms)]\n", "selections[0]", "which end of 'rms'"),
        (RIGHT + "selections: ['score(rms, high, against=x)']\n", "selections[0]", "named 'x'"),
        (RIGHT + "selections: ['score(difference, high)']\n", "selections[0]", "two data sets"),
        (RIGHT + "selections: [explicit(none.npy)]\n", "selections[0]", "cannot be read"),
        (RIGHT + "selections: [regression(share=0)]\n", "selections[0]", "share held"),
        (RIGHT.replace("mean", "noise") + AGAIN, "selections[0]", "which noise is not"),
        (RIGHT + AGAIN + "complement: true\n", "complement", "no complement"),
        (RIGHT + "contrasts: [[mean, random]]\n", "contrasts[0]", "not of one kind"),
        (RIGHT + "evaluation: {metrics: [top2]}\n", "evaluation.metrics[0]", "top10"),
        (RIGHT + "seeds: []\n", "seeds", "at least one"),
        (RIGHT + "fractions: [0.001]\n", "fractions", "holds nothing"),
        (
            RIGHT + "data: {d: {source: missing.jsonl}}\n",
            "data.d.source",
            "there is no file",
        ),
        (
            RIGHT + "data: {d: {source: 'zoo:text', evaluate: {sequences: 0}}}\n",
            "data.d.evaluate.sequences",
            "greater than 0",
        ),
        (
            RIGHT
            + "data: {d: {source: 'zoo:text', collect: {split: test}, evaluate: {split: test}}}\n",
            "data.d",
            "same documents",
        ),
        (RIGHT + "data: {d: {source: 'zoo:digits'}}\n", "models[0]", "no data source fits"),
    ],
)
def test_a_wrong_sweep_is_refused_with_its_path_and_cure(
    text: str, path: str, says: str, tmp_path: Path
) -> None:
    found = mistakes(tmp_path, text)
    assert list(found) == [path]
    assert says in found[path]


def test_pickled_weights_are_refused(pickled: Path, tmp_path: Path) -> None:
    found = mistakes(tmp_path, RIGHT.replace("zoo:opt", str(pickled)))
    assert "safetensors" in found["models[0]"]


def test_a_checkpoint_without_its_head_is_refused(headless: Path, tmp_path: Path) -> None:
    found = mistakes(tmp_path, RIGHT.replace("zoo:opt", str(headless)))
    assert "lm_head" in found["models[0]"]


def test_all_mistakes_of_one_file_are_listed_together(
    pickled: Path, headless: Path, tmp_path: Path
) -> None:
    text = f"""
models: [zoo:otp, {pickled}, {headless}, ./nowhere]
methods: [zero, maen]
fractions: [1.2]
seeds: []
sites: [mlp_in]
data:
  d: {{source: missing.jsonl}}
typo: 1
"""
    found = mistakes(tmp_path, text)
    assert set(found) == {
        *(f"models[{i}]" for i in range(4)),
        "methods[1]",
        "fractions",
        "seeds",
        "sites[0]",
        "data.d.source",
        "typo",
    }


def test_the_command_line_says_it_and_ends_with_2(tmp_path: Path) -> None:
    ended = peaksweep("run", written(tmp_path, "models: [zoo:otp]\n"), "--out", tmp_path / "run")
    assert ended.returncode == 2
    assert "2 mistakes" in ended.stderr
    assert "models[0]: " in ended.stderr
    assert "methods: is missing" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_device_that_the_cluster_lacks_ends_with_3_before_any_work(tmp_path: Path) -> None:
    text = RIGHT + "cluster: {device: cuda}\n"
    ended = peaksweep("run", written(tmp_path, text), "--out", tmp_path / "run")
    assert ended.returncode == 3, ended.stderr
    assert "has no GPU" in ended.stderr
    assert not list((tmp_path / "run").glob("data/**/*"))


def test_a_plan_that_the_cluster_cannot_hold_ends_with_3_before_any_work(tmp_path: Path) -> None:
    text = RIGHT + "evaluation: {batch_tokens: 1000000000}\n"
    ended = peaksweep("run", written(tmp_path, text), "--out", tmp_path / "run")
    assert ended.returncode == 3, ended.stderr
    assert "GiB" in ended.stderr
    assert not list((tmp_path / "run").glob("data/**/*"))


def test_the_plan_is_the_same_as_json_and_changes_nothing(tmp_path: Path) -> None:
    ended = peaksweep("plan", written(tmp_path, RIGHT), "--json")
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    made = sweep.plan(tmp_path / "sweep.yaml")
    assert [c["name"] for c in said["cells"]] == list(made.cells)
    assert [t["name"] for t in said["tasks"]] == [t.name for t in made.tasks]
    assert {p.name for p in tmp_path.iterdir()} == {"sweep.yaml"}
