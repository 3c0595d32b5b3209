"""Feeding: what a source's documents go through before one model is fed them, and whether it can.

The settings of a source (`sections.DataSpec`) say how texts are cut; the checkpoint says how
images are made its size. Both decide what is fed, so both are part of the name of the data.
What a sweep leaves at its default is not in the name: data of earlier runs keep theirs.

The bundled digits are fed to a model of their size as they are, because it was trained so;
any other image goes through the model's own transform.
"""

from pathlib import Path

from orchestrator.documents import Source
from orchestrator.sections import DataSpec
from orchestrator.sources import DIGITS_SHAPE
from workers.images import TransformError, transform
from workers.messages import ModelFacts, ModelRef
from workers.tokenising import unreadable


def told(data: DataSpec, ref: ModelRef) -> dict[str, object]:
    """Return what preparing does that it did not always do: part of the data's recipe.

    Raises TransformError where `misfit` would have said that the model cannot be fed images.
    """
    settings = {"stride": data.stride, "context": data.context, "truncate": data.truncate or None}
    found: dict[str, object] = {key: value for key, value in settings.items() if value is not None}
    if not data.source.startswith("zoo:"):  # no bundled source has any
        found["near_duplicates"] = data.near_duplicates
    image = ref.facts.image
    if image is not None and not _as_they_are(data, ref.facts):
        planned = Path(ref.folder).is_dir()  # else nothing is known of it but its facts
        found["transform"] = transform(Path(ref.folder), image).told() if planned else "unknown"
    return found


def misfit(ref: ModelRef, data: DataSpec, source: Source) -> str | None:
    """Return why a model cannot be fed a source as asked, to be said after its name; None if not.

    Whether every document can be used is seen when they are read.
    """
    facts = ref.facts
    if (facts.modality == "image") != (source.kind == "images"):
        return f"holds {source.kind}, and the model takes {'images' if facts.image else 'text'}"
    if facts.modality == "masked" and source.kind == "pairs":
        return "holds paired prompts, and the model hides tokens of what it reads"
    if facts.image is not None:
        return _image_misfit(ref, data)
    if Path(ref.folder).is_dir() and (why := unreadable(Path(ref.folder))) is not None:
        return f"is text, and {why}"
    if source.kind == "pairs" and (said := _pairs_misfit(data)) is not None:
        return said
    if data.sequence_length is not None and data.sequence_length > facts.window:
        return f"asks for {data.sequence_length} positions; the model takes {facts.window} at most"
    return _cut_misfit(facts, data)


def _as_they_are(data: DataSpec, facts: ModelFacts) -> bool:
    return data.source == "zoo:digits" and facts.image == DIGITS_SHAPE


def _image_misfit(ref: ModelRef, data: DataSpec) -> str | None:
    if (key := _cutting(data)) is not None:
        return f"asks for `{key}`, which is for text; leave it out"
    if ref.facts.image is None or _as_they_are(data, ref.facts) or not Path(ref.folder).is_dir():
        return None
    try:
        transform(Path(ref.folder), ref.facts.image)
    except TransformError as error:
        return f"must be made the model's size: {error}"
    return None


def _pairs_misfit(data: DataSpec) -> str | None:
    """Return the setting that a prompt has no use for: it is never cut, and alike on purpose."""
    key = _cutting(data) or ("near_duplicates" if data.near_duplicates != "drop" else None)
    if key is None:
        return None
    return f"asks for `{key}`, and paired prompts are fed whole, but for equal ones; leave it out"


def _cutting(data: DataSpec) -> str | None:
    """Return a setting of how texts are cut that is given; None if none is."""
    return next((key for key in ("stride", "context", "truncate") if getattr(data, key)), None)


def _cut_misfit(facts: ModelFacts, data: DataSpec) -> str | None:
    """Return what is wrong with windows that overlap or leave tokens unscored."""
    stride, context = data.stride, data.context
    if facts.modality == "masked" and (stride or context):
        key = "stride" if stride else "context"
        return (
            f"asks for `{key}`, and a masked model looks both ways, so that every window is scored"
            " by itself; leave it out, or sweep the model with a source of its own"
        )
    window = data.window(facts.window)
    room = window - (data.bos == "every_window" and "bos" in facts.specials)
    if stride is not None and stride > room:
        return (
            f"asks for a stride of {stride}, and a window holds {room} tokens, so that some would"
            f" be in none; ask for {room} at most"
        )
    most = window - (stride or 0)
    if context is not None and context > most - (stride is None):
        return (
            f"asks for {context} positions of context; windows of {window}"
            + (f" with a stride of {stride}" if stride else "")
            + f" have {most - (stride is None)} for every token scored; ask for no more, or for a"
            " smaller stride"
        )
    return None
