"""Methods: what a sweep file may ask to be put in a neuron's place, and with which parameters.

    quantile(0.9)   {quantile: {q: 0.9}}   peak(paper, position)   mean(alpha=0.5)

A method is a name and parameters, each of which is one of some words or a number
within limits. A parameter that is left out has its default and stays out of the
method's name, but for the estimator of a peak and the source of donors, which are
always said. Names that are none of ours are those of plug-ins (`orchestrator.plugins`),
which come with the command line and never from the file.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.mistakes import nearest
from workers.published import PUBLISHED

Parameter = str | int | float


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """A parameter that is one of some words, the first by default."""

    words: tuple[str, ...]
    what: str
    """What people call it."""

    @property
    def default(self) -> Parameter | None:
        """The first word."""
        return self.words[0]

    def read(self, value: object) -> Parameter:
        """Return the word; raises ValueError."""
        if value not in self.words:
            raise ValueError(
                f"unknown {self.what} {str(value)!r}{nearest(str(value), self.words)} Known:"
                f" {', '.join(self.words)}"
            )
        return str(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """A parameter that is a number; without a default it must be given."""

    low: float
    high: float
    what: str
    default: Parameter | None = None
    whole: bool = False

    def read(self, value: object) -> Parameter:
        """Return the number; raises ValueError."""
        number = _number(value)
        if number is None or not self.low <= number <= self.high or (self.whole and number % 1):
            kind = "a whole number" if self.whole else "a number"
            raise ValueError(
                f"found the {self.what} {value!r}, expected {kind} from {self.low:g} to"
                f" {self.high:g}"
            )
        return int(number) if self.whole else float(number)


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value) if isinstance(value, (int, float, str)) else None
    except ValueError:
        return None


Parameters = Mapping[str, Words | Number]

_BY = Words(words=("all", "position"), what="`by`")
ALPHA = Number(low=1e-6, high=1.0, default=1.0, what="alpha (share of the constant)")
ESTIMATORS = ("smooth", "half_sample", *PUBLISHED)
SOURCES = (
    "dataset",
    "random",
    "random_tokens",
    "random_characters",
    "generated",
    "random_pixels",
    "shuffled_pixels",
    "paired",
)
METHODS: Mapping[str, Parameters] = {
    "zero": {},
    "mean": {"by": _BY},
    "median": {"by": _BY},
    "quantile": {"q": Number(low=0.0, high=1.0, what="quantile"), "by": _BY},
    "peak": {"estimator": Words(words=ESTIMATORS, what="peak estimator"), "by": _BY},
    "optimal": {
        "scope": Words(words=("cell", "shared"), what="scope"),
        "steps": Number(low=1, high=100_000, default=100, whole=True, what="number of steps"),
        "lr": Number(low=1e-6, high=10.0, default=0.2, what="learning rate"),
        "seed": Number(low=0, high=2**53, default=0, whole=True, what="seed"),
    },
    "resample": {
        "source": Words(words=SOURCES, what="resample source"),
        "drawn": Words(words=("joint", "per_layer", "per_head", "per_neuron"), what="`drawn`"),
        "donor": Words(words=("own", "shared"), what="donor"),
        "behaviour": Words(words=("by_position", "published"), what="behaviour"),
    },
    "marginal": {},
    "noise": {},
    "nearest_peak": {},
}
"""What each method's parameters may be; `alpha`, of soft mixtures, is every method's."""
CONSTANT = ("zero", "mean", "median", "quantile", "peak", "optimal")
"""Methods that hold a neuron at one value, which folds into the projection."""
DRAWN = ("marginal", "noise")
"""Methods that draw anew at every position, keyed by the noise seed."""
RESERVED = frozenset(
    {"alpha"}
    | {key for known in METHODS.values() for key, kind in known.items() if isinstance(kind, Words)}
)
"""Names that a plug-in's parameters may not have: they mean something wherever they stand."""
_NAMED_ALWAYS = ("estimator", "source", "q")
"""Parameters that stand in a method's name even where they are the default."""


def method(value: object, plugins: Mapping[str, Mapping[str, Parameter]]) -> dict[str, object]:
    """Return {method, parameters} for `peak`, `peak(paper)` or `{peak: {estimator: paper}}`.

    `plugins` are the names of a user's own methods with their parameters' defaults.
    Raises ValueError saying what was found and what to write.
    """
    name, given = spelled(value, "method", "`{peak: {estimator: paper}}`")
    if name in plugins:
        return {"method": name, "parameters": _own(name, given, plugins[name])}
    if name not in METHODS:
        names = (*METHODS, *plugins)
        raise ValueError(f"unknown method {name!r}{nearest(name, names)} Known: {', '.join(names)}")
    parameters = read(name, given, {**METHODS[name], "alpha": ALPHA}, "method")
    _refuse_pairs(name, parameters)
    return {"method": name, "parameters": parameters}


