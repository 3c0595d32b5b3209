"""Checkpoint: what a model's folder holds, as far as files alone can say.

A folder is looked at before any library opens it, because what a library does
with a folder it half understands is to go on: it falls back to a pickle, it
leaves a missing tensor random, it runs code that came along. Here the
configuration is parsed, the family found, and the header of every
safetensors file read and checked against the file's size.

A folder names no file outside of itself: shards are names below it. That a name
is a link is another matter, and left alone: in a hub's cache all files are links
to `../../blobs`, made by whoever made the folder.

The digest is over the files that are read, names and contents; a README or an
optimizer state beside them changes nothing. Those of large files are kept
(`workers.digests`), so that a run of many replicas reads its weights once for it.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from workers import digests
from workers.families import Family, UnknownFamilyError, family_of

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # lists the shards of weights too large for one file
PREPROCESSOR = "preprocessor_config.json"  # where transformers says how pixels are scaled
PICKLES = {".bin", ".pt", ".pth", ".ckpt"}
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
LARGEST = 1 << 26  # bytes of a JSON file: an index of 400,000 tensors has half of that


class CheckpointError(ValueError):
    """A checkpoint folder cannot be used, and why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """One tensor of a file, from its header."""

    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pixels:
    """How a byte becomes what the model was trained to see: (byte x scale - mean) / s.d."""

    scale: float
    """1/255 unless the checkpoint says otherwise."""
    mean: tuple[float, ...]
    """Per channel, after scaling."""
    std: tuple[float, ...]
    """Per channel, after scaling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A folder that looks usable; whether its tensors fit the model is `building`'s to say."""

    folder: Path
    config: Mapping[str, object]
    family: Family
    files: tuple[Path, ...]
    """Safetensors files, in order of name."""
    tensors: Mapping[str, Stored]
    """Every tensor of the files, under the name it has there."""
    tokenizer: tuple[Path, ...]
    """Tokenizer files; none for images."""


def inspect(folder: Path) -> Checkpoint:
    """Return what a folder holds. Raises CheckpointError or UnknownFamilyError, with the cure."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder. Give the folder that holds config.json.")
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no config.json, so its architecture is unknown. Give the folder that"
            " `save_pretrained` wrote, or download the whole repository."
        )
    config = parsed(path)
    try:
        family = family_of(config)
    except UnknownFamilyError as error:
        if "auto_map" not in config:
            raise UnknownFamilyError(f"{path}: {error}") from None
        raise CheckpointError(
            f"{folder} needs code of its own (`auto_map` in config.json), which is never run."
            f" {error}"
        ) from None
    if (stored := config.get("quantization_config")) is not None:
        kind = stored.get("quant_method") if isinstance(stored, dict) else stored
        raise CheckpointError(
            f"{path} says that its weights are stored quantised ({kind}), and its projections are"
            " then no plain matrices. Use the checkpoint it was made from; `packed: int8` in the"
            " sweep file packs that one here."
        )
    files = _weight_files(folder)
    tensors = {name: stored for file in files for name, stored in _header(file).items()}
    _refuse_endless(path, config, len(tensors))
    return Checkpoint(
        folder=folder,
        config=config,
        family=family,
        files=files,
        tensors=tensors,
        tokenizer=()
        if family.modality == "image"
        else tuple(folder / name for name in TOKENIZER if (folder / name).is_file()),
    )


def parsed(path: Path) -> dict[str, Any]:
    """Return the mapping that a JSON file holds."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise CheckpointError(
                f"{path} has more than {LARGEST >> 20} MiB; a file of its name has a few KiB."
                " Restore it from its source."
            )
        found = json.loads(content.decode("utf-8"))
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}). Restore it from its source."
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not JSON ({error}). Restore it from its source."
        ) from None
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path} holds a {type(found).__name__} where a mapping was expected. Restore it from"
            " its source."
        )
    return found


def digest(files: Iterable[Path]) -> str:
    """Return the SHA-256 over the names and contents of files, in order of name."""
    return digests.of_files(files)


