"""Saving: a model with held neurons, as a checkpoint that the library alone can load and run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

from tests.workers import tiny
from tests.workers.holding import random_held, random_values
from workers import hooks
from workers.ablation import entered, prepare_folds
from workers.building import attention
from workers.conv1d import as_linear
from workers.loading import Model, facts
from workers.messages import SITES, Batch, ByPosition, CellOrder, Constant, Hold, Site
from workers.saving import Saved, SavingError, held_columns, save


def slow(*values: Any) -> Any:
    """Mark families whose kind has another in the default run."""
    return pytest.param(*values, marks=pytest.mark.slow)


WITH_BIAS = [
    *("opt", "roberta", "vit", "gpt2", "timm-vit"),
    *map(slow, ("deit", "gpt-neox", "phi", "bert", "distilbert", "timm-eva", "timm-eva-split")),
]
BY_SETTING = [
    ("llama", ("attn_pre_out", "mlp_mid"), ("attention_bias", "mlp_bias")),
    ("gpt-j", ("mlp_mid",), ()),
    *(
        slow(name, ("attn_pre_out",), ("attention_bias",))
        for name in ("gemma", "gemma2", "gemma3", "qwen3", "olmo2")
    ),
]
WITHOUT = [
    ("mistral", "attn_pre_out"),
    ("gemma2", "mlp_mid"),
    slow("mistral", "mlp_mid"),
    slow("qwen2", "attn_pre_out"),
    slow("phi3", "attn_pre_out"),
    slow("gpt-j", "attn_pre_out"),
]


def cell(
    of: Model, sites: tuple[Site, ...] = SITES, share: float = 1.0, size: float = 1
) -> CellOrder:
    """Return a cell that holds some neurons of all layers but the last, at random constants."""
    holds = []
    for site in sites:
        held = list(random_held(of, 0.4, site=site))
        held[-1] = held[-1][:0]
        values_LN = size * random_values(of, site=site)
        holds.append(Hold(site=site, held=tuple(held), value=Constant(values=values_LN)))
    return CellOrder(cell="c", holds=tuple(holds), share=share)


def answer(of: Model, batch: Batch, order: CellOrder) -> Tensor:
    """Return the logits while a cell is held, as a sweep has them."""
    with entered(prepare_folds(of, order)):
        return hooks.logits(of, batch)


def plainly(folder: Path, like: Model, batch: Batch) -> Tensor:
    """Return the logits of the checkpoint in a folder, by its library alone."""
    if like.family.library == "timm":
        module: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    else:
        architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
        module, told = getattr(transformers, architecture).from_pretrained(
            folder, output_loading_info=True, attn_implementation=attention(like.module)
        )
        assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert module.dtype == like.dtype
        module.eval()
    with torch.inference_mode():
        if like.facts.modality == "image":
            assert like.pixels is not None
            x = torch.from_numpy(batch.inputs).double() * like.pixels.scale
            x = (x - torch.tensor(like.pixels.mean)) / torch.tensor(like.pixels.std)
            found = module(x.permute(0, 3, 1, 2).float())
        else:
            assert batch.attended is not None
            ids, attended = torch.from_numpy(batch.inputs), torch.from_numpy(batch.attended).long()
            found = module(input_ids=ids, attention_mask=attended)
    logits: Tensor = getattr(found, "logits", found)
    return logits


def scored(logits: Tensor, batch: Batch) -> Tensor:
    """Return the logits where a position is attended."""
    return logits if batch.attended is None else logits[torch.from_numpy(batch.attended)]


def saved_as_held(of: Model, order: CellOrder, folder: Path, tolerance: float = 2e-5) -> Saved:
    """Save a cell; assert that the library's own model says what the cell says, and no other."""
    batch = tiny.batch(of, [1, 2, 3])
    bare = scored(hooks.logits(of, batch), batch)
    wanted = scored(answer(of, batch, order), batch)
    saved = save(of, order, folder)
    found = scored(plainly(folder, of, batch), batch)
    size = wanted.abs().max()
    assert (found - wanted).abs().max() <= tolerance * size
    assert (bare - wanted).abs().max() > 10 * tolerance * size  # the cell does something
    return saved


@pytest.mark.parametrize("name", WITH_BIAS)
def test_a_saved_model_says_what_the_cell_says(name: str, home: Path, tmp_path: Path) -> None:
    of = tiny.model(name, home)
    order = cell(of)
    saved = saved_as_held(of, order, tmp_path)
    assert saved.held == sum(len(held_H) for hold in order.holds for held_H in hold.held)
    assert saved.settings == ()


@pytest.mark.parametrize(("name", "sites", "settings"), BY_SETTING)
def test_a_setting_of_the_configuration_makes_room_for_a_bias(
    name: str, sites: tuple[Site, ...], settings: tuple[str, ...], home: Path, tmp_path: Path
) -> None:
    of = tiny.model(name, home)
    saved = saved_as_held(of, cell(of, sites), tmp_path)
    assert saved.settings == settings
    config = json.loads((tmp_path / "config.json").read_text())
    assert all(config[setting] is True for setting in settings)


