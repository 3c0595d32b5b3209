"""The file itself: from YAML on disk to plain values, refusing what is not plain.

A safe loader makes no objects. On top of that a key may not stand twice in one
mapping (YAML would silently keep the last), aliases are refused (a file of a
few lines can otherwise expand to gigabytes), and a file may have a megabyte.
"""

from collections.abc import Hashable
from pathlib import Path

import yaml

from orchestrator.mistakes import Mistake, SpecError

LARGEST = 2**20
"""Bytes of the largest sweep file that is read."""


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem="an alias (*name) is used; write the value out", problem_mark=mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # the loader refuses it as a key
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands twice in one mapping; keep one",
                    problem_mark=key.start_mark,
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def raw(path: Path) -> object:
    """Return what a sweep file says, as plain values.

    Raises SpecError if it cannot be read.
    """
    try:
        content = path.read_bytes()
        if len(content) > LARGEST:
            raise SpecError([Mistake(path="", message=f"{path} has more than {LARGEST} bytes")])
        return yaml.load(content.decode(), Loader=_Loader)
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}); give the path of a sweep file"
    except UnicodeDecodeError as error:
        message = f"{path} is not UTF-8 text (byte {error.start})"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        message = f"{path} is not YAML: {where}{error.problem}"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        message = f"{path} is not YAML: {error}"
    raise SpecError([Mistake(path="", message=message)])
