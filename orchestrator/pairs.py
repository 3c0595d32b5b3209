"""Pairs: labels that a sweep file sets against each other, and how well they must be told apart.

A pair may be spelled as its two sides are spelled elsewhere in the file (`peak(paper)`, or
with the parameters in another order): it is kept as their labels. Whether a sweep has what
the labels name is checked where all of the file is known (`orchestrator.spec`).
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, ValidationInfo

from orchestrator.arms import Method, MethodSpec, Selection, SelectionSpec
from orchestrator.sections import Section


def _pair(value: object, info: ValidationInfo) -> object:
    """Return a pair of labels, each as what is spelled like that is labelled."""
    if not isinstance(value, (list, tuple)):
        return value
    return tuple(_label(v, info) if isinstance(v, str) else v for v in value)


def _label(written: str, info: ValidationInfo) -> str:
    for kind in (_METHOD, _SELECTION):
        try:
            return kind.validate_python(written, context=info.context).label
        except ValidationError:
            continue
    return written  # a basis, or none of the sweep's: the spec will say so


_METHOD: TypeAdapter[MethodSpec] = TypeAdapter(Method)
_SELECTION: TypeAdapter[SelectionSpec] = TypeAdapter(Selection)

Pair = Annotated[tuple[str, str], BeforeValidator(_pair)]


def _pairs(value: object) -> object:
    """Return a list of pairs, for one pair or a list of them."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"found {value!r}, expected a pair of methods (`[peak, mean]`) or a list")
    return (tuple(value),) if value and isinstance(value[0], str) else tuple(value)


def _number(value: object) -> object:
    """Return a number for a text that is one: YAML 1.1 reads `1e-2` as a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


class Precision(Section):
    """How well comparisons must be known: no more documents are read than that takes."""

    contrast: Annotated[tuple[Pair, ...], BeforeValidator(_pairs)] = ()
    """Pairs of methods, of which the one known worst decides; the declared ones when empty."""
    metric: Literal["ce", "top1"] = "ce"
    halfwidth: Annotated[float, BeforeValidator(_number)] = Field(gt=0)
    """Half the width of the 95 % confidence sequence of a pair's difference, in the metric's
    unit: nats per token, or a share of the tokens."""
