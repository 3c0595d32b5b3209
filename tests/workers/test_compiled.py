"""Compiled: one graph for all cells and batches, the model left as it was, and never believed.

Graphs are traced for real and then run as they are, which takes a second; tests that have
PyTorch's own compiler make machine code are slow.

Shapes: S sequences, T positions.
"""

import gc
import itertools
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from tests.workers import cells, tiny
from tests.workers.holding import bits, difference, hooks_left, random_held, random_values
from workers import additions, hooks
from workers.compiled import TOLERANCE, Compiled
from workers.evaluate import evaluate
from workers.folding import Fold
from workers.loading import Model
from workers.messages import SITES, Batch

plainly = pytest.mark.parametrize(
    ("name", "dtype"),
    [("mistral", "float32"), ("opt", "bfloat16"), ("roberta", "bfloat16"), ("timm-vit", "float32")],
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for tiny models of two layers, because tracing takes its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.TEXT, "num_hidden_layers", 2)
        # Tracing writes down all that it does where somebody listens, and pytest does.
        patch.setattr(getLogger("torch.__trace"), "disabled", True)
        patch.setattr(getLogger("torch.__trace"), "handlers", [])
        yield tmp_path_factory.mktemp("tiny")


def as_it_is(graph: fx.GraphModule, read: Sequence[Any]) -> Callable[..., Any]:
    """Compile nothing: run what was traced."""
    del read
    return graph.forward


def batches(model: Model) -> list[Batch]:
    """Return batches of several shapes, most of them padded."""
    made = [
        tiny.batch(model, [0, 1, 2]),
        tiny.batch(model, [3, 4, 5, 6]),
        tiny.batch(model, [8, 2]),
    ]
    return [made[0], made[1], shorter(made[2], 10)]


def shorter(batch: Batch, length: int) -> Batch:
    if batch.attended is None:
        return batch
    return replace(
        batch,
        inputs=np.ascontiguousarray(batch.inputs[:, :length]),
        attended=np.ascontiguousarray(batch.attended[:, :length]),
        targets=np.ascontiguousarray(batch.targets[:, :length]),
    )


def attended(batch: Batch, hidden_STD: Tensor) -> Tensor:
    return hidden_STD if batch.attended is None else hidden_STD[torch.from_numpy(batch.attended)]


def apart(compiled: Compiled, model: Model, batch: Batch) -> float:
    """Return how far compiled hidden states are from eager ones, as a share of the largest."""
    found_STD, told_STD = compiled.hidden(batch), hooks.hidden(model, batch)
    assert found_STD.shape == told_STD.shape
    return difference(attended(batch, found_STD), attended(batch, told_STD))


def held(model: Model, seed: int) -> ExitStack:
    """Hold random neurons at both sites, others for each seed."""
    with ExitStack() as stack:
        for site in SITES:
            which = random_held(model, 0.25 * (1 + seed % 4), seed, site)
            find = partial(hooks.projections, model, site)
            stack.enter_context(Fold(find, which, random_values(model, seed, site)))
        return stack.pop_all()


def put_up(model: Model) -> tuple[object, ...]:
    """Return what a graph finds on a model: which tensors, where, and how many hooks."""
    tensors = [*model.module.parameters(), *model.module.buffers()]
    return hooks_left(model), [(id(tensor), tensor.data_ptr()) for tensor in tensors]


def buffers(model: Model) -> list[str]:
    return sorted(name for name, _ in model.module.named_buffers())


@plainly
def test_one_graph_serves_every_cell_and_every_shape_of_batch(
    name: str, dtype: Any, home: Path
) -> None:
    model = tiny.model(name, home, dtype)
    before, left = bits(model), (hooks_left(model), buffers(model))
    bare = [hooks.hidden(model, batch) for batch in batches(model)]
    compiled = Compiled(model, backend=as_it_is)
    assert compiled.reason is None
    if (name, dtype) != ("mistral", "float32"):  # the only one that got biases
        for batch, bare_STD in zip(batches(model), bare, strict=True):
            prepared_STD = hooks.hidden(model, batch)
            assert torch.equal(prepared_STD.view(torch.uint8), bare_STD.view(torch.uint8))
    standing = put_up(model)
    answers = []
    for seed in range(3):
        with held(model, seed):
            assert put_up(model) == standing
            assert max(apart(compiled, model, batch) for batch in batches(model)) < 1e-6
            answers.append(compiled.hidden(batches(model)[0]))
    assert not any(torch.allclose(a, b, atol=1e-2) for a, b in itertools.pairwise(answers))
    assert put_up(model) == standing
    assert max(apart(compiled, model, batch) for batch in batches(model)) < 1e-6
    assert compiled.graphs == 1
    compiled.close()
    assert bits(model) == before
    assert (hooks_left(model), buffers(model)) == left
    for batch, bare_STD in zip(batches(model), bare, strict=True):
        assert torch.equal(hooks.hidden(model, batch), bare_STD)
        assert torch.equal(compiled.hidden(batch), bare_STD)  # eager from now on


