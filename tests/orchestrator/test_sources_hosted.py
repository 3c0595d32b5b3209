"""Sets of a hub: through `datasets` itself, with local files in the place of the hub's."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
from huggingface_hub import errors

from orchestrator import plan
from orchestrator.mistakes import SpecError
from orchestrator.sources import Document, Source, SourceError, find
from orchestrator.spec import parse
from tests.orchestrator.reading import broken, lines, picture, read

AT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files `train.*` and `test.*` are what the hub has of any set."""
    folder = tmp_path / "hub"
    folder.mkdir()
    build = datasets.load_dataset_builder

    def builder(name: str, config: str | None, *, revision: str) -> datasets.DatasetBuilder:
        assert name == "some/data"
        files = {file.stem: str(file) for file in sorted(folder.iterdir())}
        kind = {".jsonl": "json", ".parquet": "parquet"}[next(folder.iterdir()).suffix]
        made = build(kind, data_files=files, cache_dir=str(tmp_path / "cache"))
        made.hash = revision
        return made

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    datasets.disable_progress_bars()
    for split in ("train", "test"):
        rows = [{"text": f"{split} {i}", "of": "xy"[i % 2]} for i in range(100)]
        lines(folder, *rows, name=f"{split}.jsonl")
    return folder


def of(folder: Path, **reading: object) -> Source:
    return find("hf:some/data", base=folder, reading={"revision": AT, **reading})


@pytest.mark.parametrize("streaming", [False, True])
def test_a_set_is_read_split_by_split_in_turns(hub: Path, streaming: bool) -> None:
    found = of(hub, splits=["train", "test"], streaming=streaming)
    documents = [d for d in found.read() if isinstance(d, Document)]
    assert (found.splits, found.streaming) == (("train", "test"), streaming)
    assert [(d.name, d.split, d.text) for d in documents[:3]] == [
        ("train:row-1", "train", "train 0"),
        ("test:row-1", "test", "test 0"),
        ("train:row-2", "train", "train 1"),
    ]
    assert len({d.name for d in documents}) == 200


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_are_chosen_by_value_and_one_split_has_none(hub: Path, streaming: bool) -> None:
    found = of(hub, where={"of": ["y"]}, streaming=streaming)
    documents = [d for d in found.read() if isinstance(d, Document)]
    assert [d.text for d in documents] == [f"train {i}" for i in range(1, 100, 2)]
    assert found.splits == ()


def test_of_a_stream_no_more_is_read_than_is_taken(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    whole = datasets.IterableDataset.iter

    def counted(self: datasets.IterableDataset, batch_size: int) -> Iterator[object]:
        for batch in whole(self, batch_size=batch_size):
            taken.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(datasets.IterableDataset, "iter", counted)
    assert len(list(islice(of(hub, streaming=True).read(), 3))) == 3
    assert taken == [64]


def test_a_split_of_a_stream_can_be_read_by_itself(hub: Path) -> None:
    reading = {"splits": ["train", "test"], "where": {"of": ["y"]}}
    found = of(hub, streaming=True, **reading)
    assert found.read_split is not None
    for split in ("train", "test"):
        mine = [d for d in found.read() if isinstance(d, Document) and d.split == split]
        assert list(found.read_split(split)) == mine
        assert len(mine) == 50
    assert of(hub, **reading).read_split is None


def test_images_of_a_set_come_undecoded_and_with_their_classes(hub: Path, tmp_path: Path) -> None:
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"img": [{"bytes": picture(3, 2), "path": None}] * 3, "label": [0, 1, 1]}
    made = datasets.Dataset.from_dict(rows, features=features)
    for split in ("train", "test"):
        (hub / f"{split}.jsonl").unlink()
        made.to_parquet(str(hub / f"{split}.parquet"))
    for streaming in (False, True):
        found = of(hub, kind="images", image="img", where={"label": ["dog"]}, streaming=streaming)
        documents = [d for d in found.read() if isinstance(d, Document)]
        assert [(d.name, d.target) for d in documents] == [("train:row-2", 1), ("train:row-3", 1)]
        assert all(d.image is not None and d.image.shape == (2, 3, 3) for d in documents)
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"mine": made, "theirs": made}).save_to_disk(str(tmp_path / "two"))
    assert [d.target for d in read("one", tmp_path, image="img")] == [0, 1, 1]
    assert find("two", base=tmp_path, reading={"image": "img"}).splits == ("mine", "theirs")
    assert len(read("two", tmp_path, image="img", where={"label": ["dog"]})) == 4


@pytest.mark.parametrize("streaming", [False, True])
def test_images_that_a_set_only_names_are_read_from_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    for name in ("train/cat/1.png", "train/dog/2.png", "train/dog/3.png"):
        (tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / name).write_bytes(picture(3, 2))
    build = datasets.load_dataset_builder

    def builder(name: str, config: str | None, *, revision: str) -> datasets.DatasetBuilder:
        cache = str(tmp_path / "cache")
        made = build("imagefolder", data_dir=str(tmp_path / "hub"), cache_dir=cache)
        made.hash = revision
        return made

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    datasets.disable_progress_bars()
    found = of(tmp_path, kind="images", streaming=streaming)
    documents = [d for d in found.read() if isinstance(d, Document)]
    assert [d.target for d in documents] == [0, 1, 1]
    assert all(d.image is not None and d.image.shape == (2, 3, 3) for d in documents)
    (tmp_path / "hub" / "train" / "cat" / "1.png").write_bytes(b"words")
    assert [told.partition(": ")[2][:26] for told in broken(found)] == [
        "it is no whole image (of n"
    ]


