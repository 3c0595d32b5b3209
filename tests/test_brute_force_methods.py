"""Every method and metric of a finished run, recomputed by code that shares nothing with ours.

As `tests.test_brute_force` does for five methods: a sweep is run once, in this process, and
every distinct cell is evaluated again, a sequence at a time, from the public tables and the
checkpoint, with the library's own model and torch's own hooks. What is drawn is drawn again
by its address; what a rotated model computes is computed with matrices turned by hand.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import brute_force as plainly
from tests import brute_force_held, brute_force_values
from tests.recomputed import Finished, assert_recomputed, finished_once

ROOT = Path(__file__).parents[1]
PLUGINS = tuple(ROOT / "examples" / "plugins" / f"{name}.py" for name in ("trimmed", "clipped"))
DATA = """
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 24}
    evaluate: {split: test, sequences: 4}
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 48}
    evaluate: {split: test, sequences: 8}
seeds: 1
statistics: {shards: 4}
"""
EVERY = """
name: methods
models: [zoo:opt, zoo:roberta, zoo:vit]
methods:
  - median
  - quantile(0.9)
  - peak(half_sample)
  - peak(paper_global)
  - mean(alpha=0.5)
  - peak(alpha=0.25)
  - optimal(steps=3)
  - {optimal: {steps: 3, scope: shared}}
  - noise
  - {noise: {alpha: 0.5}}
  - marginal
  - nearest_peak
  - resample(per_layer)
  - resample(per_head)
  - resample(per_neuron)
  - resample(shared)
  - resample(published)
  - resample(random)
  - {resample: {alpha: 0.5}}
  - resample(random_characters)
  - resample(generated)
  - resample(shuffled_pixels)
  - trimmed
  - {clipped: {width: 1.0}}
fractions: [0.4]
evaluation: {metrics: [top1, ce, kl, top1_rare]}
"""
TURNED = """
name: turned
models: [zoo:mistral, zoo:vit]
methods: [zero, mean, peak, noise, nearest_peak, resample(per_head)]
fractions: [0.4]
basis: {rotate: 3}
contrasts: [[own, rotated 3]]
"""
JOINT = """
name: joint
models: [zoo:mistral]
sites: [[attn_pre_out, mlp_mid]]
methods: [zero, mean, mean(alpha=0.5), optimal(steps=2), noise, marginal, nearest_peak,
          resample, resample(per_layer), resample(per_neuron), resample(published)]
fractions: [0.4]
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with plainly.one_thread():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Finished]:
    return finished_once(tmp_path_factory, DATA, plugins=PLUGINS)


def test_the_recomputation_uses_no_code_of_ours() -> None:
    for module in (plainly, brute_force_held, brute_force_values):
        nodes = list(ast.walk(ast.parse(Path(str(module.__file__)).read_text())))
        imported = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        imported |= {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in imported} & {"orchestrator", "workers"}
        assert {n for n in imported if n.startswith("tests")} <= {
            "tests",
            "tests.brute_force",
            "tests.brute_force_held",
        }


@pytest.mark.parametrize("model", ["zoo:opt", "zoo:roberta", "zoo:vit"])
def test_cells_of_every_method_are_what_the_library_and_a_hook_say(
    finished: Callable[[str, str], Finished], model: str
) -> None:
    of = finished(EVERY, model)
    images, causal = model == "zoo:vit", model == "zoo:opt"
    left_out = {True: {"random_characters", "generated"}, False: {"shuffled_pixels"}}[images]
    left_out |= set() if causal else {"generated"}
    said = {(c["method"], c["parameters"]) for c in of.distinct.values()}
    assert len(said) == 24 - len(left_out)
    assert_recomputed(of, of.distinct.values())


@pytest.mark.parametrize(
    ("text", "model"),
    [
        (TURNED.replace("zoo:mistral, ", ""), "zoo:vit"),
        pytest.param(TURNED, "zoo:mistral", marks=pytest.mark.slow),
    ],
)
def test_cells_of_a_rotated_model_are_those_of_matrices_turned_by_hand(
    finished: Callable[[str, str], Finished], text: str, model: str
) -> None:
    of = finished(text, model)
    assert set(of.bases) == {"own", "rotated 3"}
    assert_recomputed(of, of.distinct.values())


@pytest.mark.slow
def test_cells_of_both_sites_together_are_what_the_library_and_two_hooks_say(
    finished: Callable[[str, str], Finished],
) -> None:
    of = finished(JOINT, "zoo:mistral")
    assert {c["site"] for c in of.distinct.values()} == {"attn_pre_out+mlp_mid"}
    assert_recomputed(of, of.distinct.values())


@pytest.mark.parametrize(
    ("text", "model"), [(EVERY, "zoo:opt"), (EVERY, "zoo:vit"), (JOINT, "zoo:mistral")]
)
def test_no_two_cells_answer_alike(
    finished: Callable[[str, str], Finished], text: str, model: str
) -> None:
    of = finished(text, model)
    # Where no step of learning helps, learned constants are those it began at.
    cells = [c for c, row in of.distinct.items() if row["method"] != "optimal"]
    answers = [tuple(sorted((r["sequence"], r["loss"]) for r in of.results[c])) for c in cells]
    assert len(set(answers)) == len(answers)
