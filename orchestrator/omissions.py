"""Omissions: what was left out when data were prepared, said where a run ends.

Broken rows, near duplicates and texts too short for a window change what is measured, so
nobody should have to look for them. The counts are in the story (`events.jsonl`), in the
line of the task that prepared the data; where that was done more than once, the last counts.
"""

from collections.abc import Iterable, Iterator, Mapping

from orchestrator.events import events
from orchestrator.store import Store

_SAID = {
    "skipped": "rows could not be read and were left out",
    "duplicates": "documents to evaluate nearly equal collected ones and were left out",
    "duplicate_windows": "windows to evaluate equal collected ones and were left out",
    "too_short": "documents were shorter than a window may be",
}


def omissions(store: Store) -> list[str]:
    """Return a sentence for each data table of a run from which something was left out."""
    return list(_told(events(store)))


def _told(story: Iterable[Mapping[str, object]]) -> Iterator[str]:
    last: dict[str, Mapping[str, object]] = {}
    for event in story:
        if event.get("event") == "done" and event.get("stage") == "prepare":
            last[str(event.get("file"))] = event
    for event in last.values():
        counts = [f"{event[key]} {what}" for key, what in _SAID.items() if event.get(key)]
        if counts:
            listed = event.get("broken")
            first = f" (the first: {listed[0]})" if isinstance(listed, list) and listed else ""
            yield f"{event.get('label')}: {'; '.join(counts)}{first}"