def weight_digest(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 over a checkpoint's weights and all the configuration that is read."""
    said = [checkpoint.folder / "config.json"]
    if checkpoint.family.modality == "image" and (checkpoint.folder / PREPROCESSOR).is_file():
        said.append(checkpoint.folder / PREPROCESSOR)  # how pixels are scaled changes every answer
    return digest([*said, *checkpoint.files])


def pixels_of(checkpoint: Checkpoint, channels: int) -> Pixels:
    """Return how an image model's bytes are scaled. Raises CheckpointError if that is unsaid."""
    if checkpoint.family.library == "timm":
        path, found = checkpoint.folder / "config.json", checkpoint.config.get("pretrained_cfg")
        said: dict[str, Any] = found if isinstance(found, dict) else {}
        scale, mean, std = 1 / 255, said.get("mean"), said.get("std")
    else:
        path = checkpoint.folder / PREPROCESSOR
        said = parsed(path) if path.is_file() else {}
        scale = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
        mean, std = said.get("image_mean"), said.get("image_std")
        if said.get("do_normalize") is False:
            mean, std = 0.0, 1.0
    means = _per_channel(mean, channels, "mean", path)
    deviations = _per_channel(std, channels, "standard deviation", path)
    if 0.0 in deviations:
        raise CheckpointError(
            f"{path} says a standard deviation of 0, by which no pixel can be divided. Correct the"
            " file."
        )
    return Pixels(
        scale=_number(scale, "scale of pixels", path),
        mean=means,
        std=deviations,
    )


def _per_channel(said: Any, channels: int, what: str, path: Path) -> tuple[float, ...]:
    values = said if isinstance(said, list) else [] if said is None else [said]
    if len(values) == 1:
        values = values * channels
    if len(values) != channels:
        raise CheckpointError(
            f"{path} says the {what} of {len(values)} channels, and the model's images have"
            f" {channels}; without it the pixels it was trained on are unknown. Save the image"
            " processor beside the model, or correct the file."
        )
    return tuple(_number(value, what, path) for value in values)


def _number(said: Any, what: str, path: Path) -> float:
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not abs(said) < math.inf:
        raise CheckpointError(
            f"{path} says the {what} is {said!r}; expected a finite number. Correct the file."
        )
    return float(said)


def some(names: Iterable[str]) -> str:
    """Return the first few names, for a sentence."""
    listed = sorted(names)
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")


def _weight_files(folder: Path) -> tuple[Path, ...]:
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if (folder / INDEX).is_file():
        shards = parsed(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise CheckpointError(
                f"{folder / INDEX} has no `weight_map`, so it lists no weights. Restore it from its"
                " source."
            )
        files = tuple(folder / shard for shard in _within(folder, shards.values()))
        if gone := [file.name for file in files if not file.is_file()]:
            raise CheckpointError(
                f"{folder} lacks {some(gone)}, which {INDEX} lists. Download what is missing."
            )
        return files
    if pickles := [file.name for file in folder.iterdir() if file.suffix in PICKLES]:
        raise CheckpointError(
            f"{folder} has its weights as pickle only ({some(pickles)}), which can run code when"
            " read. Convert them to safetensors where you trust them: load the model and call"
            " `save_pretrained`, which writes model.safetensors."
        )
    raise CheckpointError(
        f"{folder} has no weights. Expected {WEIGHTS}, or shards listed in {INDEX}: download the"
        " whole repository."
    )


def _refuse_endless(path: Path, config: Mapping[str, Any], tensors: int) -> None:
    """Refuse more layers than there are tensors: a library would build them for hours."""
    arguments = config.get("model_args")
    depth = arguments.get("depth") if isinstance(arguments, dict) else None
    said = [config.get(key) for key in ("num_hidden_layers", "n_layer", "n_layers")]
    for layers in (*said, depth):
        if isinstance(layers, int) and layers > tensors:
            raise CheckpointError(
                f"{path} says {layers} layers, and the weights are {tensors} tensors in all."
                " Restore config.json, or the weights that belong to it."
            )


def _within(folder: Path, shards: Iterable[object]) -> list[str]:
    """Return the names of an index's shards, sorted; refuse what is no name below the folder."""
    names = {shard for shard in shards if isinstance(shard, str)}
    for shard in [*(s for s in shards if not isinstance(s, str)), *sorted(names)]:
        path = PurePosixPath(shard if isinstance(shard, str) else "")
        if not path.name.endswith(".safetensors") or path.is_absolute() or ".." in path.parts:
            raise CheckpointError(
                f"{folder / INDEX} names the shard {shard!r}; expected a safetensors file inside of"
                " the folder. Put the shards beside the index and name them there."
            )
    return sorted(names)


def _header(file: Path) -> dict[str, Stored]:
    try:
        with safe_open(file, framework="np"):  # checks the header against the file's size
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} is not a whole safetensors file ({error}). Download or save it again."
        ) from None
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return {
        name: Stored(
            shape=tuple(row["shape"]), bytes=row["data_offsets"][1] - row["data_offsets"][0]
        )
        for name, row in header.items()
    }
