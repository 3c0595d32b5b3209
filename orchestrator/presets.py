"""Presets: data sets by the names the field has for them.

A preset fills in what a data section leaves out: where the set lies, which columns and
splits, and whether it is streamed. Every value can be given anew; what a run folder keeps is
the section with everything filled in, so a preset that changes later changes no old run.

Nobody's data is copied here. A name is an address, and its licence and the access it needs
are the owner's; both are told as known in November 2026, and the owner's page decides.

Weak point: a set without `revision` is its newest commit on the day of the run. It is
recorded; to have the same tomorrow, give it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = str | bool | Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A data set with a name of its own."""

    source: str
    about: str
    """What a document is, and what to know."""
    licence: str
    access: str
    """What is needed to read it."""
    settings: Mapping[str, Value] = field(default_factory=dict)
    """Other keys of a data section."""


def _roles(collect: str, evaluate: str) -> dict[str, Value]:
    return {"collect": {"split": collect}, "evaluate": {"split": evaluate}}


_TRAIN_TEST = _roles("train", "test")
_OPEN = "a connection; no account"
_WIKIPEDIA = "CC BY-SA 3.0 and GFDL"
_CIFAR = "none stated; the authors ask to be cited"

PRESETS: Mapping[str, Preset] = {
    "pile": Preset(
        source="hf:monology/pile-uncopyrighted",
        about="The Pile without Books3, BookCorpus2, OpenSubtitles, YTSubtitles and OWT2."
        " Subsets: `where: {meta.pile_set_name: [Wikipedia (en)]}`",
        licence="as the parts have; those known to be copyrighted were taken out",
        access=f"{_OPEN}; 300 GB, so it is streamed",
        settings={"kind": "text", "streaming": True, **_TRAIN_TEST},
    ),
    "c4": Preset(
        source="hf:allenai/c4",
        about="Web pages of April 2019, English; `config: de` and others for other languages",
        licence="ODC-BY 1.0, and Common Crawl's terms of use",
        access=f"{_OPEN}; 300 GB, so it is streamed",
        settings={
            "kind": "text",
            "config": "en",
            "streaming": True,
            **_roles("train", "validation"),
        },
    ),
    "openwebtext": Preset(
        source="hf:Skylion007/openwebtext",
        about="Pages linked from Reddit. One split, divided by hash",
        licence="CC0 for the collection; the pages are their authors'",
        access=f"{_OPEN}; 40 GB, so it is streamed",
        settings={"kind": "text", "streaming": True},
    ),
    "wikitext-103": Preset(
        source="hf:EleutherAI/wikitext_document_level",
        about="Good and featured articles of Wikipedia, raw; a document is an article",
        licence=_WIKIPEDIA,
        access=_OPEN,
        settings={"kind": "text", "config": "wikitext-103-raw-v1", "text": "page", **_TRAIN_TEST},
    ),
    "wikitext-2": Preset(
        source="hf:EleutherAI/wikitext_document_level",
        about="The smaller sample of the same articles; its test split is that of wikitext-103",
        licence=_WIKIPEDIA,
        access=_OPEN,
        settings={"kind": "text", "config": "wikitext-2-raw-v1", "text": "page", **_TRAIN_TEST},
    ),
    "imagenet-1k": Preset(
        source="hf:ILSVRC/imagenet-1k",
        about="ILSVRC 2012: 1000 classes in the order that checkpoints number them; evaluated on"
        " `validation`, as its test split has no labels. A set of classes:"
        " `where: {label: [0, 1, 2]}`",
        licence="ImageNet's terms of access: research and teaching, not commercial",
        access="accept the terms on its page, then `hf auth login` or HF_TOKEN; 150 GB, so it is"
        " streamed",
        settings={"kind": "images", "streaming": True, **_roles("train", "validation")},
    ),
    "cifar10": Preset(
        source="hf:uoft-cs/cifar10",
        about="32 x 32 colour images of 10 classes",
        licence=_CIFAR,
        access=_OPEN,
        settings={"kind": "images", "image": "img", **_TRAIN_TEST},
    ),
    "cifar100": Preset(
        source="hf:uoft-cs/cifar100",
        about="32 x 32 colour images of 100 classes; `label: coarse_label` for the 20 groups",
        licence=_CIFAR,
        access=_OPEN,
        settings={"kind": "images", "image": "img", "label": "fine_label", **_TRAIN_TEST},
    ),
    "mnist": Preset(
        source="hf:ylecun/mnist",
        about="28 x 28 grey images of ten digits",
        licence="MIT, as its page says",
        access=_OPEN,
        settings={"kind": "images", **_TRAIN_TEST},
    ),
}


def named(data: object) -> object:
    """Return the sections of data by name, for the shorter ways to write them.

    `data: pile` and `data: [pile, c4]` name presets or sources; `{pile: {}}` and `{mine: pile}`
    too. What is none of these is left for the next to refuse.
    """
    if isinstance(data, str):
        data = [data]
    if isinstance(data, (list, tuple)) and all(isinstance(one, str) for one in data):
        twice = next((one for i, one in enumerate(data) if one in data[:i]), None)
        if twice is not None:
            raise ValueError(f"{twice!r} stands here twice; keep one, or give both names")
        data = {one: {"source": one} for one in data}
    if not isinstance(data, Mapping):
        return data
    return {key: _section(key, given) for key, given in data.items()}


def _section(key: object, given: object) -> object:
    if isinstance(given, str):
        return {"source": given}
    if isinstance(given, Mapping) and "source" not in given and key in PRESETS:
        return {"source": key, **given}
    return given


def filled(section: object) -> object:
    """Return a data section with what its preset says and it does not; others as they are."""
    if not isinstance(section, Mapping):
        return section
    preset = PRESETS.get(str(section.get("source")))
    if preset is None:
        return section
    given = {**preset.settings, **section, "source": preset.source}
    for role in ("collect", "evaluate"):  # a size is said without saying the split anew
        mine, theirs = section.get(role), preset.settings.get(role)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            given[role] = {**theirs, **mine}
    return given


def table() -> str:
    """Return the presets as a table in Markdown, for the page on data."""
    lines = ["| name | source | documents | licence | access |", "|---|---|---|---|---|"]
    for name, p in PRESETS.items():
        lines.append(f"| `{name}` | `{p.source}` | {p.about} | {p.licence} | {p.access} |")
    return "\n".join(lines) + "\n"