@pytest.mark.parametrize(("name", "site"), WITHOUT)
def test_an_architecture_without_a_bias_is_refused_and_nothing_is_written(
    name: str, site: Site, home: Path, tmp_path: Path
) -> None:
    of = tiny.model(name, home)
    with pytest.raises(SavingError, match=r"has no bias at .*\.0\..*--format masks"):
        save(of, cell(of, (site,)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_zero_needs_no_bias(home: Path, tmp_path: Path) -> None:
    of = tiny.model("mistral", home)
    saved = saved_as_held(of, cell(of, size=0), tmp_path)
    assert saved.settings == ()
    assert held_columns(tiny.model("mistral", home), cell(of)) == 0


def test_a_soft_mixture_is_in_the_weights_too(home: Path, tmp_path: Path) -> None:
    of = tiny.model("opt", home)
    order = cell(of, share=0.5)
    saved_as_held(of, order, tmp_path)
    assert held_columns(of, order) == 0  # halved, not emptied


def test_what_was_saved_loads_here_too_and_its_columns_are_empty(
    home: Path, tmp_path: Path
) -> None:
    of = tiny.model("vit", home)  # its tensors have other names in the file than in the module
    order = cell(of)
    saved = save(of, order, tmp_path)
    again = tiny.load(tiny.ref(tmp_path))
    assert held_columns(again, order) == saved.held > 0
    assert again.pixels == of.pixels
    assert "preprocessor_config.json" in saved.copied


def test_the_checkpoint_that_was_loaded_stays_as_it_was(home: Path, tmp_path: Path) -> None:
    folder = tiny.folder("opt", tmp_path / "source")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    save(of := tiny.load(tiny.ref(folder)), cell(of), tmp_path / "new")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_files_beside_the_weights_come_along_and_others_do_not(tmp_path: Path) -> None:
    folder = tiny.folder("opt", tmp_path / "source")
    told = '{"max_new_tokens": 3, "temperature": 0.5}'  # the library's own check refuses it
    kept = {"tokenizer.json": "{}", "LICENSE": "ours", "generation_config.json": told}
    left = {"README.md": "of the bare model", "modeling.py": "", "pytorch_model.bin": ""}
    for name, text in {**kept, **left}.items():
        (folder / name).write_text(text)
    (folder / "tokenizer.json").unlink()  # no tokenizer can be read from an empty one
    of = tiny.load(tiny.ref(folder))
    saved = save(of, cell(of), tmp_path / "new")
    assert {"LICENSE", "generation_config.json"} <= set(saved.copied)
    assert (tmp_path / "new" / "generation_config.json").read_text() == told
    assert not any((tmp_path / "new" / name).exists() for name in left)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_below_float32_weights_keep_their_dtype_and_the_bias_is_rounded(
    dtype: Any, home: Path, tmp_path: Path
) -> None:
    of = tiny.model("roberta", home, dtype)
    saved_as_held(of, cell(of), tmp_path, tolerance=2e-2 if dtype == "bfloat16" else 4e-3)
    assert tiny.load(tiny.ref(tmp_path, dtype)).dtype == getattr(torch, dtype)


def test_a_bias_beyond_the_numbers_of_the_dtype_is_refused(home: Path, tmp_path: Path) -> None:
    of = tiny.model("opt", home, "float16")
    with pytest.raises(SavingError, match=r"no numbers beyond 6.55e\+04"):
        save(of, cell(of, size=1e6), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_only_constants_can_be_saved(home: Path, tmp_path: Path) -> None:
    of = tiny.shared("opt", home)
    values = np.zeros((2, of.facts.layers, of.facts.neurons))
    by_position = ByPosition(values=values, starts=(0, 4))
    hold = Hold(site="attn_pre_out", held=tuple(random_held(of, 0.4)), value=by_position)
    with pytest.raises(SavingError, match="ByPosition, which differs between positions"):
        save(of, CellOrder(cell="c", holds=(hold,)), tmp_path)
    with pytest.raises(SavingError, match="it is the bare model"):
        save(of, CellOrder(cell="c"), tmp_path)


def test_gpt2_is_written_with_its_weights_as_it_has_them(home: Path, tmp_path: Path) -> None:
    of = tiny.model("gpt2", home)
    save(of, cell(of), tmp_path)
    module = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    layer = module.transformer.h[0].mlp.c_proj
    assert layer.weight.shape == (48, 32)  # inputs by outputs
    assert isinstance(as_linear(module), nn.Module)
    assert facts(tmp_path).family == "gpt2"


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_checkpoint_of_several_files_is_saved_as_one(
    name: str, home: Path, tmp_path: Path
) -> None:
    whole: Any = tiny.model(name, home).ref.folder
    module = transformers.AutoModelForCausalLM.from_pretrained(whole)
    module.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 2
    of = tiny.load(tiny.ref(tmp_path / "parts"))
    saved_as_held(of, cell(of), tmp_path / "new")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert "model.safetensors" in names
    assert not any(name.endswith("index.json") for name in names)
