"""Building: from a checkpoint's files to the library's own module, whole or refused.

The libraries are lenient: a tensor that a file lacks is drawn at random, one
too many is ignored, a head of another size is dropped, each with a line of
advice at most. Here the libraries do the building and renaming, and the
differences they found are errors.

Weights are not read but mapped: a parameter that has the dtype of the file *is*
the file's pages, so the replicas of one machine share one copy of them, and what
is never touched is never read. That ends where something is made of them: in
another dtype each replica has a copy of its own, on a GPU its device has, and a
page that is written to (a folded column) becomes private. transformers maps by
itself; timm copies, so what it loaded unchanged is put back on the map here.

Attention is computed by `scaled_dot_product_attention`, whatever the environment
says, because another implementation rounds otherwise; and plainly (`eager`) where
the scores are soft-capped, which that function cannot do.

A module can be built hollow, for its shapes alone. Then it is given zeros of
one element each, expanded to the shapes of the file, and takes no memory
however large the model is. It can be imagined too, from a configuration without
any file: for planning where the weights are not.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Literal

import timm
import torch
import transformers
from safetensors.torch import load_file
from timm.layers.config import set_fused_attn, use_fused_attn
from torch import nn

from workers.checkpoint import Checkpoint, CheckpointError, some


def build(checkpoint: Checkpoint, dtype: torch.dtype, *, hollow: bool) -> nn.Module:
    """Return a checkpoint's module, its weights in `dtype`, or hollow. Raises CheckpointError."""
    library = _timm if checkpoint.family.library == "timm" else _transformers
    try:
        with quiet():
            return library(checkpoint, dtype, hollow=hollow)
    except CheckpointError:
        raise
    except Exception as error:  # what a library raises on a strange configuration is its own affair
        raise CheckpointError(
            f"{checkpoint.family.library} cannot build a model from {checkpoint.folder}"
            f" ({type(error).__name__}: {error}). Check its config.json against its source."
        ) from error


def _transformers(checkpoint: Checkpoint, dtype: torch.dtype, *, hollow: bool) -> nn.Module:
    loader = _loader(checkpoint.config, str(checkpoint.folder))
    config = loader.config_class.from_pretrained(checkpoint.folder, local_files_only=True)
    options = {
        "dtype": dtype,
        "attn_implementation": _attention(loader, config),
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": False,
        "ignore_mismatched_sizes": True,  # so that they are listed, and refused below
        "output_loading_info": True,
    }
    if hollow:
        # One element, expanded: every shape of the file and none of its memory.
        zeros = {
            name: torch.zeros((), dtype=dtype).expand(stored.shape)
            for name, stored in checkpoint.tensors.items()
        }
        module, info = loader.from_pretrained(None, config=config, state_dict=zeros, **options)
    else:
        module, info = loader.from_pretrained(checkpoint.folder, **options)
    _refuse_difference(
        checkpoint,
        missing=info["missing_keys"],
        unexpected=info["unexpected_keys"],
        misshapen={row[0] for row in info["mismatched_keys"]},
    )
    built: nn.Module = module
    return built


def imagine(config: Mapping[str, object], where: str) -> nn.Module:
    """Return a transformers module of a configuration, shapes alone. Raises CheckpointError."""
    loader = _loader(config, where)
    try:
        with quiet(), torch.device("meta"):
            built: nn.Module = loader(loader.config_class.from_dict(dict(config)))
            return built
    except Exception as error:
        raise CheckpointError(
            f"transformers cannot build a model from {where} ({type(error).__name__}: {error})."
            " Check it against the model's own config.json."
        ) from error


def attention(module: nn.Module) -> Literal["sdpa", "eager"]:
    """Return how a module computes attention, as it says itself."""
    config = getattr(module, "config", None)
    said = getattr(config, "_attn_implementation", None)
    if said is None:  # timm's blocks say it each
        said = "sdpa" if any(getattr(p, "fused_attn", False) for p in module.modules()) else None
    return "sdpa" if said == "sdpa" else "eager"


def _loader(config: Mapping[str, object], where: str) -> Any:  # a class of transformers
    architecture = str(next(iter(config["architectures"])))  # type: ignore[call-overload]
    loader = getattr(transformers, architecture, None)
    if loader is None:
        raise CheckpointError(
            f"{where} is a {architecture}, which transformers {transformers.__version__} does not"
            " have. Install a version that does."
        )
    return loader


def _attention(loader: Any, config: Any) -> Literal["sdpa", "eager"]:
    """Return what a class is asked for; older versions of it claim soft-capping in `sdpa`.

    `config` is the library's, which may cap by default what the file leaves out.
    """
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return "sdpa" if getattr(loader, "_supports_sdpa", True) and not capped else "eager"


def _timm(checkpoint: Checkpoint, dtype: torch.dtype, *, hollow: bool) -> nn.Module:
    fused = use_fused_attn()
    set_fused_attn(True)
    try:
        return _built_by_timm(checkpoint, dtype, hollow=hollow)
    finally:
        set_fused_attn(fused)


def _built_by_timm(checkpoint: Checkpoint, dtype: torch.dtype, *, hollow: bool) -> nn.Module:
    source = f"local-dir:{checkpoint.folder}"
    with torch.device("meta"):
        module: nn.Module = timm.create_model(source, pretrained=False)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    stored = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    # timm adapts what doesn't fit (it drops a head of another size), so it is compared before.
    _refuse_difference(
        checkpoint,
        missing=expected.keys() - stored.keys(),
        unexpected=stored.keys() - expected.keys(),
        misshapen={n for n in expected.keys() & stored.keys() if expected[n] != stored[n]},
    )
    if not hollow:
        module = timm.create_model(source, pretrained=True).to(dtype)
        _map(module, checkpoint)
    return module


def _map(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Put what a module has exactly as the files have it on the files' own pages."""
    held = module.state_dict(keep_vars=True)
    for file in checkpoint.files:
        for name, mapped in load_file(file).items():
            own = held.get(name)
            if own is not None and own.dtype == mapped.dtype and torch.equal(own, mapped):
                own.data = mapped


def _refuse_difference(
    checkpoint: Checkpoint,
    *,
    missing: Iterable[str],
    unexpected: Iterable[str],
    misshapen: Iterable[str],
) -> None:
    spare = checkpoint.family.spare
    foreign = [n for n in unexpected if not any(fnmatchcase(n, pattern) for pattern in spare)]
    said = [
        f"{len(names)} {what} ({some(names)})"
        for what, names in (
            ("missing", list(missing)),
            ("unexpected", foreign),
            ("of another shape", list(misshapen)),
        )
        if names
    ]
    if said:
        raise CheckpointError(
            f"The tensors in {checkpoint.folder} are not those of a {checkpoint.family.name} model"
            f" with its head: {', '.join(said)}. They would be left random or unused; save the"
            " whole model, head included, under the architecture that config.json names."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and advice off the terminal while something is loaded."""
    chatter = transformers.logging
    level, bars = chatter.get_verbosity(), chatter.is_progress_bar_enabled()
    advice = logging.getLogger("timm")
    advice_level = advice.level
    chatter.set_verbosity(logging.ERROR)
    chatter.disable_progress_bar()  # type: ignore[no-untyped-call]
    advice.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        chatter.set_verbosity(level)
        advice.setLevel(advice_level)
        if bars:
            chatter.enable_progress_bar()  # type: ignore[no-untyped-call]
