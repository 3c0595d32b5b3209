"""The bundled models are what was shipped, load by plain library calls, and know their data.

The gates are measured here afresh, with nothing but the libraries and a plain hook, on
the held-out split: a model that fails one has not learnt enough to be worth ablating.

Shapes: W windows of L tokens, B of them at a time; S scored positions; I images.
"""

import csv
import gzip
import json
import lzma
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workers import zoo

BOS, PAD, EOS, UNK, MASK = range(5)
IGNORED = -100
TEXT_MODELS = [name for name in zoo.NAMES if name != "vit"]
PROJECTIONS = ("self_attn.o_proj", "self_attn.out_proj", "attention.output.dense", "attn.proj")


class Score(NamedTuple):
    """What a model reaches on held-out data: nats, and a share from 0 to 1."""

    cross_entropy: float
    top1: float


def test_every_file_is_the_one_that_was_shipped() -> None:
    zoo.check()


def test_a_flipped_byte_is_noticed_and_the_file_named(tmp_path: Path) -> None:
    copy = shutil.copytree(zoo.ROOT, tmp_path / "zoo")
    zoo.check(copy)
    damaged = copy / "opt" / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(zoo.DamagedFileError, match=r"opt/model\.safetensors"):
        zoo.check(copy)


def test_a_missing_file_is_noticed_and_named(tmp_path: Path) -> None:
    copy = shutil.copytree(zoo.ROOT, tmp_path / "zoo")
    (copy / "vit" / "config.json").unlink()
    with pytest.raises(zoo.DamagedFileError, match=r"vit/config\.json is missing"):
        zoo.check(copy)


def test_the_hashes_cover_all_data_weights_tokenizers_and_configurations() -> None:
    listed = {line.split("  ")[1] for line in (zoo.ROOT / "SHA256SUMS").read_text().splitlines()}
    kinds = {".json", ".safetensors", ".xz", ".gz"}
    present = {p.relative_to(zoo.ROOT).as_posix() for p in shipped_files() if p.suffix in kinds}
    assert present == listed


def test_everything_together_is_small_and_anyone_may_read_it() -> None:
    assert sum(path.stat().st_size for path in shipped_files()) < 25e6
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in shipped_files())


def test_an_unknown_name_is_told_what_exists() -> None:
    with pytest.raises(zoo.UnknownModelError, match="mistral, opt, roberta, vit"):
        zoo.folder("gpt")


