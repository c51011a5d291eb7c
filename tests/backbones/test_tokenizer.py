"""The tokenizer against OpenAI's (golden data) and open_clip's (a generated corpus)."""

# ruff: noqa: RUF001 - characters that look like others are the point here

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import torch

from zsad.backbones.tokenizer import END_TOKEN, START_TOKEN, byte_pair_encoder, clean, encode, tokenize
from zsad.errors import ConfigError

CORPUS_SIZE = 3000
WORDS = (
    "a photo of the damaged metal nut without flaw for visual inspection it's they're I'll you've he'd we'm",
    "don't jpeg-corrupted close-up black/white 0.5mm x-ray pcb1 macaroni2 pipe_fryum",
    "C3PO No.7 www.example.org",
    "Straße naïve Ærøskøbing Łódź İstanbul ſharp ﬁne ΣΊΣΥΦΟΣ",
    "ὈΔΥΣΣΕΎΣ Привет ЩУКА שָׁלוֹם العَرَبِيَّة हिन्दी ไทย",
    "한국어 日本語 中文字 カメラ ｆｕｌｌ Ⅷ ½ ① ٣ ၇ ＡＢＣ İ ß ẞ 𝔘𝔫𝔦 𐐀𐐨",
)
ODD = (
    "&amp; &amp;amp; &lt;b&gt; &#39;s &#x27;t &nbsp; &copy; &eacute; &bogus; &#0; &#128; &#x1F600; &amp",
    "😀 👩‍🔬 🇩🇪 ❤️ 👍🏽 🏴‍☠️ ☂ ♜",
    "\t \n \r\n \u00a0 \u2003 \u3000 \u200b \ufeff \u2028 \x85 \x1c \x1f \x0b",
    "\x00 \x07 \x1b[31m \x7f \u202e \u0301 \ufffd \U0010ffff \ue000",
    "'s 'S 'T 'ſ 'LL ’s `` -- … !!! ??? ### $$$ <| |> <|end |endoftext| </w> _ __a__ ^_^ \\n",
    "{} [] \u2018 \u201c",
    "schÃ¶n â€œquotedâ€\x9d ï»¿bom ÐŸÑ€Ð¸Ð²ÐµÑ‚",
)
PIECES = [piece for line in (*WORDS, *ODD) for piece in line.split(" ")]


def corpus() -> list[str]:
    """Strings, empty to long, of words, foreign scripts, entities, emoji, control and random characters."""
    chance = random.Random(0)
    texts = ["", " ", "\n\t", "a", "'", "&", "x" * 3000, "wort " * 500, "😀" * 200, *PIECES]
    while len(texts) < CORPUS_SIZE:
        kind = chance.random()
        length = chance.choice((1, 2, 4, 8, 16, 90))
        if kind < 0.6:
            texts.append(chance.choice((" ", " ", "", "  ", "-")).join(chance.choices(PIECES, k=length)))
        elif kind < 0.8:
            texts.append("".join(chr(chance.randrange(0x20, 0x250)) for _ in range(4 * length)))
        else:  # the part of the first plane that no Unicode version will change: assigned long ago
            texts.append("".join(chr(chance.choice(OLD_CHARACTERS)) for _ in range(length)))
    return texts


OLD_CHARACTERS = [*range(0x250, 0x378), *range(0x400, 0x530), *range(0x905, 0x950), *range(0x2190, 0x2400),
                  *range(0x3041, 0x3097), *range(0x4E00, 0x9FA5, 7), *range(0xAC00, 0xD7A3, 5)]  # fmt: skip


def test_golden_tokens(golden):
    data = golden("clip.npz")
    found = tokenize(data["tokens.sentences"].tolist())
    assert found.dtype == torch.int64
    assert found.tolist() == data["tokens.ids"].tolist()


def test_golden_prompts(golden):
    data = golden("anomalyclip.npz")
    placeholders = " ".join(["X"] * 12)
    found = tokenize([f"{placeholders} object.", f"{placeholders} damaged object."])
    expected = [data[f"settings.prompt_tokens_{name}"][0, 0].tolist() for name in ("normal", "abnormal")]
    assert found.tolist() == expected


def test_corpus_equals_open_clip():
    reference = pytest.importorskip("open_clip.tokenizer").SimpleTokenizer()
    texts = corpus()
    assert len(texts) >= 2000
    different = [text for text in texts if encode(text) != reference.encode(text)]
    assert different == []
    assert torch.equal(tokenize(texts), reference(texts, 77))


def test_literal_marks():
    assert encode("<|startoftext|> a cat<|endoftext|>") == [START_TOKEN, *encode("a cat"), END_TOKEN]
    assert encode("<|ENDOFTEXT|>") == [END_TOKEN]
    # Punctuation before it swallows the opening bracket, as in OpenAI's tokenizer.
    assert END_TOKEN not in encode("!!<|endoftext|>")


def test_every_byte_has_a_token():
    ids = {token for byte in range(256) for token in encode(f"\u0100{chr(byte)}")}
    assert max(ids) < START_TOKEN
    assert byte_pair_encoder()[0].get_vocab_size() == START_TOKEN


@pytest.mark.parametrize("length", [2, 5, 77])
def test_shape_and_truncation(length):
    ids = tokenize(["", "one two three four five six " * 30], context_length=length)
    assert ids.shape == (2, length)
    assert ids[0, :2].tolist() == [START_TOKEN, END_TOKEN]
    assert ids[0, 2:].eq(0).all()
    assert ids[1, 0] == START_TOKEN
    assert ids[1, -1] == END_TOKEN
    assert ids.argmax(dim=-1).tolist() == [1, length - 1]


def test_one_prompt_and_none():
    assert tokenize("a cat").shape == (1, 77)
    assert tokenize(["a cat", "a striped cat"], cut=True).shape == (2, 5)
    assert tokenize([], cut=True).shape == (0, 77)
    assert tokenize([]).shape == (0, 77)


def test_clean():
    assert clean("  A\u00a0&amp;amp;\n B ") == "a & b"


def test_refusals():
    with pytest.raises(ConfigError, match="got int 3"):
        tokenize(["a", 3])
    with pytest.raises(ConfigError, match="got 1"):
        tokenize("a", context_length=1)


def test_building_is_lazy_and_quick():
    program = (
        "import sys, time, torch\n"
        "from zsad.backbones import tokenizer\n"
        "assert 'tokenizers' not in sys.modules\n"
        "start = time.perf_counter()\n"
        "tokenizer.tokenize('a photo')\n"
        "print(time.perf_counter() - start)\n"
    )
    seconds = min(
        float(
            subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        )
        for _ in range(2)
    )
    assert seconds < 1.0  # 0.15 s on an idle machine; room for a busy one
