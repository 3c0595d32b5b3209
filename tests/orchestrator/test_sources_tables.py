"""Tables of every format: equal rows are equal documents."""

import datetime
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import tabled
from orchestrator.sources import Broken, Document, SourceError, find
from tests.orchestrator.reading import broken, lines, picture, read, source, texts

ROWS = [
    {"text": "one", "meta": {"from": "web"}, "page": "a"},
    {"text": "two", "meta": {"from": "book"}, "page": "b"},
    {"text": "three", "meta": {"from": "web"}, "page": "a"},
]


def written(folder: Path, ending: str) -> str:
    """Write the rows in a format; return the file's name."""
    table = pa.Table.from_pylist(ROWS)
    file = folder / f"rows{ending}"
    content = "\n".join(map(json.dumps, ROWS)).encode()
    match ending:
        case ".parquet":
            pq.write_table(table, file, row_group_size=2)
        case ".arrow":
            with pa.ipc.new_file(file, table.schema) as out:
                out.write_table(table, max_chunksize=2)
        case ".stream.arrow":
            with pa.ipc.new_stream(file, table.schema) as out:
                out.write_table(table, max_chunksize=2)
        case ".jsonl.gz":
            file.write_bytes(gzip.compress(content))
        case ".jsonl.zst":
            with pa.CompressedOutputStream(str(file), "zstd") as out:
                out.write(content)
        case _:
            file.write_bytes(content)
    return file.name


@pytest.mark.parametrize(
    "ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".arrow", ".stream.arrow"]
)
def test_equal_rows_are_equal_documents_in_every_format(tmp_path: Path, ending: str) -> None:
    name = written(tmp_path, ending)
    assert [d.text for d in read(name, tmp_path)] == ["one", "two", "three"]
    web = read(name, tmp_path, where={"meta.from": ["web"]})
    assert [d.text for d in web] == ["one", "three"]
    assert texts(read(name, tmp_path, document="page")) == {"a": "one\n\nthree", "b": "two"}
    assert len({d.name for d in read(name, tmp_path)}) == 3


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(
    tmp_path: Path, ending: str
) -> None:
    name = written(tmp_path, ending)
    with pytest.raises(SourceError, match=r"found the columns 'text', 'meta', 'page', .* 'body'"):
        source(name, tmp_path, text="body")
    with pytest.raises(SourceError, match=r"no column 'lang'; the columns are 'text'"):
        source(name, tmp_path, where={"lang": ["en"]})


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"x{ending}").write_bytes(b"words")
    with pytest.raises(SourceError, match=f"x{ending} is no (Parquet|Arrow) file"):
        find(f"x{ending}", base=tmp_path)


def test_of_many_files_a_broken_one_is_left_out_and_named(tmp_path: Path) -> None:
    for i in range(3):
        pq.write_table(pa.table({"text": [f"{i}"]}), tmp_path / f"{i}.parquet")
    (tmp_path / "1.parquet").write_bytes((tmp_path / "0.parquet").read_bytes()[:-5])
    first, bad, last = find(".", base=tmp_path).read()
    assert isinstance(first, Document)
    assert isinstance(last, Document)
    assert (first.name, last.name) == ("0.parquet:row-1", "2.parquet:row-1")
    assert isinstance(bad, Broken)
    assert "1.parquet, after row 0: Arrow" in str(bad)


