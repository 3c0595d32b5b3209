"""Bad input: each kind of it is refused in a sentence, or counted, as docs/reliability.md says."""

import json
import os
import shutil
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator import cli, plan, sources, specfile
from orchestrator.inspection import ModelError, folder
from orchestrator.mistakes import LONGEST, MOST, Mistake, SpecError
from orchestrator.names import data_file, slug
from orchestrator.parts import with_condition
from orchestrator.sources import SourceError, find
from orchestrator.spec import parse
from orchestrator.store import Store
from tests.sweeps import peaksweep, written
from tests.workers import tiny
from workers import checkpoint
from workers.families import UnknownFamilyError
from workers.loading import CheckpointError, facts

RIGHT = "models: [zoo:opt]\nmethods: [zero]\n"


# Sweep files


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: &a [x, x]\nb: [*a, *a]\n", "line 2, column 5: an alias (*name) is used"),
        (b"a: !!set {b}\n", "a tag (!name) is used; write the value without it"),
        (b"a: !!bool maybe\n", "a tag (!name) is used"),
        (b"[" * 1_000, "values are nested more than 32 deep"),
        (b"a:\n" + b"- b\n" * 1_001, "more than 1,000 values"),
        (b"a: " + b"9" * 5_000, "found the number 9999"),
        (b"a: 1:30", "found the number 1:30; expected 64 characters at most and no colon"),
        (b'a: "\\ud800"', "the unprintable character U+D800"),
        (b'a: "\\0"', "the unprintable character U+0000"),
        (b'a: "\\UFFFFFFFF"', "is not YAML"),
        (b"1: a\n0x1: b\n", "the key '0x1' stands twice in one mapping"),
        (b"\xff\xfea\x00", "is not UTF-8 text (byte 0)"),
    ],
)
def test_what_yaml_can_say_and_a_sweep_cannot_is_refused(
    content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(specfile, "MOST", 1_000)
    file = tmp_path / "sweep.yaml"
    file.write_bytes(content)
    with pytest.raises(SpecError) as refused:
        specfile.raw(file)
    assert said in str(refused.value)


def test_a_date_and_a_merge_key_are_the_texts_that_were_written(tmp_path: Path) -> None:
    file = written(tmp_path, "name: 2020-13-45\n<<: {a: 1}\n")
    assert specfile.raw(file) == {"name": "2020-13-45", "<<": {"a": 1}}


def test_of_a_huge_sweep_file_no_more_is_read_than_tells_that(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(50 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(SpecError, match="has more than 1048576 bytes"):
            specfile.raw(file)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("number", [".inf", ".nan", "1.0e+300"])
def test_patience_is_a_finite_number(number: str, tmp_path: Path) -> None:
    raw = specfile.raw(written(tmp_path, RIGHT + f"cluster: {{ready_seconds: {number}}}\n"))
    with pytest.raises(SpecError, match=r"cluster\.ready_seconds: found"):
        parse(raw)


def test_a_count_that_no_table_can_hold_is_refused() -> None:
    data = {"t": {"source": "zoo:text", "collect": {"sequences": 10**60}}}
    with pytest.raises(SpecError, match=r"data\.t\.collect\.sequences: found 1000"):
        parse({"models": ["zoo:opt"], "methods": ["zero"], "data": data})


def test_a_long_message_keeps_its_start_and_its_end_and_can_be_printed() -> None:
    said = Mistake(path="name", message="found " + "x" * 10**6 + "\ud800; write it shorter").message
    assert len(said) < 2 * LONGEST
    assert said.startswith("found xxx")
    assert said.endswith("\\ud800; write it shorter")


def test_of_very_many_mistakes_the_first_are_told_and_the_others_counted() -> None:
    error = SpecError([Mistake(path=f"models[{i}]", message="wrong") for i in range(MOST + 7)])
    assert str(error).startswith(f"{MOST + 7} mistakes")
    assert str(error).endswith("… and 7 more")


# The command line


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "SPEC", "--workers", "0"],
        ["run", "SPEC", "--workers", "many"],
        ["run"],
        ["rum", "SPEC"],
        ["plan", "nowhere.yaml"],
        ["plan", "."],
        ["plan", "a\udcff.yaml"],  # what Python makes of a name that is not UTF-8
        ["plan", "BOMB"],
        ["plan", "SPEC", "--plugin", "nowhere.py"],
    ],
)
def test_a_wrong_command_ends_with_2_and_a_sentence(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text("a: &a [x]\nb: *a\n")
    files = {"SPEC": str(written(tmp_path, RIGHT)), "BOMB": str(bomb)}
    monkeypatch.setattr(sys, "argv", ["peaksweep", *(files.get(a, a) for a in arguments)])
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    told = capfd.readouterr().err
    assert told
    assert "Traceback" not in told


def test_a_spec_of_any_bytes_ends_a_process_with_2(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_bytes(b"\x00\xff[[[[")
    ended = peaksweep("plan", tmp_path / "sweep.yaml")
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "condition",
    [
        "cell IN (SELECT cell FROM read_csv('FILE'))",
        "cell = '' UNION SELECT cell FROM read_csv('FILE')",
        "EXISTS (SELECT * FROM read_parquet('FILE'))",
        "true ORDER BY cell",
        "true; DROP TABLE cells",
        "COALESCE()",
        "method",
        "nothing = 1",
        "method ~ '('",
        "(" * 3_000,
        "'",
        "",
        "\x00",
        "\ud800",
    ],
)
def test_only_is_a_condition_and_reads_no_file(condition: str, tmp_path: Path) -> None:
    made = plan.make(
        parse({"models": ["zoo:vit"], "methods": ["zero"], "fractions": [1], "seeds": 1}),
        base=tmp_path,
        device="cpu",
    )
    secret = tmp_path / "secret.csv"
    secret.write_text("cell\n" + "\n".join(made.cells))
    with pytest.raises(SpecError, match="--only: "):
        with_condition(made, condition.replace("FILE", str(secret)))


# Models


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def opt(home: Path, tmp_path: Path) -> Path:
    """A copy of a tiny language model."""
    made = home / "opt" if (home / "opt").is_dir() else tiny.folder("opt", home)
    return Path(shutil.copytree(made, tmp_path / "opt"))


@pytest.fixture
def vit(home: Path, tmp_path: Path) -> Path:
    """A copy of a tiny image model."""
    made = home / "vit" if (home / "vit").is_dir() else tiny.folder("vit", home)
    return Path(shutil.copytree(made, tmp_path / "vit"))


def refusal(model: Path) -> str:
    with pytest.raises((CheckpointError, UnknownFamilyError)) as refused:
        facts(model)
    return str(refused.value)


def configure(model: Path, **changes: object) -> None:
    file = model / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_weights_as_pickle_are_named_and_never_opened(opt: Path) -> None:
    torch.save(load_file(opt / "model.safetensors"), opt / "pytorch_model.bin")
    (opt / "model.safetensors").unlink()
    said = refusal(opt)
    assert "pickle only (pytorch_model.bin), which can run code when read" in said
    assert "`save_pretrained`" in said


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/outside.safetensors", "a.bin", 3])
def test_an_index_names_files_of_its_folder_alone(shard: object, opt: Path) -> None:
    outside = opt.parent / "outside.safetensors"
    shutil.move(opt / "model.safetensors", outside)
    named = str(outside) if shard == "/outside.safetensors" else shard
    (opt / checkpoint.INDEX).write_text(json.dumps({"weight_map": {"a": named, "b": "x"}}))
    assert f"names the shard {named!r}; expected a safetensors file inside of" in refusal(opt)


def test_links_to_the_blobs_of_a_hubs_cache_are_followed(opt: Path) -> None:
    wanted = facts(opt)
    blobs = opt.parent / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(opt.iterdir())):
        shutil.move(file, blobs / str(number))
        file.symlink_to(Path("..") / "blobs" / str(number))
    assert facts(opt) == wanted