def spelled(value: object, what: str, example: str) -> tuple[str, Mapping[str, object] | list[str]]:
    """Return a name and its parameters, or the words that stood in brackets after it."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", value)
        if match is None:
            raise ValueError(f"found {value!r}, expected a {what} such as {example}")
        inside = match[2] or ""
        return match[1], [word.strip() for word in inside.split(",") if word.strip()]
    if isinstance(value, Mapping) and len(value) == 1:
        name, given = next(iter(value.items()))
        if given is None or isinstance(given, Mapping):
            return str(name), dict(given or {})
        raise ValueError(f"{what} {name!r}: found {given!r}, expected a mapping such as {example}")
    raise ValueError(
        f"found {value!r}, expected a {what}'s name or a mapping of one name to its parameters"
        f" ({example})"
    )


def read(
    name: str, given: Mapping[str, object] | list[str], known: Parameters, what: str
) -> dict[str, Parameter]:
    """Return the parameters that are kept in a name; raises ValueError for what is wrong."""
    if isinstance(given, list):
        given = dict(_assigned(name, word, known, what) for word in given)
    unknown = [key for key in given if key not in known]
    if unknown:
        takes = ", ".join(key for key in known if key != "alpha") or "no parameters but `alpha`"
        raise ValueError(f"{what} {name!r} takes {takes}; found {unknown[0]!r}")
    kept: dict[str, Parameter] = {}
    for key, kind in known.items():
        if key not in given and kind.default is None:
            raise ValueError(f"{what} {name!r} needs {key!r} ({kind.what})")
        chosen = kind.read(given[key]) if key in given else kind.default
        assert chosen is not None
        if key in _NAMED_ALWAYS or chosen != kind.default:
            kept[key] = chosen
    return kept


def _assigned(name: str, word: str, known: Parameters, what: str) -> tuple[str, object]:
    """Return the parameter that a word in brackets sets: `paper`, `0.9` or `alpha=0.5`."""
    key, equals, value = (part.strip() for part in word.partition("="))
    if equals:
        return key, value
    for key, kind in known.items():
        if isinstance(kind, Words) and word in kind.words:
            return key, word
    for key, kind in known.items():
        if isinstance(kind, Number) and kind.default is None and _number(word) is not None:
            return key, word
    words = [w for kind in known.values() if isinstance(kind, Words) for w in kind.words]
    if not words:
        raise ValueError(
            f"{what} {name!r} takes no {word!r}; its parameters are: {', '.join(known)}"
        )
    first = next(kind for kind in known.values() if isinstance(kind, Words))
    raise ValueError(
        f"unknown {first.what} {word!r}{nearest(word, words)} Known: {', '.join(first.words)}"
    )


def _refuse_pairs(name: str, parameters: Mapping[str, Parameter]) -> None:
    """Raise ValueError for parameters that do not go together."""
    if parameters.get("by") == "position" and str(parameters.get("estimator")).startswith("paper"):
        raise ValueError(
            f"{name!r} by position has the estimators smooth and half_sample; the published ones"
            " are of all positions together"
        )
    if name == "optimal" and "alpha" in parameters:
        raise ValueError("optimal constants are learned with nothing kept of x; leave alpha out")
    if parameters.get("source") == "paired":
        other = next((k for k in ("drawn", "donor", "behaviour") if k in parameters), None)
        if other is not None:
            raise ValueError(
                f"paired prompts have one donor each, so `{other}: {parameters[other]}` has nothing"
                " to choose from; leave it out"
            )
    if name == "resample" and "drawn" in parameters:
        other = next((k for k in ("donor", "behaviour") if k in parameters), None)
        if other is not None:
            raise ValueError(
                f"`{other}: {parameters[other]}` has one donor for all sequences, so nothing is"
                f" drawn {parameters['drawn']}; leave one of the two out"
            )


def _own(
    name: str, given: Mapping[str, object] | list[str], defaults: Mapping[str, Parameter]
) -> dict[str, Parameter]:
    """Return the parameters of a plug-in that differ from its defaults."""
    if isinstance(given, list):
        pairs = [tuple(part.strip() for part in word.partition("=")) for word in given]
        if any(not equals for _, equals, _ in pairs):
            raise ValueError(f"write the parameters of plug-in {name!r} as `key=value`")
        given = {key: value for key, _, value in pairs}
    unknown = [key for key in given if key not in {**defaults, "alpha": 1.0}]
    if unknown:
        known = ", ".join((*defaults, "alpha"))
        raise ValueError(f"plug-in {name!r} takes {known}; found {unknown[0]!r}")
    kept: dict[str, Parameter] = {}
    for key, value in given.items():
        default = defaults.get(key, 1.0)
        number = _number(value) if not isinstance(default, str) else None
        if key == "alpha":
            chosen = ALPHA.read(value)
        elif isinstance(default, str):
            chosen = str(value)
        elif number is None:
            raise ValueError(f"plug-in {name!r}: found {key} {value!r}, expected a number")
        else:
            chosen = int(number) if isinstance(default, int) else number
        if chosen != default:
            kept[key] = chosen
    return kept
