"""What notebooks do: a cell computed again says what the run says, and what the docs show runs."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
import torch
import transformers

from orchestrator import rerun, results, sweep
from orchestrator.mistakes import SpecError
from orchestrator.rerun import NotTheSameError, run_cell
from orchestrator.results import NotInRunError, Run
from tests.sweeps import written

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebooks" / "from_spec_to_figure.ipynb"

TINY = """
name: tiny
models: [zoo:opt]
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 8}
    evaluate: {split: test, sequences: 6}
methods: [mean, resample]
fractions: [0.5]
seeds: 1
statistics: {shards: 2}
"""

EVERY_KIND = """
name: kinds
models: [zoo:mistral, zoo:roberta, zoo:vit, {id: zoo:opt, dtype: bfloat16}]
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 8}
    evaluate: {split: test, sequences: 6}
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 24}
    evaluate: {split: test, sequences: 12}
methods: [zero, peak, mean(alpha=0.5), noise, marginal, nearest_peak, resample]
fractions: [0.5]
seeds: 1
sites: [attn_pre_out, mlp_mid]
statistics: {shards: 2}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as without:
        without.setattr(sweep, "report", lambda store: None)  # it takes longer than the sweep
        return results.open(sweep.run(written(folder, TINY), out=folder / "run", local=True).run)


def cell(run: Run, method: str, fraction: float = 0.5) -> str:
    rows = run.cells.filter(pl.col("method") == method, pl.col("fraction") == fraction).collect()
    return str(rows["cell"][0])


def assert_same(run: Run, name: str, tolerance: float = 1e-6) -> None:
    """Assert that a cell's logits add up to its results."""
    found = run_cell(run, name).answers()
    told = run.results.filter(pl.col("cell") == name).sort("sequence").collect()
    assert found["sequence"].to_list() == told["sequence"].to_list()
    assert found["tokens"].to_list() == told["tokens"].to_list()
    assert found["top1"].to_list() == told["top1"].to_list()
    apart = (found["loss"] - told["loss"]).abs() / told["tokens"].clip(1)
    assert apart.max() < tolerance, name  # type: ignore[operator]


@pytest.mark.parametrize(("method", "fraction"), [("mean", 0.0), ("mean", 0.5), ("resample", 0.5)])
def test_the_logits_of_a_cell_add_up_to_its_results(run: Run, method: str, fraction: float) -> None:
    assert_same(run, cell(run, method, fraction))


def test_nothing_is_written(run: Run) -> None:
    before = sorted(Path(run.store.uri).rglob("*"))
    run_cell(run, cell(run, "resample"))
    assert sorted(Path(run.store.uri).rglob("*")) == before


def test_the_logits_of_the_baseline_are_those_of_plain_transformers(run: Run) -> None:
    one = int(run.data.filter(pl.col("role") == "evaluate").collect()["sequence"][2])
    found = run_cell(run, cell(run, "mean", 0.0), sequences=[one])
    assert found.sequence.tolist() == [one]
    folder = ROOT / "workers" / "zoo" / "opt"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        plain = model(torch.from_numpy(found.inputs[0])[None]).logits[0].numpy()
    assert found.logits[0].shape == plain.shape
    np.testing.assert_allclose(found.logits[0], plain, atol=1e-4)


def test_some_sequences_are_answered_as_all_of_them_are(run: Run) -> None:
    every = run_cell(run, cell(run, "mean"))
    numbers = every.sequence[[1, 4]].tolist()
    some = run_cell(run, cell(run, "mean"), sequences=numbers)
    assert some.sequence.tolist() == numbers
    for number, found, target in zip(numbers, some.logits, some.targets, strict=True):
        at = every.sequence.tolist().index(number)
        assert np.array_equal(found, every.logits[at])
        assert np.array_equal(target, every.targets[at])


