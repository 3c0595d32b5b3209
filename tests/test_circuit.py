"""A sweep on paired prompts says what the library says, prompt by prompt.

The logits are made again with transformers and a plain hook: what the output projection
of every layer is fed on a prompt is replaced by what it is fed on the donor.

Shapes: T positions, N neurons of one hookpoint, V tokens of the vocabulary.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from orchestrator import frames, printing, sweep
from orchestrator.report import read
from orchestrator.store import Store
from tests.sweeps import answers, events, written
from workers import zoo

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = EXAMPLES.parent / "docs" / "circuits.md"
PROMPTS = EXAMPLES / "indirect_objects.jsonl"
SWEEP = """
name: circuit
models: [zoo:opt]
data: {objects: {source: prompts.jsonl, collect: {sequences: 24}, evaluate: {sequences: 16}}}
methods: [zero, resample(paired)]
fractions: [1]
seeds: 1
evaluation: {metrics: [logit_diff, choice]}
statistics: {shards: 2}
"""
BROKEN = {"input": "one two", "donor": "one two three", "answer": " list", "wrong": [" dict"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("circuit")
    lines = PROMPTS.read_text().splitlines()[:60]
    (folder / "prompts.jsonl").write_text("\n".join([json.dumps(BROKEN), *lines]))
    ended = sweep.run(written(folder, SWEEP), out=folder / "run", local=True)
    assert not ended.failures
    return Path(ended.run)


class Plain:
    """The bundled model in the library's own hands."""

    def __init__(self) -> None:
        folder = Path(zoo.__file__).parent / "opt"
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.projections = [layer.self_attn.out_proj for layer in self.model.model.decoder.layers]

    def fed(self, ids: list[int]) -> list[Tensor]:
        """Return what every output projection is fed, (1, T, N) each."""
        found: list[Tensor] = []
        hooks = [
            p.register_forward_pre_hook(lambda _, given: found.append(given[0].clone()))
            for p in self.projections
        ]
        self.logits(ids)
        for hook in hooks:
            hook.remove()
        return found

    def logits(self, ids: list[int], instead: list[Tensor] | None = None) -> Tensor:
        """Return the logits of the last position, (V,), with other inputs to the projections."""

        def put(x_1TN: Tensor) -> Any:
            return lambda module, given: (x_1TN.reshape(given[0].shape),)

        pairs: list[tuple[nn.Module, Tensor]] = list(
            zip(self.projections, instead or [], strict=False)
        )
        hooks = [module.register_forward_pre_hook(put(x_1TN)) for module, x_1TN in pairs]
        with torch.no_grad():
            logits_V: Tensor = self.model(torch.tensor([ids])).logits[0, -1]
        for hook in hooks:
            hook.remove()
        return logits_V


def test_every_prompt_has_the_difference_that_the_library_and_a_hook_give(run: Path) -> None:
    plain = Plain()
    cells = pl.read_parquet(run / "cells.parquet").filter(pl.col("fraction").is_in([0.0, 1.0]))
    named = {
        "bare" if fraction == 0 else method: cell
        for method, fraction, cell in cells.select("method", "fraction", "cell").iter_rows()
    }
    found = answers(run)
    data = pl.read_parquet(run / "data" / "**" / "*.parquet").filter(role="evaluate")
    assert data.height == 16
    above = 0
    for row in data.iter_rows(named=True):
        donor = plain.fed(row["donor"])
        instead = {"bare": None, "resample": donor, "zero": [torch.zeros_like(x) for x in donor]}
        for kind, given in instead.items():
            logits_V = plain.logits(row["input"], given)
            answer = logits_V[row["target"][-1]]
            wrong = logits_V[row["wrong"]]
            (got,) = found.filter(cell=named[kind], sequence=row["sequence"]).to_dicts()
            assert got["logit_diff"] == pytest.approx((answer - wrong.mean()).item(), abs=2e-4)
            assert got["choice"] == int((answer > wrong).all())
            assert got["loss"] == pytest.approx(
                -torch.log_softmax(logits_V, 0)[row["target"][-1]].item(), abs=2e-4
            )
            assert (got["tokens"], got["nan"]) == (1, 0)
            above += got["choice"]
    assert 0 < above < 3 * 16  # or nothing was asked


def test_prompts_of_a_role_are_the_file_s_and_none_is_in_both(run: Path) -> None:
    data = pl.read_parquet(run / "data" / "**" / "*.parquet")
    assert data.group_by("role").len().sort("role")["len"].to_list() == [24, 16]
    roles = data.group_by("document").agg(pl.col("role").n_unique())
    assert set(roles["role"]) == {1}