def shipped_files() -> list[Path]:
    """Return the files of the zoo, without what Python leaves beside them."""
    return [p for p in sorted(zoo.ROOT.rglob("*")) if p.is_file() and p.suffix != ".pyc"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # at this size more threads only wait for each other
    yield
    torch.set_num_threads(before)


@cache
def corpus() -> list[dict[str, str]]:
    """Return the documents of the frozen corpus."""
    with lzma.open(zoo.TEXT, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def paragraphs(split: str) -> list[str]:
    """Return all paragraphs of a split."""
    return [p for row in corpus() if row["split"] == split for p in row["text"].split("\n")]


def shingles(paragraph: str) -> set[tuple[str, ...]]:
    """Return the runs of five words in a paragraph."""
    words = re.findall(r"\w+", paragraph.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def test_documents_are_sorted_unique_and_on_both_sides() -> None:
    names = [row["document"] for row in corpus()]
    assert names == sorted(set(names))
    assert {row["split"] for row in corpus()} == {"train", "test"}


def test_no_test_paragraph_stands_in_train() -> None:
    assert set(paragraphs("test")).isdisjoint(paragraphs("train"))


def test_no_test_paragraph_shares_most_of_its_shingles_with_train() -> None:
    train = set().union(*map(shingles, paragraphs("train")))
    for paragraph in paragraphs("test"):
        found = shingles(paragraph)
        assert 2 * len(found & train) <= len(found), paragraph


def digits(split: str) -> tuple[Tensor, Tensor]:
    """Return (images as uint8, shape (I, 1, 8, 8); labels, shape (I,)) of a split."""
    with gzip.open(zoo.DIGITS, "rt", newline="") as lines:
        rows = [row for row in csv.reader(lines) if row[-1] == split]
    counts = torch.tensor([[int(count) for count in row[:64]] for row in rows])
    images = (counts.double() * 255 / 16 + 0.5).floor().to(torch.uint8).view(-1, 1, 8, 8)
    return images, torch.tensor([int(row[64]) for row in rows])


def test_the_digits_are_split_evenly_and_no_image_is_on_both_sides() -> None:
    train, _ = digits("train")
    test, labels = digits("test")
    assert (len(train), len(test)) == (1297, 500)
    assert labels.bincount().tolist() == [50] * 10
    assert {bytes(image.numpy()) for image in train}.isdisjoint(bytes(i.numpy()) for i in test)


@cache
def loaded(name: str) -> nn.Module:
    """Return a bundled model as its own library loads it from the folder."""
    folder = zoo.folder(name)
    if name == "vit":
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    else:
        (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
        model = getattr(transformers, architecture).from_pretrained(folder)
    return model.eval()


@contextmanager
def attention_zeroed(name: str) -> Iterator[None]:
    """Hold the input of every layer's attention output projection at zero."""
    found = [m for n, m in loaded(name).named_modules() if n.endswith(PROJECTIONS)]
    assert len(found) == 4
    hooks = [m.register_forward_pre_hook(lambda _, given: (given[0] * 0,)) for m in found]
    yield
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", zoo.NAMES)
def test_a_folder_loads_whole_in_float32_and_is_small(name: str) -> None:
    model = loaded(name)
    if name != "vit":
        found = getattr(transformers, type(model).__name__)
        _, told = found.from_pretrained(zoo.folder(name), output_loading_info=True)
        assert not any(told.values()), told
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(p.numel() for p in model.parameters()) < (0.3e6 if name == "vit" else 1.1e6)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_no_configuration_names_a_path_of_the_machine_that_made_it(name: str) -> None:
    for path in zoo.folder(name).glob("*.json"):
        if path.name != "tokenizer.json":
            assert not re.search(r'"(/|[A-Z]:\\|\.\.?/)', path.read_text()), path


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_the_automatic_classes_load_a_text_folder(name: str) -> None:
    automatic = {"roberta": transformers.AutoModelForMaskedLM}
    chosen = automatic.get(name, transformers.AutoModelForCausalLM)
    assert type(chosen.from_pretrained(zoo.folder(name))) is type(loaded(name))


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_the_tokenizer_spells_any_text_and_frames_it_as_the_model_was_trained(name: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(zoo.folder(name))
    tokens = tokenizer("naïve 数 \t x")["input_ids"]
    assert len(tokenizer) == 2048
    assert tokens[0] == BOS
    assert (tokens[-1] == EOS) == (name == "roberta")
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "naïve 数 \t x"
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert tokenizer.convert_tokens_to_ids(special) == [BOS, PAD, EOS, UNK, MASK]
    assert tokenizer.model_max_length == (64 if name == "roberta" else 128)


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_padding_on_the_right_changes_nothing(name: str) -> None:
    window = 64 if name == "roberta" else 128
    full_WL = held_out_windows(name)
    tokens_1L = full_WL[full_WL[:, -1] != PAD][:1, : window // 2]
    padded_1L = nn.functional.pad(tokens_1L, (0, window - tokens_1L.shape[1]), value=PAD)
    with torch.no_grad():
        short = loaded(name)(tokens_1L, attention_mask=torch.ones_like(tokens_1L)).logits
        long = loaded(name)(padded_1L, attention_mask=(padded_1L != PAD).long()).logits
    torch.testing.assert_close(long[:, : window // 2], short, atol=1e-4, rtol=1e-4)


@cache
def held_out_windows(name: str) -> Tensor:
    """Return the windows of the test split, each from one document and after `<s>`, (W, L)."""
    window, closed = (64, 1) if name == "roberta" else (128, 0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(zoo.folder(name))
    rows = []
    for row in corpus():
        if row["split"] == "test":
            text = tokenizer(row["text"], add_special_tokens=False, verbose=False)["input_ids"]
            for start in range(0, len(text), window - 1 - closed):
                line = [BOS, *text[start : start + window - 1 - closed], *[EOS] * closed]
                rows.append(line + [PAD] * (window - len(line)))
    return torch.tensor(rows)


def questions(name: str) -> tuple[Tensor, Tensor]:
    """Return what a model is fed and what it should answer, both (W, L)."""
    tokens_WL = held_out_windows(name)
    if name != "roberta":
        target_WL = nn.functional.pad(tokens_WL[:, 1:], (0, 1), value=PAD)
        return tokens_WL, target_WL.where(target_WL != PAD, IGNORED)
    random = np.random.default_rng(0)
    chosen_WL = torch.from_numpy(random.random(tokens_WL.shape) < 0.15) & (tokens_WL > MASK)
    kind_WL = torch.from_numpy(random.random(tokens_WL.shape))
    noise_WL = torch.from_numpy(random.integers(MASK + 1, 2048, size=tokens_WL.shape))
    input_WL = tokens_WL.where(~chosen_WL | (kind_WL >= 0.8), MASK)
    input_WL = input_WL.where(~chosen_WL | (kind_WL < 0.9), noise_WL)
    return input_WL, tokens_WL.where(chosen_WL, IGNORED)


@torch.no_grad()
def score_text(name: str, every: int) -> Score:
    """Score a text model on every so many windows of the held-out split."""
    loss = right = scored = 0.0
    input_WL, target_WL = (tensor[::every] for tensor in questions(name))
    for start in range(0, len(input_WL), 32):
        input_BL, target_BL = input_WL[start : start + 32], target_WL[start : start + 32]
        logits_BLV = loaded(name)(input_BL, attention_mask=(input_BL != PAD).long()).logits
        logits_SV, target_S = logits_BLV[target_BL != IGNORED], target_BL[target_BL != IGNORED]
        loss += float(cross_entropy(logits_SV, target_S, reduction="sum"))
        right += float((logits_SV.argmax(-1) == target_S).sum())
        scored += len(target_S)
    return Score(cross_entropy=loss / scored, top1=right / scored)


@torch.no_grad()
def score_images() -> Score:
    """Score the vision transformer on the held-out images, normalised as its folder says."""
    images, labels = digits("test")
    wanted = json.loads((zoo.folder("vit") / "config.json").read_text())["pretrained_cfg"]
    logits = loaded("vit")((images / 255 - wanted["mean"][0]) / wanted["std"][0])
    right = (logits.argmax(1) == labels).float().mean()
    return Score(cross_entropy=float(cross_entropy(logits, labels)), top1=float(right))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mistral", "opt"])
def test_a_causal_model_beats_a_trigram_on_held_out_text(name: str) -> None:
    score = score_text(name, every=1)
    assert score.cross_entropy < 4.293
    assert score.top1 > 0.279


@pytest.mark.slow
def test_the_masked_model_beats_its_neighbours_bigrams_on_held_out_text() -> None:
    assert score_text("roberta", every=1).top1 > 0.341


def test_the_vision_transformer_reads_held_out_digits() -> None:
    assert score_images().top1 > 0.97


@pytest.mark.parametrize("name", zoo.NAMES)
def test_zeroing_all_attention_neurons_costs_half_a_nat(name: str) -> None:
    def score() -> Score:
        return score_images() if name == "vit" else score_text(name, every=8)

    with attention_zeroed(name):
        ablated = score()
    assert ablated.cross_entropy > score().cross_entropy + 0.5
