"""What was left out of data is said, as it was the last time they were prepared."""

from pathlib import Path

from orchestrator.events import Events
from orchestrator.omissions import omissions
from orchestrator.store import Store

DONE = '{"event": "done", "stage": "%s", "file": "%s", "label": "%s"%s}'


def test_what_was_left_out_is_said_for_each_table_once(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    story = Events(store)
    broken = ', "skipped": 2, "broken": ["a.jsonl, line 7: no JSON", "line 9"]'
    for row in (
        ("prepare", "data/a.parquet", "opt a", ', "skipped": 5'),
        ("prepare", "data/a.parquet", "opt a", broken + ', "duplicates": 3'),
        ("prepare", "data/b.parquet", "opt b", ', "sequences": 9'),
        ("collect", "partials/a.arrow", "opt a", ', "skipped": 1'),
    ):
        story.write(DONE % row)
    story.close()
    (said,) = omissions(store)
    assert said.startswith("opt a: 2 rows could not be read")
    assert "3 documents to evaluate nearly equal" in said
    assert said.endswith("(the first: a.jsonl, line 7: no JSON)")


def test_of_a_run_without_a_story_nothing_is_said(tmp_path: Path) -> None:
    assert omissions(Store.open(tmp_path)) == []
