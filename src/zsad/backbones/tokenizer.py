"""OpenAI's byte-pair tokenizer for CLIP, run by Hugging Face `tokenizers`.

Beside this file lies `clip_merges.txt.gz`: the 48,894 merges of OpenAI's public `bpe_simple_vocab_16e6.txt`
that CLIP uses (MIT licence, see NOTICE), one per line. The vocabulary follows from them.

Source: Radford et al. 2021, section 2.4; Sennrich et al. 2016 for byte-pair encoding.
"""

from __future__ import annotations

import functools
import gzip
import html
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zsad.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import Split

START_TOKEN = 49406
END_TOKEN = 49407
# A user may type these into a prompt; OpenAI's tokenizer treats them as the marks themselves.
LITERAL_MARKS = {"<|startoftext|>": START_TOKEN, "<|endoftext|>": END_TOKEN}
MERGES_FILE = "clip_merges.txt.gz"
WORD_END = "</w>"
# English clitics, runs of letters, single digits, runs of anything else but white space.
WORDS = r"(?i)<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def tokenize(texts: str | Sequence[str], context_length: int = 77, *, cut: bool = False) -> Tensor:
    """Token ids of prompts, as CLIP's text encoder reads them.

    Args:
        texts: one prompt or several.
        context_length: L, number of tokens with both marks; longer prompts are cut before the end mark.
        cut: whether L is the length of the longest prompt instead; the text encoder gives the same vectors
            in less time, because what follows the end mark has no influence.

    Returns:
        (B, L) int64: start mark, words, end mark, zeros.

    Raises:
        ConfigError: a prompt is not a string, or the marks leave no room.
    """
    rows = token_rows([texts] if isinstance(texts, str) else texts, context_length)
    return padded(rows, None if cut and rows else context_length)


def token_rows(texts: Sequence[str], context_length: int = 77) -> list[list[int]]:
    """Token ids of each prompt from its start mark to its end mark, as Python numbers.

    Raises:
        ConfigError: a prompt is not a string, or the marks leave no room.
    """
    if context_length < 2:
        raise ConfigError(f"context_length must leave room for start and end mark, got {context_length}")
    for text in texts:
        if not isinstance(text, str):
            raise ConfigError(f"a prompt must be a string, got {type(text).__name__} {text!r}")
    return [[START_TOKEN, *encode(text)[: context_length - 2], END_TOKEN] for text in texts]


def padded(rows: Sequence[Sequence[int]], length: int | None = None) -> Tensor:
    """(B, L) int64 token ids, filled up with zeros; L is the length given, or that of the longest row."""
    width = max(map(len, rows)) if length is None else length
    filled = [[*row, *[0] * (width - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.long).reshape(len(filled), width)


def encode(text: str) -> list[int]:
    """All token ids of one prompt, without the marks."""
    cleaned = clean(text)
    tokenizer, words = byte_pair_encoder()
    if not any(mark in cleaned for mark in LITERAL_MARKS):
        return list(tokenizer.encode(cleaned, add_special_tokens=False).ids)
    ids: list[int] = []
    for word, _ in words.pre_tokenize_str(cleaned):
        mark = LITERAL_MARKS.get(word)
        ids.extend(tokenizer.encode(word, add_special_tokens=False).ids if mark is None else [mark])
    return ids


def clean(text: str) -> str:
    """OpenAI's cleaning: repairs Unicode, resolves HTML entities twice, joins white space, lower-cases."""
    import ftfy

    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(mended.split()).lower()


@functools.cache
def byte_pair_encoder() -> tuple[Tokenizer, Split]:
    """The encoder and its word splitter, built at the first call."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    packed = (files(__package__) / MERGES_FILE).read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    merges = [(left, right) for left, right in (line.split(" ") for line in lines)]
    symbols = byte_symbols()
    word_ends = [symbol + WORD_END for symbol in symbols]
    entries = [*symbols, *word_ends, *(left + right for left, right in merges)]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    words = Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=WORD_END))
    tokenizer.pre_tokenizer = Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])
    return tokenizer, words


def byte_symbols() -> list[str]:
    """The printable stand-ins of the 256 byte values, in the order of CLIP's vocabulary.

    Printable bytes of Latin-1 stand for themselves and come first; characters from U+0100 on stand for all
    others.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(0x100 + index) for index in range(256 - len(printable))]
