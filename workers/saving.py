"""Saving: a model whose neurons are held at constants, as a checkpoint like any other.

    W x + b,  x_S := c_S      =      W' x + (b + W[:, S] c_S),  W'[:, S] := 0

`workers.folding` does this for the length of a block, and takes it back. Here it is done for
good, and written in the layout that the model came in: GPT-2's weights turned back
(`workers.conv1d`), tensors under the names of the file, tokenizer and image processor beside
them. Whoever opens the folder needs nothing of ours: the ablation is in the weights.

The sum needs a bias. Where the projection has none, a setting of the architecture's
configuration may give it one (`attention_bias` of Llama, Qwen3, Gemma); each setting with `bias` in
its name that is off is tried on a hollow model, and taken where it adds biases and nothing
else. Biases that come along, of queries say, are zeros. Mistral, Qwen2 and Phi-3 have no such
setting: there only constants of which W c is zero can be saved, such as zero itself.

Weak point: below float32 the sum is rounded to the model's dtype, which a sweep avoids by adding it
in float32 (`workers.additions`). Measure what was saved, as `orchestrator.export` does.

Shapes: L layers, N inputs and D outputs of a projection, H held inputs.
"""

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GenerationConfig

from workers.building import imagine, quiet
from workers.checkpoint import INDEX, WEIGHTS, Checkpoint, inspect
from workers.constants import check_held, check_values
from workers.conv1d import as_conv1d
from workers.hooks import projections
from workers.loading import Model
from workers.messages import CellOrder, Constant

BESIDE = {".json", ".txt", ".model", ".jinja"}
"""Suffixes of what lies beside the weights and is read with them."""
GENERATION = "generation_config.json"
LEGAL = ("LICENSE", "LICENCE", "NOTICE")


class SavingError(ValueError):
    """Held neurons that cannot become part of an ordinary checkpoint, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What was written."""

    held: int
    """Columns that were folded, over layers and sites."""
    settings: tuple[str, ...]
    """Settings of the configuration that were turned on to have a bias."""
    copied: tuple[str, ...]
    """Files that were copied as they are, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Change:
    """What becomes of one projection."""

    projection: nn.Linear
    held_H: Tensor
    offset_D: Tensor
    """α W[:, S] c_S, float64."""


def save(model: Model, order: CellOrder, folder: Path) -> Saved:
    """Fold what a cell holds into a loaded model for good, and write it into an empty folder.

    The model is changed: load it again to use it. Weights are written in the dtype that it was
    loaded in. Raises SavingError where the cell does not fold, the architecture has no place for a
    bias, or a bias would leave the numbers of the dtype, and ValueError where cell and model do
    not fit together.
    """
    source = inspect(Path(model.ref.folder))
    changes = _changes(model, order)
    lacking = [c for c in changes if c.projection.bias is None and bool(c.offset_D.any())]
    settings = _make_room(model.module, source, [c.projection for c in lacking])
    with torch.no_grad():
        for change in changes:
            _fold(change, order.share)
    folder.mkdir(parents=True, exist_ok=True)
    copied = _copy_beside(source, folder)
    with quiet():
        if source.family.library == "timm":
            _save_timm(model.module, source, folder)
        else:
            _save_transformers(as_conv1d(model.module), source, folder)
    return Saved(
        held=sum(len(c.held_H) for c in changes), settings=tuple(settings), copied=tuple(copied)
    )


def held_columns(model: Model, order: CellOrder) -> int:
    """Return how many of the columns that a cell holds are all zero in a model's weights."""
    return sum(
        int((projection.weight[:, torch.tensor(held_H)].abs().amax(dim=0) == 0).sum())
        for hold in order.holds
        for projection, held_H in zip(projections(model, hold.site), hold.held, strict=True)
        if len(held_H)
    )


def _changes(model: Model, order: CellOrder) -> list[_Change]:
    """Return what becomes of each projection with held inputs."""
    facts, made = model.facts, []
    if not order.holds:
        raise SavingError(
            f"The cell {order.cell} holds nothing: it is the bare model, whose checkpoint is"
            f" {model.ref.folder}. Name a cell that holds neurons."
        )
    for hold in order.holds:
        if not isinstance(hold.value, Constant):
            raise SavingError(
                f"The cell {order.cell} puts in {type(hold.value).__name__}, which differs between"
                " positions or inputs, and weights know neither. Only one constant per neuron"
                " folds into them: zero, mean, median, quantile, peak, optimal."
            )
        neurons = facts.neurons_at(hold.site)
        check_held(hold.held, layers=facts.layers, neurons=neurons)
        check_values(hold.held, hold.value.values, layers=facts.layers, neurons=neurons)
        found = zip(projections(model, hold.site), hold.held, hold.value.values, strict=True)
        for projection, held_H, value_N in found:
            if len(held_H):
                columns_H = torch.tensor(held_H)
                held_DH = projection.weight.detach()[:, columns_H].double()
                offset_D = held_DH @ torch.from_numpy(order.share * value_N[held_H])
                change = _Change(projection=projection, held_H=columns_H, offset_D=offset_D)
                made.append(change)
    return made