@pytest.mark.parametrize("known", [True, False])
def test_code_that_comes_with_a_model_is_never_run(known: bool, opt: Path) -> None:
    proof = opt.parent / "it ran"
    (opt / "evil.py").write_text(f"open({str(proof)!r}, 'w').close()\n")
    auto = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T"]}
    configure(opt, auto_map=auto, **({} if known else {"architectures": ["EvilForCausalLM"]}))
    if known:  # the library's own class is used
        facts(opt)
        (opt / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto}))
        assert "The tokenizer" in refusal(opt)
    else:
        assert "code of its own (`auto_map` in config.json), which is never run" in refusal(opt)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON (maximum recursion depth"),
        (b"[]", "holds a list where a mapping was expected"),
        (b"{}", "names no architecture"),
        (b'{"architectures": ["FooForBar"]}', "architecture `FooForBar`, which has no row"),
        (b'{"architectures": [{}]}', "has no row"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused(
    content: bytes, said: str, opt: Path
) -> None:
    (opt / "config.json").write_bytes(content)
    assert said in refusal(opt)


def test_a_huge_configuration_is_refused_unread(opt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LARGEST", 2**20)
    with (opt / "config.json").open("r+b") as file:
        file.truncate(2**20 + 1)
    assert "config.json has more than 1 MiB" in refusal(opt)


def test_more_layers_than_tensors_are_refused_before_they_are_built(opt: Path) -> None:
    configure(opt, num_hidden_layers=100_000)
    assert "says 100000 layers, and the weights are 52 tensors" in refusal(opt)


@pytest.mark.parametrize(
    "change", [{"hidden_size": 10**9}, {"vocab_size": 10**30}, {"num_attention_heads": 0}]
)
def test_sizes_that_cannot_be_are_refused(change: dict[str, int], opt: Path) -> None:
    configure(opt, **change)
    assert "Check its config.json" in refusal(opt)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_truncated_file_of_weights_is_refused(kept: int, opt: Path) -> None:
    file = opt / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert "is not a whole safetensors file" in refusal(opt)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"{}", b"[" * 100_000])
def test_a_broken_tokenizer_is_refused(content: bytes, opt: Path) -> None:
    (opt / "tokenizer.json").write_bytes(content)
    assert "The tokenizer in" in refusal(opt)


def test_a_special_token_beyond_the_vocabulary_is_refused(opt: Path) -> None:
    configure(opt, bos_token_id=1_000)
    assert "the special token bos is 1000, and the model has 61 tokens" in refusal(opt)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"image_mean": "0.5", "image_std": 0.5}, "the mean is '0.5'; expected a finite number"),
        ({"image_mean": 0.5, "image_std": float("nan")}, "the standard deviation is nan"),
        ({"image_mean": 0.5, "image_std": [1, 0, 1]}, "a standard deviation of 0"),
        ({"image_mean": 0.5, "image_std": 1, "rescale_factor": None}, "scale of pixels is None"),
    ],
)
def test_pixels_are_scaled_by_finite_numbers(
    said: dict[str, object], message: str, vit: Path
) -> None:
    (vit / "preprocessor_config.json").write_text(json.dumps(said))
    assert message in refusal(vit)


