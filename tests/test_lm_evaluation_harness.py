"""EleutherAI's lm-evaluation-harness, called on an ablated model as its how-to shows.

The page is followed by a process of its own, because the harness brings packages that the rest of
the tests are to do without: `make harness` puts them beside the environment. What the harness said
is compared here with plain hooks on a plain model, which know nothing of folding, and with the
run.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from orchestrator import results, sweep
from orchestrator.results import Run
from tests.browser.needed import absent
from tests.sweeps import written

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "howto" / "lm_evaluation_harness.md"
OPT = ROOT / "workers" / "zoo" / "opt"
BESIDE = ROOT / ".venv" / "harness"
SWEEP = """
name: embedded
models: [zoo:opt]
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 16}
    evaluate: {split: test, sequences: 12}
methods: [mean]
fractions: [0.5]
seeds: 1
statistics: {shards: 2}
"""
PAIRS = [("import os", "\nimport sys"), ("import os", "\nreturn"), ("x = [1, 2", ", 3]")]
"""Contexts and what may follow, as tasks with answers to choose from ask for."""
AFTERWARDS = """
import torch
from lm_eval.api.instance import Instance

again = transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()
now = model.module.state_dict()
# The same answers with a cache of the harness's own, bare model first: the page warns of it.
kept = dict(tasks=["excerpts"], task_manager=tasks, bootstrap_iters=0, use_cache="kept")
simple_evaluate(harness, **kept)
with ablated(model, arrays["held.attn_pre_out"], arrays["values.attn_pre_out"]):
    stale = simple_evaluate(harness, **kept)
    chosen = harness.loglikelihood(
        [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(PAIRS)]
    )
said = {
    "chosen": {i: said for i, (said, _) in enumerate(chosen)},
    "restored": now.keys() == again.keys() and all(torch.equal(now[k], again[k]) for k in again),
    "cell": cell,
} | {
    name: {
        sample["doc"]["sequence"]: sample["resps"][0][0] for sample in answer["samples"]["excerpts"]
    }
    for name, answer in (("bare", bare), ("held", held), ("after", asked()), ("stale", stale))
}
with open("said.json", "w") as file:
    json.dump(said, file)
"""


@pytest.fixture(scope="module")
def harness() -> dict[str, str]:
    """Return the variables of a process that finds the harness."""
    found = [ROOT]
    if importlib.util.find_spec("lm_eval") is None:
        beside = list(BESIDE.glob("lib/python*/site-packages"))
        if not beside:
            absent("lm-evaluation-harness is not installed; `make harness` installs it")
        found += beside
    path = os.pathsep.join([*map(str, found), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, harness: dict[str, str]) -> Path:
    """Return a reader's folder in which the page was followed from top to bottom."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "workers").symlink_to(ROOT / "workers")
    with pytest.MonkeyPatch.context() as without:
        without.setattr(sweep, "report", lambda store: None)  # it takes longer than the sweep
        ended = sweep.run(written(folder, SWEEP), out=folder / "run", local=True)
    shutil.copytree(ended.run, folder / "runs" / "embedded")
    harness["HF_HOME"] = str(folder / "hub")
    script = []
    for language, title, text in re.findall(
        r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', PAGE.read_text(), re.MULTILINE | re.DOTALL
    ):
        if title:
            (folder / title).parent.mkdir(exist_ok=True)
            (folder / title).write_text(text)
        elif language == "python":
            script.append(text)
    (folder / "followed.py").write_text("\n".join([*script, f"PAIRS = {PAIRS}", AFTERWARDS]))
    ran([sys.executable, "followed.py"], folder, harness)
    return folder


def ran(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def told(desk: Path, which: str) -> NDArray[np.float64]:
    """Return the log-likelihood of each document in nats, by the number of its sequence."""
    said = json.loads((desk / "said.json").read_text())[which]
    return np.array([said[number] for number in sorted(said, key=int)])


def sequences(run: Run) -> list[list[int]]:
    rows = run.data.filter(pl.col("role") == "evaluate").sort("sequence").collect()
    return rows["input"].to_list()


def put_in(
    held: Tensor, values: Tensor, _: nn.Module, args: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    return (torch.where(held, values.to(args[0]), args[0]), *args[1:])


def plain(ids: list[list[int]], masks: Path | None, given: int = 1) -> NDArray[np.float64]:
    """Return what a plain model says of each sequence, with hooks of torch's own where asked.

    The first `given` tokens of each are context.
    """
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(OPT)
    model.eval()
    if masks is not None:
        arrays = load_file(masks)
        for number, layer in enumerate(model.model.decoder.layers):
            change = partial(
                put_in, arrays["held.attn_pre_out"][number], arrays["values.attn_pre_out"][number]
            )
            layer.self_attn.out_proj.register_forward_pre_hook(change)
    found = []
    with torch.inference_mode():
        for one in ids:
            said = model(torch.tensor([one])).logits[0].double().log_softmax(-1)
            after = range(given, len(one))
            found.append(float(sum(said[i - 1, one[i]] for i in after)))
    return np.array(found)


def test_the_harness_says_of_every_document_what_plain_hooks_say(desk: Path) -> None:
    ids = sequences(results.open(desk / "runs" / "embedded"))
    assert len(ids) == 12
    held = told(desk, "held")
    np.testing.assert_allclose(held, plain(ids, desk / "held" / "masks.safetensors"), rtol=1e-5)
    np.testing.assert_allclose(told(desk, "bare"), plain(ids, None), rtol=1e-5)
    assert (np.abs(held - told(desk, "bare")) > 1).all()


def test_so_it_does_of_answers_to_choose_from(desk: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(OPT)
    expected = []
    for context, continuation in PAIRS:
        given = len(tokenizer.encode(context, add_special_tokens=False))
        whole = tokenizer.encode(context + continuation, add_special_tokens=False)
        expected += [*plain([whole], desk / "held" / "masks.safetensors", given)]
    np.testing.assert_allclose(told(desk, "chosen"), expected, rtol=1e-5)


def test_what_it_says_is_what_the_run_says(desk: Path) -> None:
    run = results.open(desk / "runs" / "embedded")
    cell = json.loads((desk / "said.json").read_text())["cell"]
    answers = run.results.filter(pl.col("cell") == cell).sort("sequence").collect()
    np.testing.assert_allclose(told(desk, "held"), -answers["loss"].to_numpy(), rtol=1e-5)


def test_the_model_is_what_it_was_to_the_bit(desk: Path) -> None:
    assert json.loads((desk / "said.json").read_text())["restored"]
    assert (told(desk, "after") == told(desk, "bare")).all()


def test_a_cache_of_the_harness_gives_the_ablated_model_the_answers_of_the_bare_one(
    desk: Path,
) -> None:
    """Where this fails the harness knows weights apart, and the page may stop warning."""
    assert (told(desk, "stale") == told(desk, "bare")).all()


def test_the_command_line_says_the_same_of_the_exported_checkpoint(
    desk: Path, harness: dict[str, str]
) -> None:
    (line,) = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    ran([sys.executable, "-m", *shlex.split(line)], desk, harness)
    (file,) = (desk / "answers").rglob("samples_excerpts_*.jsonl")
    samples = [json.loads(text) for text in file.read_text().splitlines()]
    said = {one["doc"]["sequence"]: float(one["resps"][0][0]) for one in samples}
    np.testing.assert_allclose(
        [said[number] for number in sorted(said)], told(desk, "held"), rtol=1e-5
    )
