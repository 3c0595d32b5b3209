import json
from pathlib import Path

import pytest

from orchestrator import sources
from orchestrator.sources import SourceError, find


def lines(folder: Path, *rows: object, name: str = "documents.jsonl") -> Path:
    file = folder / name
    file.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return file


def test_the_bundled_texts_have_names_of_their_own_and_two_splits(tmp_path: Path) -> None:
    source = find("zoo:text", base=tmp_path)
    documents = list(source.read())
    assert source.kind == "text"
    assert {d.split for d in documents} == set(source.splits) == {"train", "test"}
    assert len({d.name for d in documents}) == len(documents) > 100
    assert all(d.text for d in documents)


def test_the_bundled_digits_are_grey_images_with_a_class(tmp_path: Path) -> None:
    source = find("zoo:digits", base=tmp_path)
    documents = list(source.read())
    assert source.kind == "images"
    assert {d.split for d in documents} == set(source.splits)
    assert len({d.name for d in documents}) == len(documents)
    assert {d.target for d in documents} == set(range(10))
    images = [d.image for d in documents if d.image is not None]
    assert len(images) == len(documents)
    assert {i.shape for i in images} == {sources.DIGITS_SHAPE}
    assert (min(i.min() for i in images), max(i.max() for i in images)) == (0, 255)


def test_every_line_is_a_document_unless_a_key_names_it(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "one", "page": "a"}, "", {"text": "two", "page": "b"},
          {"text": "three", "page": "a"})  # fmt: skip
    by_line = list(find("documents.jsonl", base=tmp_path).read())
    assert [(d.name, d.text) for d in by_line] == [
        ("line-1", "one"),
        ("line-3", "two"),
        ("line-4", "three"),
    ]
    by_page = list(find("documents.jsonl", base=tmp_path, document="page").read())
    assert [(d.name, d.text) for d in by_page] == [("a", "one\n\nthree"), ("b", "two")]
    assert {d.split for d in by_page} == {None}


def test_the_text_may_have_another_key(tmp_path: Path) -> None:
    lines(tmp_path, {"body": "one"})
    (document,) = find("documents.jsonl", base=tmp_path, text="body").read()
    assert document.text == "one"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "line 2: expected a JSON object with 'text'"),
        ("[1]", "line 2: expected a JSON object"),
        ({"body": "x"}, "KeyError"),
        ({"text": 3}, "'text' is not a text"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(tmp_path: Path, row: object, said: str) -> None:
    lines(tmp_path, {"text": "fine"}, row)
    source = find("documents.jsonl", base=tmp_path)
    with pytest.raises(SourceError) as caught:
        list(source.read())
    assert said in str(caught.value)
    assert "documents.jsonl" in str(caught.value)


def test_a_document_without_its_name_is_named_by_its_number(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "fine"})
    with pytest.raises(SourceError, match=r"line 1: .*'text' and 'page'"):
        list(find("documents.jsonl", base=tmp_path, document="page").read())


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "documents.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(SourceError, match=r"documents\.jsonl, line 1: .*'utf-8' codec"):
        list(find("documents.jsonl", base=tmp_path).read())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("zoo:txt", "Known: zoo:text, zoo:digits"),
        ("hf:some/data", "designed but not built yet; use a JSON-lines file"),
        ("documents.csv", "expected zoo:text, zoo:digits or a JSON-lines file"),
        ("none.jsonl", "paths are relative to the sweep file"),
        ("folder.jsonl", "there is no file"),
    ],
)
def test_a_wrong_source_is_refused_with_what_to_write(
    tmp_path: Path, source: str, said: str
) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(SourceError) as caught:
        find(source, base=tmp_path)
    assert said in str(caught.value)


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "one"})
    lines(tmp_path, {"text": "one"}, name="copy.jsonl")
    lines(tmp_path, {"text": "One"}, name="other.jsonl")
    names = ("documents.jsonl", "copy.jsonl", "other.jsonl")
    one, copy, other = (find(n, base=tmp_path).digest() for n in names)
    assert one == copy != other