def test_what_datasets_keeps_beside_a_saved_set_is_no_part_of_it(tmp_path: Path) -> None:
    rows = {"text": [f"document {i}" for i in range(6)]}
    made = {split: datasets.Dataset.from_dict(rows) for split in ("train", "test")}
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "set"))
    before = find("set", base=tmp_path)
    mapped = datasets.load_from_disk(str(tmp_path / "set"))
    mapped["train"].map(lambda row: {"text": row["text"].upper()})
    assert list((tmp_path / "set" / "train").glob("cache-*.arrow"))
    after = find("set", base=tmp_path)
    assert (before.files, before.digest()) == (after.files, after.digest())
    assert len(list(after.read())) == 12
    told = tmp_path / "set" / "dataset_dict.json"
    told.write_text(told.read_text().replace("test", "rest"))
    assert find("set", base=tmp_path).digest() != after.digest()
    (tmp_path / "set" / "train" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(SourceError, match=r"lists 'data-00000-of-00001.arrow', which is not there"):
        find("set", base=tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_that_a_set_does_not_have_is_refused(hub: Path, streaming: bool) -> None:
    source = find(
        "hf:some/data", base=hub, text="body", reading={"revision": AT, "streaming": streaming}
    )
    with pytest.raises(SourceError, match="found the columns 'text', 'of', expected 'body'"):
        list(source.read())


def test_another_commit_in_the_cache_is_not_taken_for_the_one_that_is_asked_for(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SimpleNamespace(hash="f" * 40)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: other)
    with pytest.raises(SourceError, match=f"the cache has another commit .{'f' * 40}."):
        list(of(hub).read())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'some/data' is a gated dataset"),
            "some/data is gated: accept its terms at https://huggingface.co/datasets/some/data",
        ),
        (RuntimeError("Dataset scripts are no longer supported"), "refs/convert/parquet"),
        (ConnectionError("Couldn't reach 'some/data' on the Hub"), "HF_HUB_OFFLINE"),
        (OSError(28, "No space left on device"), "`streaming: true`"),
        (ValueError("BuilderConfig 'x' not found. Available: ['y']"), r"Available: \['y'\]"),
    ],
)
def test_what_the_library_cannot_do_is_said_with_the_cure(
    hub: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", fail)
    with pytest.raises(SourceError, match=said):
        list(of(hub).read())


def test_a_split_that_a_set_does_not_have_is_named(hub: Path) -> None:
    for streaming in (False, True):
        with pytest.raises(SourceError, match=r"check the id, .* the splits \(dev\)"):
            list(of(hub, split="dev", streaming=streaming).read())


def api(monkeypatch: pytest.MonkeyPatch, answer: str | Exception) -> None:
    """Have the hub answer any question for a commit so."""

    def info(self: object, name: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(sha=answer)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)


SWEEP = {"models": ["zoo:opt"], "methods": ["zero"], "fractions": [1], "seeds": 1}


def planned(folder: Path, fetch: bool, **data: object) -> plan.Plan:
    spec = parse({**SWEEP, "data": {"mine": {"source": "hf:some/data", **data}}})
    return plan.make(spec, base=folder, device="cpu", fetch=fetch)


def test_a_plan_asks_no_hub_and_says_that_names_are_provisional(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api(monkeypatch, AssertionError("the hub was asked"))
    found = planned(tmp_path, fetch=False)
    assert "the commit of some/data at main is not known here" in found.missing["mine"]
    assert planned(tmp_path, fetch=False, revision=AT).missing == {}


def test_a_run_resolves_a_branch_to_its_commit_and_records_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api(monkeypatch, AT)
    branch = planned(tmp_path, fetch=True, revision="main")
    written = planned(tmp_path, fetch=False, revision=AT)
    assert branch.spec.data["mine"].revision == AT
    assert [t.name for t in branch.tasks] == [t.name for t in written.tasks]
    assert branch.tasks[0].arguments["reading"]["revision"] == AT
    api(monkeypatch, "f" * 40)
    later = planned(tmp_path, fetch=True, revision="main")
    assert later.tasks[0].kind == "data"
    assert later.tasks[0].name != branch.tasks[0].name


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (errors.GatedRepoError, "some/data is gated: accept its terms"),
        (errors.RepositoryNotFoundError, "the hub has no data set some/data, or it is private"),
        (errors.RevisionNotFoundError, "some/data has no revision 'x'"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set"),
        (ConnectionError, "check the connection, or write the commit"),
    ],
)
def test_a_commit_that_the_hub_does_not_say_is_a_mistake_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], said: str
) -> None:
    api(monkeypatch, kind.__new__(kind))
    with pytest.raises(SpecError, match=rf"data\.mine\.source: .*{said}"):
        planned(tmp_path, fetch=True, revision="x")


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        ({"split": "train[:10%]"}, r"found the split 'train\[:10%\]', expected one plain name"),
        ({"splits": ["train+test", "x"]}, r"found the split 'train\+test'"),
    ],
)
def test_parts_of_splits_are_refused(tmp_path: Path, reading: dict[str, object], said: str) -> None:
    with pytest.raises(SourceError, match=said):
        find("hf:some/data", base=tmp_path, reading=reading)


def test_a_stream_has_no_documents_of_several_rows(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="leave `document` out, or write `streaming: false`"):
        find("hf:some/data", base=tmp_path, document="page", reading={"streaming": True})


def test_finding_other_sources_imports_no_datasets() -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator import sources;"
        "sources.find('zoo:text', base=Path('.')); sources.find('hf:a/b', base=Path('.'));"
        "assert not {'datasets', 'huggingface_hub', 'PIL', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
