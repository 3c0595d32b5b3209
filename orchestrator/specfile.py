"""The file itself: from YAML on disk to plain values, refusing what is not plain.

A sweep file holds mappings, lists, texts, numbers, booleans and nothing else. YAML
can say much more, and most of it is a trap: an alias lets a few lines expand to
gigabytes, a tag makes another value than the one that is written, the later of two
equal keys silently wins, `1:30` is ninety. None of it is needed here, so all of it
is refused, with its line. A date is the text that was written.

What is read is bounded, so that no file costs more than seconds to refuse: its
bytes, its values, how deep they are nested and how long a number may be.

Weak point: the line is where YAML noticed, which may be after the mistake.
"""

import re
from collections.abc import Hashable
from pathlib import Path

import yaml

from orchestrator.mistakes import Mistake, SpecError

LARGEST = 2**20
"""Bytes of the largest sweep file that is read."""
MOST = 100_000
"""Values in a sweep file, keys included."""
DEEPEST = 32
"""Mappings and lists within each other; a sweep needs six."""
LONGEST_NUMBER = 64
"""Characters of a number: more than any that a sweep can use."""

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and halves of a pair: no path, no name and no terminal wants them."""
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_LEFT_AS_TEXT = ("timestamp", "merge", "value")
"""What YAML makes of some texts that nobody quoted: here they stay texts."""
_MEANT = {
    first: [(tag, form) for tag, form in forms if tag.rpartition(":")[2] not in _LEFT_AS_TEXT]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
"""How a text that nobody quoted is told to be a number, a boolean or nothing."""


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.yaml_implicit_resolvers = _MEANT
        self._values = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _wrong("an alias (*name) is used; write the value out", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _wrong("a tag (!name) is used; write the value without it", event.start_mark)
        self._values += 1
        self._depth += 1
        if self._values > MOST:
            raise _wrong(f"the file has more than {MOST:,} values", event.start_mark)
        if self._depth > DEEPEST:
            raise _wrong(f"values are nested more than {DEEPEST} deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode):
            _refuse_odd(node)
        return node

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        seen: dict[Hashable, object] = {}
        for written, _ in node.value:
            key = self.construct_object(written) if _is_scalar(written) else None
            if key in seen:
                raise _wrong(
                    f"the key {written.value!r} stands twice in one mapping; keep one",
                    written.start_mark,
                )
            if _is_scalar(written):  # the loader refuses others as keys
                seen[key] = None
        return super().construct_mapping(node, deep)


def _is_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


def _refuse_odd(node: yaml.ScalarNode) -> None:
    """Raise for a value that YAML can write and a sweep cannot use."""
    odd = _UNPRINTABLE.search(node.value)
    if odd is not None:
        number = f"U+{ord(odd[0]):04X}"
        raise _wrong(f"the text has the unprintable character {number}", node.start_mark)
    if node.tag in _NUMBERS and (":" in node.value or len(node.value) > LONGEST_NUMBER):
        raise _wrong(
            f"found the number {node.value[:LONGEST_NUMBER]}; expected {LONGEST_NUMBER} characters"
            " at most and no colon (quote it if a text is meant)",
            node.start_mark,
        )


def _wrong(problem: str, mark: object) -> yaml.MarkedYAMLError:
    """Return YAML's own error at a mark, which has one of two types."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)  # type: ignore[arg-type]


def raw(path: Path) -> object:
    """Return what a sweep file says, as plain values.

    Raises SpecError if it cannot be read.
    """
    try:
        with path.open("rb") as file:  # no more of it, whatever it is
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            found = f"{path} has more than {LARGEST} bytes; a sweep file has a few thousand"
            raise SpecError([Mistake(path="", message=found)])
        return yaml.load(content.decode(), Loader=_Loader)
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}); give the path of a sweep file"
    except UnicodeDecodeError as error:
        message = f"{path} is not UTF-8 text (byte {error.start})"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        message = f"{path} is not YAML: {where}{error.problem}"
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        message = f"{path} is not YAML: {error}"
    raise SpecError([Mistake(path="", message=message)])
