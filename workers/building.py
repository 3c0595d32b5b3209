"""Building: from a checkpoint's files to the library's own module, whole or refused.

The libraries are lenient: a tensor that a file lacks is drawn at random, one
too many is ignored, a head of another size is dropped, each with a line of
advice at most. Here the libraries do the building and renaming, and the
differences they found are errors.

A module can be built hollow, for its shapes alone. Then it is given zeros of
one element each, expanded to the shapes of the file, and takes no memory
however large the model is.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

import timm
import torch
import transformers
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
    architecture = str(next(iter(checkpoint.config["architectures"])))  # type: ignore[call-overload]
    loader = getattr(transformers, architecture, None)
    if loader is None:
        raise CheckpointError(
            f"{checkpoint.folder} is a {architecture}, which transformers"
            f" {transformers.__version__} does not have. Install a version that does."
        )
    options = {
        "dtype": dtype,
        "attn_implementation": "sdpa",
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": False,
        "ignore_mismatched_sizes": True,  # so that they are listed, and refused below
        "output_loading_info": True,
    }
    if hollow:
        # One element, expanded: every shape of the file and none of its memory.
        zeros = {
            name: torch.zeros(1, dtype=dtype).expand(stored.shape)
            for name, stored in checkpoint.tensors.items()
        }
        config = loader.config_class.from_pretrained(checkpoint.folder, local_files_only=True)
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


def _timm(checkpoint: Checkpoint, dtype: torch.dtype, *, hollow: bool) -> nn.Module:
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
    return module


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