def test_weights_that_are_not_numbers_are_weights(opt: Path) -> None:
    weights = load_file(opt / "model.safetensors")
    weights["model.decoder.layers.0.fc1.bias"][0] = float("nan")
    save_file(weights, opt / "model.safetensors", metadata={"format": "pt"})
    assert facts(opt).layers == 3  # what they do to a loss is measured and flagged


@pytest.mark.parametrize(
    "name", ["x" * 5_000, "./" + "x" * 5_000, "~nobody_of_this_name/x", "a\x00/b/c", "../x", "/no"]
)
def test_a_model_that_cannot_be_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        folder(name, revision=None, base=tmp_path)


# Data


def documents(folder: Path, content: bytes) -> list[sources.Document]:
    (folder / "d.jsonl").write_bytes(content)
    found = find("d.jsonl", base=folder, document="name")
    return list(sources.usable(found, sources.Skipped()))


def line(name: object, text: object = "words") -> bytes:
    return json.dumps({"name": name, "text": text}).encode() + b"\n"


def test_a_file_mostly_of_lines_that_are_no_documents_is_refused(tmp_path: Path) -> None:
    wrong = [b'{"name": "a", "text": "caf\xe9"}\n', b"{\n", line(1, 2), line(None), line(True)]
    with pytest.raises(SourceError) as refused:
        documents(tmp_path, line("a") + b"".join(wrong) + line("b"))
    said = str(refused.value)
    assert "line 2: expected a JSON object (UnicodeDecodeError" in said
    assert "5 rows in all cannot be used, of 7" in said
    good = [line(name) for name in "abcde"]
    assert len(documents(tmp_path, b"".join(wrong + good))) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        b"[" * 100_000,
        b'{"text": "\\ud800", "name": "a"}',
        b'{"text": "a", "name": "\\ud800"}',
        b"9" * 5_000,
        b"null",
        b'{"text": null, "name": "a"}',
    ],
)
def test_a_line_that_python_cannot_use_is_named(wrong: bytes, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"d\.jsonl, line 1: (expected|'text' is|'\w+' has half)"):
        documents(tmp_path, wrong)
    assert [d.name for d in documents(tmp_path, wrong + b"\n" + line("b"))] == ["b"]