def test_a_compressed_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    rows = [json.dumps({"text": str(np.random.default_rng(i).bytes(400))}) for i in range(1000)]
    whole = gzip.compress("\n".join(rows).encode(), 1)
    (tmp_path / "x.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"gz, after line \d+: it breaks off"):
        list(find("x.jsonl.gz", base=tmp_path).read())


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_rows_that_a_table_lost_are_broken_each(tmp_path: Path, ending: str) -> None:
    table = pa.table({"text": [str(np.random.default_rng(i).bytes(40)) for i in range(1000)]})
    file = tmp_path / f"x{ending}"
    if ending == ".parquet":
        pq.write_table(table, file, row_group_size=100, use_dictionary=False)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(file, table.schema, options=options) as out:
            out.write_table(table, max_chunksize=100)
    content = bytearray(file.read_bytes())
    start = len(content) // 4
    content[start : start + 1500] = bytes(1500)
    file.write_bytes(content)
    found = list(find(file.name, base=tmp_path).read())
    lost = [row for row in found if isinstance(row, Broken)]
    assert len(found) == 1000
    assert len(lost) > 700
    assert str(lost[-1]).startswith(f"{file}, row 1000: ")


def test_a_stream_that_breaks_off_is_refused(tmp_path: Path) -> None:
    table = pa.table({"text": [f"{i} words" for i in range(1000)]})
    with pa.ipc.new_stream(tmp_path / "x.arrow", table.schema) as out:
        out.write_table(table, max_chunksize=100)
    content = (tmp_path / "x.arrow").read_bytes()
    (tmp_path / "x.arrow").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(SourceError, match=r"x\.arrow, after row \d00: it breaks off"):
        list(find("x.arrow", base=tmp_path).read())


def test_a_row_that_is_not_utf_8_costs_no_other(tmp_path: Path) -> None:
    content = [b"caf\xe9" if i == 3 else b"tea" for i in range(200)]
    text = pa.array(content, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": text}), tmp_path / "x.parquet")
    found = list(find("x.parquet", base=tmp_path).read())
    assert [str(row).rpartition("/")[2][:37] for row in found if isinstance(row, Broken)] == [
        "x.parquet, row 4: it is not UTF-8 tex"
    ]
    assert len(found) == 200


@pytest.mark.parametrize("ending", [".parquet", ".jsonl.gz", ".jsonl.zst"])
def test_the_case_of_an_ending_says_nothing(tmp_path: Path, ending: str) -> None:
    written(tmp_path, ending)
    (tmp_path / f"rows{ending}").rename(tmp_path / f"ROWS{ending.upper()}")
    assert len(read(f"ROWS{ending.upper()}", tmp_path)) == 3


def test_a_mark_of_byte_order_costs_no_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}\n')
    assert [d.text for d in read("x.jsonl", tmp_path)] == ["one", "two"]


def test_a_disk_that_fails_is_no_broken_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, ".parquet")
    found = find("rows.parquet", base=tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(tabled.pq, "ParquetFile", fail)
    with pytest.raises(OSError, match="Input/output"):
        list(found.read())


def test_a_large_file_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    values = [np.random.default_rng(i).bytes(2**17) for i in range(160)]  # 20 MiB
    table = pa.table({"image": values})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=10, compression="none")
    del table
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0
    for _ in tabled.rows(tmp_path / "x.parquet", prefix="", split=None, columns=["image"]):
        most = max(most, pool.bytes_allocated() - before)
    assert 0 < most < 14 * 2**20  # a batch of 64 rows has 8 MiB


def test_files_and_folders_named_for_splits_are_splits(tmp_path: Path) -> None:
    for name in ("train-00001", "train-00000", "validation-00000", "test-00000"):
        lines(tmp_path, {"text": name}, name=f"a/{name}.jsonl")
    for name in ("train/x", "train/y", "val/x"):
        lines(tmp_path, {"text": name}, name=f"b/{name}.jsonl")
    for name in ("train", "trainer"):
        lines(tmp_path, {"text": name}, name=f"c/{name}.jsonl")
    assert find("a", base=tmp_path).splits == ("train", "validation", "test")
    assert [(d.split, d.text) for d in read("b", tmp_path)] == [
        ("train", "train/x"),
        ("train", "train/y"),
        ("val", "val/x"),
    ]
    assert find("c", base=tmp_path).splits == ()
    for name in ("train-00000", "test-00000"):  # as a set of a hub is cloned
        lines(tmp_path, {"text": name}, name=f"d/data/{name}.jsonl")
    (tmp_path / "d" / "README.md").write_text("words")
    assert find("d", base=tmp_path).splits == ("train", "test")


def test_a_folder_of_two_formats_is_refused_and_hidden_files_are_not_seen(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "1"}, name="x.jsonl")
    lines(tmp_path, "words", name=".cache/y.txt")
    assert len(read(".", tmp_path)) == 1
    lines(tmp_path, "words", name="y.txt")
    with pytest.raises(SourceError, match="has JSON lines and texts; keep one"):
        find(".", base=tmp_path)


def test_in_a_folder_a_text_is_a_document_and_a_single_text_is_cut_at_paragraphs(
    tmp_path: Path,
) -> None:
    lines(tmp_path, "first\n\nstill the first", name="many/a.txt")
    lines(tmp_path, "second", name="many/b.txt")
    (tmp_path / "many" / "c.txt").write_bytes(b"caf\xe9")
    found = list(find("many", base=tmp_path).read())
    assert [f.name for f in found if isinstance(f, Document)] == ["a.txt", "b.txt"]
    assert [str(f).rpartition("/")[2][:26] for f in found if isinstance(f, Broken)] == [
        "c.txt: it is not UTF-8 tex"
    ]
    paragraphs = [f"{i} " + "word " * 300 for i in range(12)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    passages = read("book.txt", tmp_path)
    assert [(d.text or "").count("\n\n") for d in passages] == [3, 3, 3, 2]  # of 1,500 bytes each
    assert "".join(d.text or "" for d in passages) == "\n\n".join(paragraphs)


def test_a_text_without_paragraphs_is_broken_before_it_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tabled, "LONGEST", 5000)
    (tmp_path / "x.txt").write_text("word\n" * 1200 + "\n" + "last\n")
    found = find("x.txt", base=tmp_path)
    assert [d.text for d in found.read() if isinstance(d, Document)][-1].strip().endswith("last")
    assert "part it by blank lines" in broken(found)[0]


