"""Arms: what a sweep compares, methods and selections, as the sweep file's typed values.

A method says what is put in a neuron's place, a selection which neurons. Both have
a label made from their name and parameters, unique within a sweep, which `contrasts`
name and tables hold.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, ValidationInfo

from orchestrator.labels import label
from orchestrator.methods import CONSTANT, DRAWN, METHODS, Parameter, method
from orchestrator.rules import RULES, rule
from orchestrator.sections import Section
from workers.messages import Modality

_FITTING: Mapping[str, tuple[Modality, ...]] = {
    "random_tokens": ("causal", "masked"),
    "random_characters": ("causal", "masked"),
    "generated": ("causal",),
    "paired": ("causal",),
    "random_pixels": ("image",),
    "shuffled_pixels": ("image",),
}
"""Modalities that a source of donors fits; any for those not named."""


class MethodSpec(Section):
    """One way to replace a neuron's value, with its parameters."""

    method: str
    parameters: Mapping[str, str | int | float]
    plugin: Literal["constant", "replacing"] | None = None
    """What kind of value a user's own method gives; None for ours."""

    @property
    def label(self) -> str:
        """The name used in `contrasts` and figures: `peak` or `peak(paper)`."""
        return label(self.method, self.parameters)

    def word(self, key: str) -> str:
        """Return one of our methods' parameters that is a word, as given or its default."""
        return str(self.parameters.get(key, METHODS[self.method][key].default))

    def number(self, key: str) -> float:
        """Return one of our methods' parameters that is a number, as given or its default."""
        default = METHODS[self.method][key].default
        return float(self.parameters.get(key, 0 if default is None else default))

    @property
    def constant(self) -> bool:
        """Whether it holds a neuron at a constant, which `centres` has."""
        return self.method in CONSTANT or self.plugin == "constant"

    @property
    def drawn(self) -> bool:
        """Whether it draws anew at every position, by the noise seed."""
        return self.method in DRAWN or self.plugin == "replacing"

    @property
    def donated(self) -> bool:
        """Whether it takes the activations of donors."""
        return self.method == "resample"

    @property
    def paired(self) -> bool:
        """Whether each prompt brings its donor, so that none is drawn."""
        return self.parameters.get("source") == "paired"

    @property
    def by_position(self) -> bool:
        """Whether the constant differs between buckets of positions."""
        return self.parameters.get("by") == "position"

    @property
    def share(self) -> float:
        """α of a soft mixture, (1 − α) x + α c; 1 where nothing of x is kept."""
        return float(self.parameters.get("alpha", 1.0))

    @property
    def plain(self) -> Mapping[str, Parameter]:
        """The parameters that say which constant or value it is: all but α."""
        return {k: v for k, v in self.parameters.items() if k != "alpha"}

    @property
    def estimator(self) -> str:
        """The peak's estimator; empty for other methods."""
        return str(self.parameters.get("estimator", ""))

    @property
    def published(self) -> bool:
        """Whether it needs counts in the bins of the published peak."""
        return self.estimator.startswith("paper")

    def source(self, modality: Modality) -> str:
        """Return where donors come from; `random` is tokens or pixels."""
        named = str(self.parameters.get("source", ""))
        if named == "random":
            return "random_pixels" if modality == "image" else "random_tokens"
        return named

    def fits(self, modality: Modality) -> bool:
        """Return whether models of a modality can be given this method."""
        return modality in _FITTING.get(self.source(modality), (modality,))


class SelectionSpec(Section):
    """One way to order units, with its parameters."""

    rule: Literal["random", "score", "explicit", "regression"]
    parameters: Mapping[str, str | int | float]

    @property
    def label(self) -> str:
        """The name used in `contrasts` and tables: `random` or `score(rms, low)`."""
        return label(self.rule, self.parameters)

    def number(self, key: str) -> float:
        """Return a parameter that is a number, as given or its default."""
        default = RULES[self.rule][key].default
        return float(self.parameters.get(key, 0 if default is None else default))

    @property
    def seeded(self) -> bool:
        """Whether every mask seed gives another order."""
        return self.rule == "random"

    @property
    def over(self) -> Literal["layer", "all"]:
        """What is ranked together: the units of a layer, or all."""
        whole = self.rule in ("explicit", "regression") or self.parameters.get("over") == "global"
        return "all" if whole else "layer"

    @property
    def iterative(self) -> bool:
        """Whether scores are taken again at each fraction, with the one before held."""
        return self.parameters.get("again") == "each_fraction"


def _method(value: object, info: ValidationInfo) -> object:
    kinds: Mapping[str, tuple[str, Mapping[str, Parameter]]] = (info.context or {}).get(
        "plugins", {}
    )
    found = method(value, {name: parameters for name, (_, parameters) in kinds.items()})
    kind = kinds.get(str(found["method"]))
    return {**found, "plugin": kind[0] if kind else None}


Method = Annotated[MethodSpec, BeforeValidator(_method)]
Selection = Annotated[SelectionSpec, BeforeValidator(rule)]