def test_a_huge_line_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "d.jsonl").open("wb") as sparse:
        sparse.truncate(80 * 2**20)
    tracemalloc.start()
    try:
        (row,) = find("d.jsonl", base=tmp_path).read()
        assert "line 1: it has more than 32 MiB in one line; cut the text" in str(row)
        assert tracemalloc.get_traced_memory()[1] < 2.5 * sources.LONGEST_LINE
    finally:
        tracemalloc.stop()


def test_documents_that_are_all_blank_are_refused_and_counted(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="all of its 2 documents are blank"):
        documents(tmp_path, line("a", "") + line("b", " \n") + line("b", "\t"))


@pytest.mark.parametrize("content", [b"", b"\n \n\n"])
def test_a_file_without_documents_is_refused(content: bytes, tmp_path: Path) -> None:
    assert documents(tmp_path, content) == []
    spec = parse({"models": ["zoo:opt"], "methods": ["zero"], "data": {"t": {"source": "d.jsonl"}}})
    with pytest.raises(SpecError, match=r"data\.t\.source: it has no documents"):
        plan.make(spec, base=tmp_path, device="cpu")


def test_lines_of_one_name_are_one_document(tmp_path: Path) -> None:
    found = documents(tmp_path, line("a", "one") + line("b") + line("a", "two"))
    assert [(d.name, d.text) for d in found] == [("b", "words"), ("a", "one\n\ntwo")]


@pytest.mark.parametrize("name", ["x" * 5_000 + ".jsonl", "a\x00.jsonl", "/dev/null/x.jsonl"])
def test_a_source_that_cannot_be_a_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no file|cannot be read"):
        find(name, base=tmp_path)


def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "d.jsonl")
    with pytest.raises(SourceError, match="there is no file"):
        find("d.jsonl", base=tmp_path)


def test_a_folder_that_holds_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "again").symlink_to(tmp_path / "set")
    with pytest.raises(SourceError, match="set cannot be read"):
        find("set", base=tmp_path)


# Names


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "..", ".", "", "a/../../b", "\x00", "~", "x" * 5_000, "con"]
)
def test_no_name_leads_out_of_the_run_folder(name: str, tmp_path: Path) -> None:
    file = (tmp_path / data_file(name, name)).resolve()
    assert file.is_relative_to(tmp_path / "data")
    assert len(file.relative_to(tmp_path).parts) == 3
    assert 0 < len(slug(name)) <= 100


@pytest.mark.parametrize("name", ["../x", "/x", ".hidden", "", "x" * 65, "a b", "a\x00"])
def test_a_sweeps_name_is_one_plain_word(name: str) -> None:
    with pytest.raises(SpecError, match="name: found"):
        parse({"name": name, "models": ["zoo:opt"], "methods": ["zero"]})


def test_two_names_that_would_share_a_file_are_refused(tmp_path: Path) -> None:
    data = {"a/b": {"source": "zoo:text"}, "a b": {"source": "zoo:text"}}
    spec = parse({"models": ["zoo:opt"], "methods": ["zero"], "data": data})
    with pytest.raises(SpecError, match=r"data\.a b: 'a b' and 'a/b' would share a file"):
        plan.make(spec, base=tmp_path, device="cpu")


def test_a_run_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to("disk")
    store = Store.open(tmp_path / "runs" / "toy")
    assert store.commit("a.parquet", b"content")
    assert (tmp_path / "disk" / "toy" / "a.parquet").read_bytes() == b"content"