def test_cells_are_answered_through_one_graph_as_without(home: Path) -> None:
    model = tiny.model("opt", home)
    orders = [cells.baseline(model)]
    orders += [cells.constant(model, share, seed) for seed, share in enumerate((0.25, 0.5, 1.0))]
    orders.append(cells.held_at(model, "constant", sites=SITES))
    asked = (batches(model)[:2], orders, {})
    plain = evaluate(model, *asked, logits_bytes=1 << 20)
    compiled = Compiled(model, backend=as_it_is)
    found = evaluate(model, *asked, logits_bytes=1 << 20, compiled=compiled)
    assert (compiled.graphs, compiled.reason) == (1, None)
    for one, other in zip(found, plain, strict=True):
        assert (one.cell, one.told, one.held) == (other.cell, other.told, other.held)
        assert np.allclose(one.loss, other.loss, rtol=1e-5)
    assert len({answer.loss.tobytes() for answer in found}) == len(orders)
    compiled.close()


def test_a_batch_of_one_sequence_has_a_graph_of_its_own_and_only_one(home: Path) -> None:
    model = tiny.model("opt", home)
    compiled = Compiled(model, backend=as_it_is)
    for _ in range(2):
        for numbers in ([3], [4], [5, 6]):
            assert apart(compiled, model, tiny.batch(model, numbers)) < 1e-6
    assert (compiled.graphs, compiled.reason) == (2, None)
    compiled.close()


def test_a_compiler_that_fails_leaves_a_sentence_and_the_model_as_it_was(home: Path) -> None:
    def broken(graph: fx.GraphModule, read: Sequence[Any]) -> NoReturn:
        raise FileNotFoundError("no compiler here\nand so on")

    model = tiny.model("mistral", home)
    before, batch = bits(model), tiny.batch(model, [0, 1])
    bare_STD = hooks.hidden(model, batch)
    compiled = Compiled(model, backend=broken)
    assert compiled.reason is not None
    assert compiled.reason.endswith("runs as it is: FileNotFoundError: no compiler here")
    assert (compiled.graphs, bits(model), hooks_left(model)) == (0, before, 0)
    assert torch.equal(compiled.hidden(batch), bare_STD)


def test_what_fails_only_for_single_sequences_runs_eagerly_only_for_these(home: Path) -> None:
    model = tiny.model("timm-vit", home)
    compiled = Compiled(model, backend=_only_several)
    assert compiled.reason is None
    one, two = tiny.batch(model, [0]), tiny.batch(model, [0, 1])
    assert torch.equal(compiled.hidden(one), hooks.hidden(model, one))
    assert compiled.reason is not None
    assert "one sequence" in compiled.reason
    assert apart(compiled, model, two) < 1e-6
    assert compiled.graphs == 1
    compiled.close()


def _only_several(graph: fx.GraphModule, read: Sequence[Any]) -> Callable[..., Any]:
    if not any(isinstance(size, torch.SymInt) for size in read):
        raise ValueError("one sequence is too few")
    return graph.forward


def test_a_graph_that_keeps_old_weights_is_refused(home: Path) -> None:
    def frozen(graph: fx.GraphModule, read: Sequence[Any]) -> Callable[..., Any]:
        kept = [part.clone() if isinstance(part, nn.Parameter) else None for part in read]

        def run(*given: Any) -> Any:
            pairs = zip(given, kept, strict=True)
            return graph.forward(*[fed if mine is None else mine for fed, mine in pairs])

        return run

    model = tiny.model("timm-vit", home)
    compiled = Compiled(model, backend=frozen)
    assert compiled.reason is not None
    assert "with neurons held, hidden states differ" in compiled.reason
    assert apart(compiled, model, tiny.batch(model, [0, 1])) == 0