def test_what_the_run_does_not_have_is_told(run: Run) -> None:
    with pytest.raises(NotInRunError, match="no cell 'x'"):
        run_cell(run, "x")
    with pytest.raises(NotInRunError, match="sequence 99999 is not evaluated"):
        run_cell(run, cell(run, "mean"), sequences=[99999])
    with pytest.raises(NotInRunError, match="no sequence was named"):
        run_cell(run, cell(run, "mean"), sequences=[])


def test_more_logits_than_fit_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerun, "MOST", 1000)
    with pytest.raises(ValueError, match="Name fewer"):
        run_cell(run, cell(run, "mean"))


def test_another_checkpoint_or_other_data_is_refused(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.store.uri, copy)
    told = copy / "sweep.yaml"
    told.write_text(told.read_text().replace("bins: 256", "bins: 64"))
    with pytest.raises(NotTheSameError, match="another than that of the run"):
        run_cell(copy, cell(run, "mean"))
    told.write_text(told.read_text().replace("zoo:text", "nowhere/texts"))
    with pytest.raises(SpecError, match=r"nowhere/texts.* the folder that the sweep file was in"):
        run_cell(copy, cell(run, "mean"))


def test_the_blocks_of_the_python_page_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL
    )
    for block in blocks:
        exec(block.replace("runs/embedded", run.store.uri), names)
    for table in ("best", "curves", "against", "neurons", "heads"):
        assert len(names[table]) > 0, table  # type: ignore[arg-type]
    assert "read back from the live model" in capsys.readouterr().out
    masks, proof = names["masks_LN"], names["proof"]
    assert proof.held == masks.sum()  # type: ignore[attr-defined]


def maker() -> ModuleType:
    """Return the script that makes notebooks."""
    spec = importlib.util.spec_from_file_location("execute", NOTEBOOK.with_name("execute.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of_kind(notebook: list[dict[str, object]], what: str) -> list[object]:
    return [cell.get(what) for cell in notebook]


def test_the_notebook_is_that_of_its_plain_cells_and_has_its_answers() -> None:
    kept = json.loads(NOTEBOOK.read_text())["cells"]
    plain = maker().cells(NOTEBOOK.with_suffix(".py").read_text())
    for what in ("id", "cell_type", "source"):
        assert of_kind(kept, what) == of_kind(plain, what)
    code = [cell for cell in kept if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in code)
    assert any("image/svg+xml" in out["data"] for cell in code for out in cell["outputs"])
    assert NOTEBOOK.stat().st_size < 200_000


def test_a_notebooks_cell_shows_what_it_prints_and_its_last_value() -> None:
    made = maker()
    text = "# %% [markdown]\n# # Title\n#\n# Text\n\n# %%\nx = 2\nprint('hi')\n\n# %%\nx + 1\n"
    title, first, second = made.executed(made.cells(text))
    assert title["source"] == "# Title\n\nText"
    assert first["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "hi\n"}]
    assert second["outputs"][0]["data"] == {"text/plain": "3"}


@pytest.mark.slow
def test_the_notebook_runs_and_shows_the_same_kinds_of_answers() -> None:
    made = maker()
    kept = json.loads(NOTEBOOK.read_text())["cells"]
    with made.in_new_folder():
        found = made.executed(made.cells(NOTEBOOK.with_suffix(".py").read_text()))
    for before, now in zip(kept, found, strict=True):
        shown = [[sorted(o.get("data", {})) for o in c.get("outputs", [])] for c in (before, now)]
        assert shown[0] == shown[1], before["source"]
    assert before["outputs"][0]["data"]["text/plain"].startswith("shape: (4, 7)")


@pytest.mark.slow
def test_every_kind_of_cell_is_computed_again(tmp_path: Path) -> None:
    run = results.open(
        sweep.run(written(tmp_path, EVERY_KIND), out=tmp_path / "run", local=True).run
    )
    every = run.cells.unique("cell").sort("cell").collect()
    assert every["method"].n_unique() == 7
    for name, dtype in every.select("cell", "dtype").iter_rows():
        assert_same(run, name, 1e-5 if dtype == "float32" else 2e-2)
