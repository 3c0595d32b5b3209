"""Text becomes the tokens that the library would make of it."""

import json
import os
import shutil
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from workers.tokenising import TokenizerError, encode

TEXTS = [
    "Two words, and 42 more: naïve 日本 🙂.",
    "a</s>b <pad> <s>",
    "  spaces \n\n and\ttabs  ",
    "",
]
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level tokenizer as OPT has it: no tokenizer.json."""
    folder = tmp_path_factory.mktemp("old")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    how = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator([f"{text} words and more of them" for text in TEXTS], how)
    trained.model.save(str(folder))
    said = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    told = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **said}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "config.json").write_text('{"model_type": "opt"}')
    return folder


def test_an_old_vocabulary_and_its_merges_are_read_as_transformers_reads_them(old: Path) -> None:
    library = transformers.AutoTokenizer.from_pretrained(old, local_files_only=True)
    expected = library(TEXTS, add_special_tokens=False)["input_ids"]
    assert [one.ids.tolist() for one in encode(old, TEXTS)] == expected
    assert 2 in expected[1]  # a special token that stands in a text is one token


def test_every_token_ends_where_its_bytes_do(old: Path) -> None:
    for text, one in zip(TEXTS, encode(old, TEXTS), strict=True):
        assert len(one.ends) == len(one.ids)
        assert (one.ends[1:] >= one.ends[:-1]).all()
        assert one.ends[-1:].tolist() == ([len(text.encode())] if text else [])


def test_a_tokenizer_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    for time, ids in enumerate(({"a": 0, "b": 1}, {"a": 1, "b": 0})):
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token="a"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.save(str(file))
        os.utime(file, (time, time))
        assert encode(tmp_path, ["a b"])[0].ids.tolist() == [ids["a"], ids["b"]]


def test_a_folder_without_a_tokenizer_is_refused_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")  # half of the older files is none of them
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json.*save_pretrained"):
        encode(tmp_path, ["a"])


def test_older_files_that_do_not_say_all_are_refused_with_the_cure(
    old: Path, tmp_path: Path
) -> None:
    changes = {
        "of a qwen2 model": ("config.json", {"model_type": "qwen2"}),
        "were added": ("added_tokens.json", {"<|more|>": 400}),
    }
    for i, (why, (file, content)) in enumerate(changes.items()):
        folder = shutil.copytree(old, tmp_path / str(i))
        (folder / file).write_text(json.dumps(content))
        with pytest.raises(TokenizerError, match=f"{why}.*save_pretrained"):
            encode(folder, ["a"])


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="cannot be read"):
        encode(tmp_path, ["a"])
