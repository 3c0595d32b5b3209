"""Export: what is taken out of a run is the cell, to whoever has never heard of us.

Checkpoints are loaded by transformers or timm alone and fed one sequence after another; masks are
read with safetensors and held by hooks of torch's own. No code of ours is between these and
`results`.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import timm
import torch
import transformers
from safetensors import safe_open

from orchestrator import cli, masks, results, sweep
from orchestrator import export as exporting
from orchestrator.export import Exported, ExportError, export
from orchestrator.results import NotInRunError, Run
from tests.sweeps import written
from workers.loading import facts
from workers.messages import ByPosition, CellOrder, Constant, Hold
from workers.saving import SavingError

ZOO = Path(__file__).parents[1] / "workers" / "zoo"
SWEEP = """
name: taken
models: [zoo:opt, zoo:mistral]
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 8}
    evaluate: {split: test, sequences: 6}
  digits:
    source: zoo:digits
    collect: {split: train, sequences: 24}
    evaluate: {split: test, sequences: 12}
methods: [zero, mean, mean(alpha=0.5), resample]
fractions: [0.5]
seeds: 1
sites: [[attn_pre_out, mlp_mid]]
statistics: {shards: 2}
"""
OTHERS = SWEEP.replace("zoo:opt, zoo:mistral", "zoo:roberta, zoo:vit")
BELOW = """
name: below
models: [{id: zoo:roberta, dtype: bfloat16}]
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 8}
    evaluate: {split: test, sequences: 6}
methods: [mean]
fractions: [0.5]
seeds: 1
statistics: {shards: 2}
"""
CLASSES = {
    "zoo:opt": transformers.AutoModelForCausalLM,
    "zoo:mistral": transformers.AutoModelForCausalLM,
    "zoo:roberta": transformers.AutoModelForMaskedLM,
}


def swept(folder: Path, text: str) -> Run:
    with pytest.MonkeyPatch.context() as without:
        without.setattr(sweep, "report", lambda store: None)  # it takes longer than the sweep
        return results.open(sweep.run(written(folder, text), out=folder / "run", local=True).run)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return swept(tmp_path_factory.mktemp("taken"), SWEEP)


def cell(run: Run, model: str, method: str, fraction: float = 0.5, soft: bool = False) -> str:
    rows = run.cells.filter(
        pl.col("model") == model,
        pl.col("method") == method,
        pl.col("fraction") == fraction,
        pl.col("parameters").str.contains("alpha") == soft,
    ).collect()
    return str(rows["cell"][0])


def loaded(folder: Path, model: str) -> Any:
    if model == "zoo:vit":
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return CLASSES[model].from_pretrained(folder).eval()


def plain_losses(run: Run, model: str, module: Callable[..., Any]) -> list[float]:
    """Return the summed cross-entropy of every evaluated sequence, in a plain loop."""
    rows = run.data.filter(pl.col("model") == model, pl.col("role") == "evaluate")
    losses = []
    for row in rows.sort("sequence").collect().iter_rows(named=True):
        if row["image"] is not None:
            config = json.loads((ZOO / "vit" / "config.json").read_text())["pretrained_cfg"]
            pixels = torch.tensor(row["image"], dtype=torch.float32).reshape(row["shape"]) / 255
            pixels = (pixels - torch.tensor(config["mean"])) / torch.tensor(config["std"])
            logits = module(pixels.permute(2, 0, 1)[None])
        else:
            logits = module(input_ids=torch.tensor([row["input"]])).logits[0]
        target = torch.tensor(row["target"]).reshape(-1)
        of = logits.float().log_softmax(-1)
        losses.append(-sum(float(of[i, t]) for i, t in enumerate(target) if t != -100))
    return losses


def assert_answers(run: Run, model: str, name: str, module: Callable[..., Any]) -> None:
    """Assert that a plain loop over a module says what the cell's results say."""
    told = run.results.filter(pl.col("cell") == name).sort("sequence").collect()
    with torch.inference_mode():
        found = plain_losses(run, model, module)
    np.testing.assert_allclose(found, told["loss"].to_numpy(), rtol=1e-4, atol=1e-4)