def test_pairs_are_told_by_their_columns(tmp_path: Path) -> None:
    pair = {"input": "a b", "donor": "c d", "answer": " x", "wrong": [" y", " z"]}
    lines(tmp_path, pair, pair | {"wrong": " y"}, {"input": "a", "answer": "b"},
          pair | {"wrong": [1]}, pair | {"answer": None})  # fmt: skip
    found = source("documents.jsonl", tmp_path)
    assert found.kind == "pairs"
    made = [d for d in found.read() if isinstance(d, Document)]
    assert [(d.text, d.donor, d.answer, d.wrong) for d in made] == [
        ("a b", "c d", " x", (" y", " z")),
        ("a b", "c d", " x", (" y",)),
        ("a", None, "b", ()),
    ]
    assert len(broken(found)) == 2
    with pytest.raises(SourceError, match="`document` joins texts"):
        source("documents.jsonl", tmp_path, document="input")
    late = [pair for _ in range(150)] + [{**pair, "of": "late"}]
    lines(tmp_path, *late, name="late.jsonl")
    chosen = source("late.jsonl", tmp_path, where={"of": ["late"]})
    assert chosen.kind == "pairs"
    assert len(list(chosen.read())) == 1


def test_a_table_of_images_decodes_bytes_and_reads_classes_by_name(tmp_path: Path) -> None:
    names = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    rows = [
        {"image": {"bytes": picture(4, 3), "path": None}, "label": 1},
        {"image": {"bytes": None, "path": "gone.png"}, "label": 0},
        {"image": {"bytes": b"no picture", "path": None}, "label": 0},
        {"image": {"bytes": picture(5, 3), "path": "x.png"}, "label": -1},
    ]
    table = pa.Table.from_pylist(rows)
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(names)}), tmp_path / "x.parquet"
    )
    found = find("x.parquet", base=tmp_path)
    assert found.kind == "images"
    (good,) = [d for d in found.read() if isinstance(d, Document)]
    assert good.image is not None
    assert (good.image.shape, good.target) == ((3, 4, 3), 1)
    why = [told.partition(": ")[2] for told in broken(found)]
    assert why[0] == "'image' holds no bytes of an image; it only names the file 'gone.png'"
    assert why[1].startswith("it is no whole image")
    assert why[2] == "'label' is -1, not the number of a class"
    for dog in ("dog", 1):
        assert len(read("x.parquet", tmp_path, where={"label": [dog]})) == 1


def test_classes_that_are_words_are_numbered_by_a_labels_file(tmp_path: Path) -> None:
    rows = [{"image": picture(2, 2), "label": word} for word in ("dog", "cat")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    lines(tmp_path, "dog a friend", "cat", name="classes.txt")
    found = read("x.parquet", tmp_path, labels="classes.txt")
    assert [d.target for d in found] == [0, 1]
    assert "has no number; give a `labels` file" in broken(find("x.parquet", base=tmp_path))[0]


def test_other_documents_have_another_digest_though_the_bytes_are_equal(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "one"}, {"text": "two"}, name="m.jsonl")
    (tmp_path / "m.txt").write_bytes((tmp_path / "m.jsonl").read_bytes())
    lines(tmp_path, "a text", name="many/x.txt")  # a document, or a text that is cut
    for folder in ("p/sub1", "q/sub2"):
        for name in ("a", "b"):
            lines(tmp_path, {"text": name}, name=f"{folder}/{name}.jsonl")
    for names in (("m.jsonl", "m.txt"), ("many", "many/x.txt"), ("p", "q", "p/sub1")):
        found = {find(name, base=tmp_path).digest() for name in names}
        assert len(found) == len(names)
    (tmp_path / "p").rename(tmp_path / "copy")
    assert find("copy", base=tmp_path).digest() in found


def test_a_number_is_one_however_written_and_a_date_is_its_text(tmp_path: Path) -> None:
    lines(tmp_path, *({"text": "a", "n": n} for n in (0.5, 1.0, 1, True, "1")))
    assert len(read("documents.jsonl", tmp_path, where={"n": [0.5, 1]})) == 3
    assert len(read("documents.jsonl", tmp_path, where={"n": [1.0]})) == 2
    assert len(read("documents.jsonl", tmp_path, where={"n": [True]})) == 1
    days = [datetime.date(2026, 1, day) for day in (1, 2)]
    pq.write_table(pa.table({"text": ["a", "b"], "day": days}), tmp_path / "x.parquet")
    chosen = read("x.parquet", tmp_path, where={"day": ["2026-01-02"]})
    assert [d.text for d in chosen] == ["b"]


def test_a_row_without_the_column_of_a_filter_is_not_asked_for(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "a"}, {"text": "b", "of": None}, {"text": "c", "of": "x"},
          {"text": "d", "meta": "none"})  # fmt: skip
    assert [d.text for d in read("documents.jsonl", tmp_path, where={"of": ["x"]})] == ["c"]
    with pytest.raises(SourceError, match=r"none of 4 rows has the column 'off' .*line 1"):
        read("documents.jsonl", tmp_path, where={"of": ["x"], "off": ["x"]})


def test_rows_without_the_column_of_a_filter_are_not_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.rows.GIVEN_UP", 5)
    lines(tmp_path, *({"text": "a"} for _ in range(9)))
    with pytest.raises(SourceError, match="none of 5 rows has the column 'of'"):
        read("documents.jsonl", tmp_path, where={"of": ["x"]})
