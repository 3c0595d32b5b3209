"""Loading: from a folder on disk to a model that can be run, or a reason why not.

There is one way in: `config.json` names an architecture, its family says how
to find the parts, the library's own loader reads safetensors. Nothing in a
folder is executed: no pickle, no remote code. Whatever could make the
numbers quietly wrong is refused with a sentence that says what to do: a
missing or unexpected tensor, weights that changed since they were planned
with, an unknown scaling of pixels. (A notebook may `adopt` a module that it
has in memory; a sweep cannot.)

`facts` answers what planning needs and reads the weights for their digest
alone: the library is given zeros that take no memory, and treats them as it
will treat the weights, renaming of tensors included. `imagined` answers it of a
configuration whose weights are elsewhere; its digest is provisional.

    python -m workers.loading FOLDER [FOLDER…]

prints the facts of each folder as one JSON list, {"error": "…"} for those
refused, so that planning can ask in a process of its own and needs no torch;
`--without-weights FILE…` does so of files of `orchestrator/known_models`.

Weak point: a tensor that the library itself calls optional is not missed here.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
import transformers
from torch import nn

from workers import digests
from workers.building import build, imagine, quiet
from workers.checkpoint import (
    Checkpoint,
    CheckpointError,
    Pixels,
    digest,
    inspect,
    parsed,
    pixels_of,
    weight_digest,
)
from workers.conv1d import as_linear
from workers.families import Family, UnknownFamilyError, family_of
from workers.messages import ModelFacts, ModelRef
from workers.parts import image, known, sites
from workers.rotation import RotationError, rotate_checked
from workers.sharding import cut

__all__ = [
    "CheckpointError",
    "Model",
    "Pixels",
    "RotationError",
    "adopt",
    "facts",
    "imagined",
    "load",
    "main",
    "sites",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A loaded checkpoint: evaluated only, never trained."""

    module: nn.Module
    ref: ModelRef
    family: Family
    pixels: Pixels | None
    """None for text."""

    @property
    def facts(self) -> ModelFacts:
        """What is known of the checkpoint."""
        return self.ref.facts

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters and the activations are made of."""
        return next(self.module.parameters()).dtype


def facts(folder: Path) -> ModelFacts:
    """Return what can be known of a checkpoint folder; reads its weights for their digest alone.

    Raises CheckpointError or UnknownFamilyError where `load` would.
    """
    checkpoint = inspect(folder)
    family = checkpoint.family
    module = as_linear(build(checkpoint, torch.float32, hollow=True))
    told = known(module, family, str(folder))
    if told.image is not None:
        pixels_of(checkpoint, told.image[2])  # refused while planning, not on the worker
    return replace(
        told,
        bytes=sum(stored.bytes for stored in checkpoint.tensors.values()),
        digest=weight_digest(checkpoint),
        tokenizer=digest(checkpoint.tokenizer) if checkpoint.tokenizer else None,
        specials={} if family.modality == "image" else _specials(checkpoint, told.vocabulary),
    )


def imagined(file: Path) -> ModelFacts:
    """Return what a JSON file's `config` and `specials` say of a transformers model, no weights.

    Its digest, and a text model's tokenizer, are provisional: they tell such models apart and
    stand for no file. Bytes are those of its parameters in the dtype that `config` names.
    Raises CheckpointError or UnknownFamilyError where it cannot be used.
    """
    said = parsed(file)
    config: Mapping[str, object] = said["config"]
    family = family_of(config)
    told = known(as_linear(imagine(config, str(file))), family, str(file))
    stored = getattr(torch, str(config.get("torch_dtype", "float32")))
    whole = json.dumps(said, sort_keys=True).encode()
    name = digests.PROVISIONAL + hashlib.sha256(whole).hexdigest()
    return replace(
        told,
        bytes=told.parameters * stored.itemsize,
        digest=name,
        tokenizer=None if family.modality == "image" else name,
        specials={role: int(token) for role, token in said["specials"].items()},
    )


def load(ref: ModelRef) -> Model:
    """Return the checkpoint of a reference, ready to be run: frozen, on its device, in its dtype.

    Where the reference has a basis, the axes inside every head are rotated (`workers.rotation`),
    and the hidden states of a few random inputs are compared before and after.

    Sets the threads of this process, because sums depend on them. Raises
    CheckpointError where the folder is unusable or no longer what was planned,
    RotationError (one of these) where the model would not compute the same in another basis.
    """
    torch.set_num_threads(ref.threads)
    checkpoint = inspect(Path(ref.folder))
    found = weight_digest(checkpoint)
    if found != ref.facts.digest:
        raise CheckpointError(
            f"{ref.folder} has weights of digest {found[:12]}, and {ref.name} was planned with"
            f" {ref.facts.digest[:12]}. Put the planned weights back, or plan again."
        )
    module = as_linear(build(checkpoint, getattr(torch, ref.dtype), hollow=False))
    module = module.eval().requires_grad_(False)
    if ref.shards > 1:  # before it goes to a device that has no room for all of it
        module = cut(module, checkpoint.family, ref.facts, ref.shards)
    module = module.to(ref.device)
    if ref.basis is not None:
        rotate_checked(module, checkpoint.family, ref.facts, ref.basis, name=ref.name)
    size = image(module, checkpoint.family)
    return Model(
        module=module,
        ref=ref,
        family=checkpoint.family,
        pixels=None if size is None else pixels_of(checkpoint, size[2]),
    )


def adopt(module: nn.Module, *, pixels: Pixels | None = None) -> Model:
    """Return a model that is in memory already, to be used like a loaded one: for notebooks.

    `module` is what transformers or timm made, of a known family; it is put into
    evaluation mode and otherwise left as it is, but that GPT-2's `Conv1D` layers become linear
    ones of the same memory (`workers.conv1d.as_conv1d` turns them back, to save it). Image
    models are told how `pixels` are scaled, as their image processor says. There is no folder,
    no digest and no tokenizer, so a sweep cannot be planned with it. Raises CheckpointError or
    UnknownFamilyError where it cannot be used.
    """
    config = getattr(module, "pretrained_cfg", None)  # timm's, which names the architecture
    named = config if isinstance(config, dict) else {"architectures": [type(module).__name__]}
    family = family_of(named)
    name = type(module).__name__
    told = known(as_linear(module), family, f"This {name}")
    some_parameter = next(module.parameters())
    dtype, device = str(some_parameter.dtype).removeprefix("torch."), some_parameter.device.type
    if dtype not in ("float32", "bfloat16", "float16") or device not in ("cpu", "cuda"):
        raise CheckpointError(
            f"This {name} is {dtype} on {device}; expected float32, bfloat16 or float16 on cpu or"
            " cuda. Convert it with `module.to(…)`."
        )
    if family.modality == "image" and pixels is None:
        raise CheckpointError(
            f"This {name} does not say how pixels are scaled. Give"
            " `pixels=Pixels(scale=1 / 255, mean=(…), std=(…))` as its image processor has them."
        )
    ref = ModelRef(
        name=name,
        folder="",
        dtype=cast(Literal["float32", "bfloat16", "float16"], dtype),
        device=cast(Literal["cpu", "cuda"], device),
        threads=torch.get_num_threads(),
        facts=told,
    )
    return Model(module=module.eval(), ref=ref, family=family, pixels=pixels)


def _specials(checkpoint: Checkpoint, vocabulary: int) -> dict[str, int]:
    """Return special token ids by role, refusing those that the model has no embedding of."""
    found = _named(checkpoint)
    if beyond := [role for role, token in found.items() if not 0 <= token < vocabulary]:
        raise CheckpointError(
            f"In {checkpoint.folder} the special token {beyond[0]} is {found[beyond[0]]}, and the"
            f" model has {vocabulary} tokens. Use the tokenizer that the model was trained with."
        )
    return found


def _named(checkpoint: Checkpoint) -> dict[str, int]:
    """Return special token ids by role: the tokenizer's, or without one the configuration's."""
    roles = ("bos", "eos", "pad", "mask", "unk")
    if not checkpoint.tokenizer:
        named = {role: checkpoint.config.get(f"{role}_token_id") for role in roles}
        return {role: found for role, found in named.items() if isinstance(found, int)}
    try:
        with quiet():  # the tokenizer's class knows roles that its files need not say
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                checkpoint.folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # as many kinds as there are ways to break the files
        raise CheckpointError(
            f"The tokenizer in {checkpoint.folder} cannot be read ({type(error).__name__}:"
            f" {error}). Save it beside the model with `save_pretrained`."
        ) from error
    by_role = {role: getattr(tokenizer, f"{role}_token_id") for role in roles}
    return {role: int(found) for role, found in by_role.items() if found is not None}


def main(arguments: list[str]) -> None:
    """Print the facts of each folder as one JSON list; a refusal takes the place of its facts.

    After `--without-weights` they are files, each with a configuration.
    """
    without = arguments[:1] == ["--without-weights"]
    asked = imagined if without else facts
    said: list[dict[str, object]] = []
    for path in arguments[1:] if without else arguments:
        try:
            said.append(asdict(asked(Path(path))))
        except (CheckpointError, UnknownFamilyError, OSError) as error:
            said.append({"error": str(error)})
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