def _make_room(module: nn.Module, source: Checkpoint, lacking: Sequence[nn.Linear]) -> list[str]:
    """Give biases of zeros to projections that lack them, by settings of the configuration.

    Returns the settings. Raises SavingError where there are none that do so and nothing else.
    """
    names = {part: f"{name}.bias" for name, part in module.named_modules()}
    wanted = {names[projection] for projection in lacking}
    settings: dict[str, object] = {}
    for setting in _off(module) if wanted else ():
        config = {**source.config, **settings, setting: True}
        more = _parameters(imagine(config, str(source.folder)))
        added = more.keys() - _parameters(module).keys()
        if more.keys() >= _parameters(module).keys() and added & wanted and _biases(added):
            _add_zeros(module, {name: more[name] for name in added})
            setattr(module.config, setting, True)
            settings[setting] = True
            wanted -= added
    if wanted:
        first = sorted(wanted)[0].removesuffix(".bias")
        raise SavingError(
            f"{type(module).__name__} has no bias at {first} and at {len(wanted) - 1} more"
            " projections, and no setting of its configuration gives it one, so what these neurons"
            " are held at has no place in such a checkpoint. Export the masks and values instead"
            " (`--format masks`) and hold them with a hook, or take a cell of the method zero,"
            " which needs no bias."
        )
    return list(settings)


def _off(module: nn.Module) -> list[str]:
    """Return the settings of a configuration that may give projections a bias, and are off."""
    config = getattr(module, "config", None)
    said: Mapping[str, object] = {} if config is None else config.to_dict()
    return [name for name, value in said.items() if "bias" in name and value is False]


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters())


def _biases(names: Collection[str]) -> bool:
    return all(name.endswith(".bias") for name in names)


def _add_zeros(module: nn.Module, biases: Mapping[str, Tensor]) -> None:
    for name, like in biases.items():
        part = module.get_submodule(name.removesuffix(".bias"))
        weight = part.get_parameter("weight")
        part.bias = nn.Parameter(weight.new_zeros(like.shape), requires_grad=False)


def _fold(change: _Change, share: float) -> None:
    """Scale the held columns and move the bias, in tensors of their own: files stay as they are."""
    projection, weight_DN = change.projection, change.projection.weight.detach().clone()
    held_DH = weight_DN[:, change.held_H].float()
    weight_DN[:, change.held_H] = (held_DH * (1 - share)).to(weight_DN.dtype)
    projection.weight = nn.Parameter(weight_DN, requires_grad=False)
    if projection.bias is None:  # then nothing is to be added
        return
    bias_D = (projection.bias.double() + change.offset_D).to(weight_DN.dtype)
    if not bias_D.isfinite().all():
        raise SavingError(
            f"A bias would be {change.offset_D.abs().max().item():.3g}, and {weight_DN.dtype} has"
            f" no numbers beyond {torch.finfo(weight_DN.dtype).max:.3g}. Sweep and export this"
            " model in float32 or bfloat16."
        )
    projection.bias = nn.Parameter(bias_D, requires_grad=False)


def _copy_beside(source: Checkpoint, folder: Path) -> list[str]:
    """Copy tokenizer, processor, what generation is told, and licences; return their names."""
    copied = []
    for path in sorted(source.folder.iterdir()):
        read = path.suffix in BESIDE and path.name not in ("config.json", INDEX)
        # An index of other formats' weights names files that are not here.
        listed = path.name.endswith(".index.json")
        if path.is_file() and ((read and not listed) or path.name.upper().startswith(LEGAL)):
            shutil.copyfile(path, folder / path.name)
            copied.append(path.name)
    return copied


def _save_timm(module: nn.Module, source: Checkpoint, folder: Path) -> None:
    shutil.copyfile(source.folder / "config.json", folder / "config.json")
    tensors = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _save_transformers(module: nn.Module, source: Checkpoint, folder: Path) -> None:
    """Write configuration and weights; what generation is told stays the file it was, or none."""
    told = folder / GENERATION
    before = told.read_bytes() if told.is_file() else None
    if hasattr(module, "generation_config"):  # published ones do not all pass the library's check
        module.generation_config = GenerationConfig()  # type: ignore
    module.save_pretrained(folder)  # type: ignore[operator]
    if before is not None:
        told.write_bytes(before)
    else:
        told.unlink(missing_ok=True)
