#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes small tokenizers of the kinds that models have, and what Hugging Face `tokenizers` makes of texts by them, for
tests/tools. Needs tokenizers.

usage: $(scripts/serve_python) scripts/make_tokenizer_golden.py tests/tools/tokenizers.json
"""

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

# Enough to have merges of several bytes, in several scripts.
CORPUS = [
    "the quick brown fox jumps over the lazy dog, and the other dogs were there then",
    "Die Größe der Grüße über alle Straßen; für die Tür, früh und später",
    "世界 你好 世界 你好 мир привет мир привет",
    "def function(value):\n    return value ** 2  # comment\n" * 3,
    "1234567890 123 456 3.14159 2026-11-25",
    "don't won't it's we'll they've I'M HE'D",
]
TEXTS = [
    "the quick brown fox",
    " leading, trailing ",
    "  two  spaces\t\ttabs\n\n\nlines \r\n end   ",
    "don't we'll I'M it's",
    "12345 3.14159 ½ ٣",
    "Grüße, 世界! мир 👩‍👩‍👧 e\u0301 ﬁ",
    "<s>[INST] hi [/INST]</s>x<s>",
    "def f(x):\n        return x**2",
    "a" * 70 + "!?" * 20,
    "",
]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = [AddedToken(text, special=True, normalized=False) for text in ("<s>", "</s>", "[INST]", "[/INST]")]


def trained(tokenizer: Tokenizer, alphabet: list[str], size: int) -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def gpt2() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return trained(tokenizer, pre_tokenizers.ByteLevel.alphabet(), 420)


def prefixed() -> Tokenizer:
    tokenizer = gpt2()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)]
    )
    return tokenizer


def llama3() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trained(tokenizer, pre_tokenizers.ByteLevel.alphabet(), 420)
    begin = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    return tokenizer


def with_fallback(tokenizer: Tokenizer) -> Tokenizer:
    """The same with the 256 bytes, as SentencePiece's models have them: into the file, since nothing trains that."""
    file = json.loads(tokenizer.to_str())
    vocabulary = file["model"]["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    file["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(file))


def llama2() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained(tokenizer, [], 200)
    tokenizer = with_fallback(tokenizer)
    begin, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", begin), ("</s>", end)]
    )
    return tokenizer


def metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    return with_fallback(trained(tokenizer, [], 200))


def main() -> None:
    cases = []
    for make in (gpt2, prefixed, llama3, llama2, metaspace):
        tokenizer = make()
        tokens = [tokenizer.encode(text).ids for text in TEXTS]
        cases.append({"name": make.__name__, "tokenizer": json.loads(tokenizer.to_str()), "tokens": tokens})
    Path(sys.argv[1]).write_text(json.dumps({"texts": TEXTS, "cases": cases}, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