@pytest.mark.parametrize("wrong", [1e-2, float("nan")])
def test_a_graph_that_computes_something_else_is_refused(wrong: float, home: Path) -> None:
    def off(graph: fx.GraphModule, read: Sequence[Any]) -> Callable[..., Any]:
        del read
        return lambda *given: tuple(out * (1 + wrong) for out in graph.forward(*given))

    model = tiny.model("timm-vit", home)
    compiled = Compiled(model, backend=off)
    assert compiled.reason is not None
    assert "CompileError: Compiled, hidden states differ" in compiled.reason
    assert apart(compiled, model, tiny.batch(model, [0, 1])) == 0


@pytest.mark.parametrize(("dtype", "missing"), [("float32", "bias"), ("bfloat16", "addition")])
def test_a_projection_that_the_forward_pass_goes_round_is_refused(
    dtype: Any, missing: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, find = tiny.model("opt", home, dtype), hooks.projections
    idle = nn.Linear(32, 32, dtype=model.dtype)
    monkeypatch.setattr(
        hooks,
        "projections",
        lambda of, site: [*find(of, site), *([idle] if site == "attn_pre_out" else [])],
    )
    compiled = Compiled(model, backend=as_it_is)
    assert compiled.reason is not None
    told = f"does not read the weight and {missing} of layer 2 at attn_pre_out"
    assert told in compiled.reason
    assert hooks_left(model) == 0


@pytest.mark.parametrize(("name", "dtype"), [("mistral", "float32"), ("opt", "bfloat16")])
def test_a_standing_addition_that_is_not_nothing_is_refused(
    name: str, dtype: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("additions", "compiled"):
        monkeypatch.setattr(f"workers.{module}.NOTHING", 1e-2)
    model = tiny.model(name, home, dtype)
    before = bits(model)
    compiled = Compiled(model, backend=as_it_is)
    assert compiled.reason is not None
    assert "With biases and additions of nothing" in compiled.reason
    assert bits(model) == before


@torch._dynamo.config.patch(recompile_limit=1)
def test_models_can_come_one_after_another_and_each_goes_when_it_is_closed(home: Path) -> None:
    for _ in range(2):
        model = tiny.model("timm-vit", home)
        compiled = Compiled(model, backend=as_it_is)
        assert (compiled.graphs, compiled.reason) == (1, None)
        module = weakref.ref(model.module)
        compiled.close()
        del model, compiled
        gc.collect()
        assert module() is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # not ours: the compiler's own
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("opt", "float32"), ("opt", "bfloat16"), ("mistral", "float32"), ("mistral", "bfloat16")],
)
def test_machine_code_serves_every_cell_within_the_stated_tolerance(
    name: str, dtype: Any, home: Path
) -> None:
    model = tiny.model(name, home, dtype)
    compiled = Compiled(model)
    assert compiled.reason is None
    for seed in range(3):
        with held(model, seed):
            for batch in batches(model):
                assert apart(compiled, model, batch) < TOLERANCE[model.dtype]
    assert compiled.graphs == 1
    compiled.close()
    assert hooks_left(model) == 0


@pytest.mark.slow
def test_without_a_compiler_on_the_machine_the_model_runs_as_it_is(
    home: Path, tmp_path: Path
) -> None:
    tiny.model("opt", home)
    program = (
        "import sys; from pathlib import Path; from tests.workers import tiny\n"
        "from workers.compiled import Compiled\n"
        "model = tiny.model('opt', Path(sys.argv[1]))\n"
        "compiled = Compiled(model)\n"
        "compiled.hidden(tiny.batch(model, [0, 1]))\n"
        "sys.stdout.write(f'{compiled.graphs} {compiled.reason}')\n"
    )
    nowhere = {"CXX": str(tmp_path / "nowhere"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(home)],
        env=os.environ | nowhere,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("0 tiny:opt was not compiled, and runs as it is: ")
    assert "nowhere" in done.stdout or "compiler" in done.stdout


def test_minus_zero_is_added_without_a_trace() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        projection = nn.Linear(2, 3, dtype=dtype).requires_grad_(False)
        projection.weight.zero_()
        projection.bias.copy_(torch.tensor([-0.0, 0.0, 1.5]))
        x_N = torch.zeros(2, dtype=dtype)
        before_D = projection(x_N)
        additions.Addition(projection)
        assert torch.equal(projection(x_N).view(torch.int16), before_D.view(torch.int16))
        additions.take_down(projection)
        assert not projection._forward_hooks
        assert not list(projection.buffers())
