import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import ModelError
from steelyard.models.text.gguf_tokenizer import tokenizer_from_gguf
from steelyard.models.text.gguf_vocab import PREFIX
from steelyard.models.text.sentencepiece_model import metadata_from_sentencepiece


@pytest.fixture(scope="module")
def content(sentencepiece_trainer):
    return sentencepiece_trainer(user_defined=["<table>"], control=["<turn>"])


def test_what_is_read_equals_what_the_library_reads(content):
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    metadata = metadata_from_sentencepiece(content)
    size = processor.get_piece_size()
    assert metadata[PREFIX + "tokens"] == [processor.id_to_piece(i) for i in range(size)]
    assert metadata[PREFIX + "scores"] == pytest.approx([processor.get_score(i) for i in range(size)])
    assert metadata[PREFIX + "bos_token_id"] == processor.bos_id()
    assert metadata[PREFIX + "eos_token_id"] == processor.eos_id()
    assert metadata[PREFIX + "add_space_prefix"] is True
    assert [t == 6 for t in metadata[PREFIX + "token_type"]] == [processor.is_byte(i) for i in range(size)]


def test_it_encodes_as_the_library(content, corpus):
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    ours = tokenizer_from_gguf(metadata_from_sentencepiece(content))
    for text in corpus:
        assert ours.encode(text, add_special_tokens=False) == processor.encode(text)


@given(st.binary())
def test_any_bytes_fail_cleanly(noise):
    with pytest.raises(ModelError) as caught:
        tokenizer_from_gguf(metadata_from_sentencepiece(noise))
    assert caught.value.field


def test_truncated_files_fail_cleanly(content):
    for length in range(0, len(content), 97):
        try:
            tokenizer_from_gguf(metadata_from_sentencepiece(content[:length]))
        except ModelError:
            continue
        pytest.fail("half a file was taken for a whole one")


def test_kinds_that_are_not_supported(content):
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.ParseFromString(content)
    for change, problem in (
        (lambda p: setattr(p.trainer_spec, "model_type", 1), "not a BPE model"),
        (lambda p: setattr(p.trainer_spec, "treat_whitespace_as_suffix", True), "end of words"),
        (lambda p: setattr(p.normalizer_spec, "precompiled_charsmap", b"x"), "changes text"),
        (lambda p: setattr(p.normalizer_spec, "remove_extra_whitespaces", True), "changes text"),
    ):
        changed = type(proto)()
        changed.CopyFrom(proto)
        change(changed)
        with pytest.raises(ModelError, match=problem) as caught:
            metadata_from_sentencepiece(changed.SerializeToString())
        assert "tokenizer.json" in caught.value.remedy
