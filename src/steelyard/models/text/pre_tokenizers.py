"""How byte-level BPE tokenizers cut text into words before merging: one table, by the names that GGUF files use.

Each entry is the model's own published rule, Unicode normalisation included (GGUF files do not say it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PreTokenizer:
    """The rule of one family of tokenizers.

    Attributes:
        patterns: regular expressions, applied one after another; matches become words of their own, and so does what
            lies between them.
        nfc: text is brought to Unicode normal form C first.
        ignore_merges: a word that is a token itself is not merged from its bytes.
        adds_bos: texts begin with the begin token unless the file says otherwise.
    """

    patterns: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_LLAMA3 = rf"{_WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"

# Words by case: a run of upper case may lead, lower case may follow.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_GPT4O = (
    rf"{_LEAD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_LEAD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_TEKKEN = rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    rf"|{_SPACES}",
)
_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|`]+"

_PLAIN = PreTokenizer(patterns=(_GPT2,))
_PLAIN_NFC = PreTokenizer(patterns=(_GPT2,), nfc=True)
_DIGITS = PreTokenizer(patterns=(r"\p{N}", _GPT2))
_CL100K = PreTokenizer(patterns=(_LLAMA3,))
_LLAMA_BPE = PreTokenizer(patterns=(_LLAMA3,), ignore_merges=True, adds_bos=True)
_O200K = PreTokenizer(patterns=(_GPT4O,))
_QWEN = PreTokenizer(patterns=(_QWEN2,), nfc=True)

DEFAULT_PRE = "default"

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "default": PreTokenizer(patterns=(_PUNCTUATION, _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "falcon": PreTokenizer(patterns=(_PUNCTUATION, _GPT2, "[0-9][0-9][0-9]")),
    "gpt-2": _PLAIN,
    "phi-2": _PLAIN,
    "olmo": _PLAIN_NFC,
    "mpt": _PLAIN_NFC,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "codeshell": _DIGITS,
    "command-r": PreTokenizer(patterns=(r"\p{N}", _GPT2), nfc=True),
    "dbrx": _CL100K,
    "smaug-bpe": _CL100K,
    "chatglm-bpe": _CL100K,
    "glm4": _CL100K,
    "llama-bpe": _LLAMA_BPE,
    "llama3": _LLAMA_BPE,
    "llama-v3": _LLAMA_BPE,
    "falcon3": _LLAMA_BPE,
    "qwen2": _QWEN,
    "stablelm2": _QWEN,
    "deepseek-r1-qwen": _QWEN,
    "gpt-4o": _O200K,
    "llama4": _O200K,
    "tekken": PreTokenizer(patterns=(_TEKKEN,), ignore_merges=True, adds_bos=True),
    "deepseek-v3": PreTokenizer(patterns=_DEEPSEEK3),
}