def assert_exported(run: Run, model: str, soft: bool, folder: Path) -> None:
    """Assert that a plain loop over an exported checkpoint gives a cell that does something."""
    name = cell(run, model, "mean", soft=soft)
    made = export(run, name, folder)
    assert_answers(run, model, name, loaded(folder, model))
    assert made.measured is not None
    assert made.measured.largest < 1e-5
    bare = run.results.filter(pl.col("cell") == cell(run, model, "mean", 0.0)).collect()
    ablated = run.results.filter(pl.col("cell") == name).collect()
    assert abs(bare["loss"].sum() - ablated["loss"].sum()) > 0.1


@pytest.mark.parametrize("soft", [False, True])
def test_a_plain_loop_over_the_exported_checkpoint_gives_the_cell(
    run: Run, soft: bool, tmp_path: Path
) -> None:
    assert_exported(run, "zoo:opt", soft, tmp_path / "new")


@pytest.mark.slow
def test_so_it_does_of_masked_models_and_images(tmp_path: Path) -> None:
    others = swept(tmp_path, OTHERS)
    for model in ("zoo:roberta", "zoo:vit"):
        for soft in (False, True):
            assert_exported(others, model, soft, tmp_path / f"{model[4:]} {soft}")


def test_mistral_has_no_place_for_the_values_and_the_reason_is_told(
    run: Run, tmp_path: Path
) -> None:
    with pytest.raises(SavingError, match=r"no bias at model.layers.0.*--format masks"):
        export(run, cell(run, "zoo:mistral", "mean"), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    name = cell(run, "zoo:mistral", "zero")  # needs none
    export(run, name, tmp_path / "zero")
    assert_answers(run, "zoo:mistral", name, loaded(tmp_path / "zero", "zoo:mistral"))


def test_what_is_not_constant_is_refused_as_a_checkpoint(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SavingError, match="differs between positions"):
        export(run, cell(run, "zoo:opt", "resample"), tmp_path / "new")
    with pytest.raises(SavingError, match="it is the bare model"):
        export(run, cell(run, "zoo:opt", "mean", 0.0), tmp_path / "new")
    with pytest.raises(ExportError, match="it is the bare model"):
        export(run, cell(run, "zoo:opt", "mean", 0.0), tmp_path / "new", form="masks")
    with pytest.raises(NotInRunError, match="no cell 'x'"):
        export(run, "x", tmp_path / "new")


def test_a_cell_is_named_by_a_condition_that_it_alone_meets(run: Run) -> None:
    said = "model = 'zoo:opt' AND method = 'zero' AND fraction = 0.5"
    assert exporting.named(run, said) == cell(run, "zoo:opt", "zero")
    with pytest.raises(ExportError, match=r"2 cells of .* meet .*Say more"):
        exporting.named(run, "method = 'zero' AND fraction = 0.5")
    with pytest.raises(ExportError, match=r"0 cells of "):
        exporting.named(run, "fraction = 0.4")
    with pytest.raises(ExportError, match=r"'methud = 1' is neither .*Columns are model, "):
        exporting.named(run, "methud = 1")


def test_nothing_is_written_over(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ExportError, match="is there already"):
        export(run, cell(run, "zoo:opt", "zero"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("form", ["checkpoint", "masks"])
def test_nothing_is_written_into_the_run(run: Run, form: Any) -> None:
    inside = Path(run.store.uri) / "report" / "new"
    with pytest.raises(ExportError, match=r"is inside the run .*outside of it"):
        export(run, cell(run, "zoo:opt", "zero"), inside, form=form)
    assert not inside.exists()


def test_the_card_says_what_was_done_and_its_code_loads_the_model(run: Run, tmp_path: Path) -> None:
    name = cell(run, "zoo:opt", "mean")
    export(run, name, tmp_path / "new")
    card = (tmp_path / "new" / "README.md").read_text()
    point = run.summary.filter(pl.col("cell") == name).collect().row(0, named=True)
    assert f"| cell | {name} |" in card
    assert "This is not zoo:opt" in card
    assert f"{point['ce']:.4f} nats per token" in card
    assert f"[{point['d_ce_low']:+.4f}, {point['d_ce_high']:+.4f}]" in card
    digest = results.open(run.store).executions.filter(pl.col("cell") == name).collect()
    assert digest["statistics_digest"][0] in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    said: dict[str, Any] = {}
    exec(code.replace("FOLDER", str(tmp_path / "new")), said)
    assert said["model"].dtype == torch.float32
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "new")


def test_weights_that_do_not_say_what_the_cell_says_are_not_handed_over(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = exporting.save

    def wrong(model: Any, order: Any, folder: Path) -> Any:
        with torch.no_grad():
            model.module.get_parameter("model.decoder.layers.1.fc2.bias").data = torch.ones(128)
        return true(model, order, folder)

    monkeypatch.setattr(exporting, "save", wrong)
    with pytest.raises(ExportError, match="nats per token in one of 6 sequences"):
        export(run, cell(run, "zoo:opt", "mean"), tmp_path / "new")
    monkeypatch.setattr(exporting, "save", true)
    monkeypatch.setattr(exporting, "held_columns", lambda model, order: 3)
    with pytest.raises(ExportError, match="columns that were to be zero"):
        export(run, cell(run, "zoo:opt", "mean"), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_rotated_model_is_exported_in_its_axes_and_has_no_masks(tmp_path: Path) -> None:
    text = SWEEP.replace("[[attn_pre_out, mlp_mid]]", "[attn_pre_out]\nbasis: {rotate: 0}")
    run = swept(tmp_path, text.replace(", zoo:mistral", ""))
    turned = run.cells.filter(pl.col("basis") != "own", pl.col("fraction") == 0.5)
    name = str(turned.filter(pl.col("method") == "mean").collect()["cell"][0])
    export(run, name, tmp_path / "new")
    assert_answers(run, "zoo:opt", name, loaded(tmp_path / "new", "zoo:opt"))
    assert "rotated axes" in (tmp_path / "new" / "README.md").read_text()
    with pytest.raises(ExportError, match=r"axes that were rotated \(rotated 0\)"):
        export(run, name, tmp_path / "masks", form="masks")


@pytest.mark.slow
def test_below_float32_the_card_says_how_far_the_copy_is(tmp_path: Path) -> None:
    run = swept(tmp_path, BELOW)
    name = str(run.cells.filter(pl.col("fraction") == 0.5).collect()["cell"][0])
    made = export(run, name, tmp_path / "new")
    assert made.measured is not None
    assert 0 < made.measured.largest < 0.05
    card = (tmp_path / "new" / "README.md").read_text()
    assert f"differ by more than {made.measured.largest:.2g}" in card
    assert "rounded into the bias" in card
    assert loaded(tmp_path / "new", "zoo:roberta").dtype == torch.bfloat16


@pytest.fixture(scope="module")
def of_mistral(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Exported]:
    """The masks of a cell that has no checkpoint."""
    name = cell(run, "zoo:mistral", "mean")
    return name, export(run, name, tmp_path_factory.mktemp("masks") / "new", form="masks")


def snippet(title: str) -> str:
    """Return the code below a heading of the page."""
    page = (ZOO.parents[1] / "docs" / "export.md").read_text()
    found = re.search(rf"## {title}\n.*?```python[^\n]*\n(.*?)```", page, re.DOTALL)
    assert found, title
    return found[1]


def test_the_pages_plain_hooks_hold_what_the_cell_held(
    run: Run, of_mistral: tuple[str, Exported]
) -> None:
    name, made = of_mistral
    model = loaded(ZOO / "mistral", "zoo:mistral")
    code = snippet("Reading the arrays").replace("FOLDER", str(made.folder))
    exec(code + snippet("Plain hooks"), {"model": model})
    assert_answers(run, "zoo:mistral", name, model)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["nnsight", "TransformerLens"])
@pytest.mark.filterwarnings("ignore")  # theirs
def test_the_pages_code_for_other_tools_holds_what_the_cell_held(
    tool: str, run: Run, of_mistral: tuple[str, Exported]
) -> None:
    pytest.importorskip({"nnsight": "nnsight", "TransformerLens": "transformer_lens"}[tool])
    name, made = of_mistral
    source = ZOO / "mistral"
    said: dict[str, Any] = {
        "model": loaded(source, "zoo:mistral"),
        "source": str(source),
        "tokenizer": transformers.AutoTokenizer.from_pretrained(source),
    }
    exec(snippet("Reading the arrays").replace("FOLDER", str(made.folder)), said)
    code = made.folder / f"{tool}.py"  # nnsight reads the source of the block
    code.write_text(snippet(tool))

    def answered(input_ids: torch.Tensor) -> SimpleNamespace:
        said["ids"] = input_ids
        exec(compile(code.read_text(), str(code), "exec"), said)
        return SimpleNamespace(logits=said["logits"])

    assert_answers(run, "zoo:mistral", name, answered)


def test_masks_say_what_they_are(run: Run, of_mistral: tuple[str, Exported]) -> None:
    name, made = of_mistral
    with safe_open(made.folder / masks.FILE, framework="np") as file:
        header = file.metadata()
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    assert header["format"] == masks.FORMAT
    said = json.loads(header["said"])
    assert (said["cell"], said["model"], said["method"]) == (name, "zoo:mistral", "mean")
    assert said["heads"] * said["d_head"] == arrays["held.attn_pre_out"].shape[1]
    assert sum(int(a.sum()) for k, a in arrays.items() if k.startswith("held.")) == made.held
    documented = (ZOO.parents[1] / "docs" / "export.md").read_text()
    assert all(f"`{key}`" in documented for key in said)
    centres = run.centres.filter(
        pl.col("model") == "zoo:mistral", pl.col("method") == "mean", pl.col("site") == "mlp_mid"
    )
    values = centres.sort("layer", "neuron").collect()["value"].to_numpy()
    assert np.array_equal(arrays["values.mlp_mid"].reshape(-1), values)


@pytest.mark.parametrize("starts", [None, (0, 1, 4)])
def test_the_pages_code_finds_the_values_of_every_position(
    starts: tuple[int, ...] | None, tmp_path: Path
) -> None:
    of = facts(ZOO / "opt")
    made = np.random.default_rng(0)
    shape = (of.layers, of.neurons)
    values = made.normal(size=shape if starts is None else (len(starts), *shape))
    held = tuple(np.arange(layer, of.neurons, 2) for layer in range(of.layers))
    put_in = Constant(values=values) if starts is None else ByPosition(values=values, starts=starts)
    hold = Hold(site="attn_pre_out", held=held, value=put_in)
    masks.write(tmp_path, of, CellOrder(cell="c", holds=(hold,), share=0.75), {})
    said: dict[str, Any] = {}
    exec(snippet("Reading the arrays").replace("FOLDER", str(tmp_path)), said)
    x = torch.from_numpy(made.normal(size=(2, 6, of.neurons)))
    for layer in range(of.layers):
        found = said["ablated"](x, "attn_pre_out", layer)
        for t in range(6):
            bucket = 0 if starts is None else sum(t >= start for start in starts) - 1
            row = values[layer] if starts is None else values[bucket, layer]
            wanted = x[:, t].numpy().copy()
            wanted[:, held[layer]] = 0.25 * wanted[:, held[layer]] + 0.75 * row[held[layer]]
            np.testing.assert_allclose(found[:, t].numpy(), wanted, rtol=1e-12)


def test_what_is_not_constant_has_masks_without_values(run: Run, tmp_path: Path) -> None:
    export(run, cell(run, "zoo:opt", "resample"), tmp_path / "new", form="masks")
    with safe_open(tmp_path / "new" / masks.FILE, framework="np") as file:
        assert {key.partition(".")[0] for key in file.keys()} == {"held"}  # noqa: SIM118
    assert "There are no values" in (tmp_path / "new" / "README.md").read_text()


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def ended(*words: str | Path) -> int:
        monkeypatch.setattr("sys.argv", ["peaksweep", *map(str, words)])
        monkeypatch.setattr("signal.signal", lambda *_: None)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    return ended


def test_the_command_says_what_it_wrote_and_ends_with_2_where_it_cannot(
    run: Run, shell: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, name = run.store.uri, cell(run, "zoo:opt", "mean")
    assert shell("export", uri, name, tmp_path / "new") == 0
    assert "Loaded again and run on 6 sequences" in capsys.readouterr().out
    assert shell("export", uri, name, tmp_path / "new") == 2
    assert "is there already" in capsys.readouterr().err
    assert shell("export", uri, name, tmp_path / "masks", "--format", "masks") == 0
    assert (tmp_path / "masks" / "masks.safetensors").is_file()
