"""The tokenizer: byte-level byte-pair encoding with 2,048 entries.

All three text models share one vocabulary, learnt from the train split alone.
Being byte-level, it can spell any text; the first five entries are special and
the next 256 are the bytes in sorted order, so that the file does not depend on
the order in which a hash table happens to be read.

The folders differ in one point only: what their tokenizer puts around a text.
The causal models get `<s>` in front, the masked model `<s>` … `</s>`.

    python -m training.tokenizer workers/zoo
"""

import argparse
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from training.windows import WINDOW, read_corpus

SIZE = 2048
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # entries 0 to 4, in RoBERTa's order


def learn(texts: list[str]) -> Tokenizer:
    """Return the tokenizer learnt from the texts, with nothing put around its output."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write(tokenizer: Tokenizer, folder: Path, window: int, template: str) -> None:
    """Write the two files from which `AutoTokenizer` makes the tokenizer of one model."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=window,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        padding_side="right",
    )
    wrapped.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"  # by the name that older libraries know, too
    text = settings.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast")
    settings.write_text("".join(line for line in text.splitlines(True) if '"backend"' not in line))
    for path in folder.glob("tokenizer*.json"):
        path.chmod(0o644)


def main() -> None:
    """Learn the tokenizer from the train split and write it into the three text models."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("zoo", type=Path)
    zoo = parser.parse_args().zoo
    corpus = read_corpus(zoo / "text" / "corpus.jsonl.xz")
    tokenizer = learn([document.text for document in corpus if document.split == "train"])
    for name, window in sorted(WINDOW.items()):
        template = "<s> $A </s>" if name == "roberta" else "<s> $A"
        write(tokenizer, zoo / name, window, template)


if __name__ == "__main__":
    main()