def test_a_row_that_does_not_fit_is_told_in_the_story(run: Path) -> None:
    (told,) = [e for e in events(run, "done") if e["stage"] == "prepare" and "sequences" in e][:1]
    said = json.dumps(told)
    assert "`input` has" in said
    assert "`donor`" in said


def test_levels_and_changes_are_those_of_the_prompts(run: Path) -> None:
    rows = answers(run)
    summary = pl.read_parquet(run / "summary.parquet").unique("cell")
    curves = pl.read_parquet(run / "curves.parquet").filter(band="pointwise", held_share=1.0)
    bare = summary.filter(fraction=0.0).row(0, named=True)
    for cell in summary.iter_rows(named=True):
        own = rows.filter(cell=cell["cell"])
        assert cell["logit_diff"] == pytest.approx(own["logit_diff"].mean())
        assert cell["choice"] == own["choice"].sum() / 16
        assert cell["bits_per_byte"] is None
        if cell["fraction"]:
            here = curves.filter(method=cell["method"])
            (change,) = here.filter(metric="d_logit_diff").to_dicts()
            assert change["mean"] == pytest.approx(cell["logit_diff"] - bare["logit_diff"])
            assert change["low"] < change["mean"] < change["high"]
            (change,) = here.filter(metric="d_choice").to_dicts()
            assert change["mean"] == pytest.approx(cell["choice"] - bare["choice"])


def test_the_printed_summary_has_what_the_unablated_model_and_the_methods_make_of_them(
    run: Path,
) -> None:
    tables = [pl.read_parquet(run / f"{kind}.parquet") for kind in ("cells", "summary", "curves")]
    said = list(printing.summary_tables(*tables))
    assert re.search(r"logit difference -?\d\.\d{3} nats, choice \d+\.\d%, standard", str(said[0]))
    titles = [str(table.columns[0].header) for table in said[1:] if not isinstance(table, str)]
    assert titles == ["logit difference, nats", "choice"]


def test_the_report_shows_both_metrics_with_their_units(run: Path) -> None:
    page = (run / "report" / "index.html").read_text()
    assert "change of logit difference (nats)" in page
    assert "change of choice (points)" in page
    assert "both fall where the model does worse" in page
    assert "while the model read the donor" in page


def test_a_summary_of_before_lacks_these_columns_and_is_read_all_the_same(
    run: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    summary = pl.read_parquet(run / "summary.parquet").drop("logit_diff", "choice")
    summary.write_parquet(old / "summary.parquet")
    found = read.read_run(old).summary
    assert found["choice"].null_count() == found.height > 0


def test_tables_of_pairs_lie_beside_others(run: Path, tmp_path: Path) -> None:
    (pairs,) = (run / "data").rglob("*.parquet")
    folder = tmp_path / "data" / "m"
    folder.mkdir(parents=True)
    frame = pl.read_parquet(pairs)
    frame.write_parquet(folder / "pairs.parquet")
    frame.drop("donor", "wrong").with_columns(bytes=pl.lit(7, pl.Int64)).write_parquet(
        folder / "a text.parquet"
    )
    found = frames._bytes(Store.of(tmp_path))
    assert found is not None
    sizes = found.collect()["bytes"]
    assert (sizes.null_count(), sizes.sum()) == (frame.height, 7 * frame.height)


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_the_sweep_files_of_the_page_on_circuits_plan(text: str, tmp_path: Path) -> None:
    shutil.copy(PROMPTS, tmp_path)
    pl.DataFrame({"layer": [3, 3], "head": [0, 2]}).write_parquet(tmp_path / "heads.parquet")
    assert sweep.plan(written(tmp_path, text)).cells


def test_the_prompts_of_the_example_are_those_that_its_script_writes(tmp_path: Path) -> None:
    file = tmp_path / "again.jsonl"
    script = [sys.executable, str(EXAMPLES / "indirect_objects.py"), str(file)]
    subprocess.run(script, check=True, timeout=60)
    assert file.read_text() == PROMPTS.read_text()
    subprocess.run([*script, "--names"], check=True, timeout=60)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({row["input"] for row in rows}) == len(rows)
    for row in rows:
        receiver, (sender,) = row["answer"].strip(), row["wrong"]
        assert row["input"].count(receiver) == 1
        assert row["input"].count(sender.strip()) == 2
        assert row["donor"].count(receiver) == row["donor"].count(sender.strip()) == 1
