"""Commands on the real default model, in this process."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest

from steelyard.cli.chat import Conversation, Repl
from steelyard.cli.loading import Loaded
from steelyard.cli.options import SamplingOptions

pytestmark = pytest.mark.usefixtures("shared_model")
GREEDY = ("--temperature", "0")


def test_text_on_stdout_numbers_on_stderr(cli):
    result = cli("run", "What is the capital of Germany?", "-n", "12", *GREEDY)
    assert result.code == 0
    assert "Berlin" in result.out
    assert result.out.count("\n") == 1
    assert "completion tokens" in result.err
    assert "Berlin" not in result.err


def test_json_has_every_field_and_nothing_else_is_on_stdout(cli, llm):
    result = cli("run", "-", "--raw", "-n", "4", "--json", "--seed", "7", "--stop", "zzz", stdin=b"Once upon a time\n")
    fields = result.json
    assert fields["text"] == llm.tokenizer.decode(fields["token_ids"])
    assert fields["prompt_tokens"] == len(llm.engine.encode("Once upon a time"))
    assert fields["completion_tokens"] == len(fields["token_ids"]) == 4
    assert fields["finish_reason"] == "length"
    assert fields["seed"] == 7
    assert fields["stop"] == ["zzz"]
    assert fields["ttft_s"] > 0
    assert fields["decode_tokens_per_s"] > 0
    assert fields["peak_rss_bytes"] > 1 << 20
    assert {"model", "load_s", "cached_tokens", "temperature", "top_p", "top_k", "min_p", "max_tokens"} <= set(fields)
    again = cli("run", "Once upon a time", "--raw", "-n", "4", "--json", "--seed", "7", "--stop", "zzz").json
    assert again["token_ids"] == fields["token_ids"]


def test_without_max_tokens_the_answer_takes_what_the_context_leaves(cli):
    fields = cli("run", "word " * 240, "--raw", "--json", *GREEDY).json
    assert fields["max_tokens"] == 256 - fields["prompt_tokens"]


def test_system_messages_change_the_prompt(cli):
    plain = cli("run", "Hi", "-n", "1", "--json").json
    told = cli("run", "Hi", "-n", "1", "--json", "--system", "Be a pirate, a very talkative one, always.").json
    assert told["prompt_tokens"] != plain["prompt_tokens"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["run", ""], "prompt"),
        (["run", "-"], "prompt"),
        (["run", "word " * 400], "prompt"),
        (["run", "hi", "--max-tokens", "-3"], "max_tokens"),
        (["run", "hi", "--max-tokens", "999999"], "max_tokens"),
        (["run", "hi", "--kv-cache-memory", "lots"], "kv_cache_memory"),
        (["run", "hi", "--raw", "--system", "x"], "--system"),
        (["chat", "--top-p", "0"], "top_p"),
        (["bench", "latency", "--prompt-tokens", "0"], "prompt_tokens"),
        (["bench", "latency", "--prompt-tokens", "300"], "prompt_tokens"),
        (["perplexity", "--file", "no/such/file"], "--file"),
        (["tokenize", "--decode", "--", "-1"], "text"),
        (["tokenize", "--decode", "99999999"], "token_ids"),
        (["tokenize", "x", "--model", "no-such-model"], "no-such-model"),
        (["fit", "--context", "0"], "context"),
        (["fit", "no-such-model"], "no-such-model"),
    ],
)
def test_bad_input_is_one_line_one_object_and_two(cli, arguments, field):
    result = cli(*arguments[:1], *(["latency"] if arguments[0] == "bench" else []), "--json", *_rest(arguments))
    assert result.code == 2
    assert result.json["error"]["field"] == field
    assert result.json["error"]["remedy"]
    assert result.err.startswith(f"error: {field}: ")
    assert result.err.count("\n") == 1


def _rest(arguments):
    return arguments[2:] if arguments[0] == "bench" else arguments[1:]


def test_stdin_must_be_utf8(cli):
    result = cli("run", stdin=b"caf\xe9")
    assert result.code == 2
    assert "byte 3 (0xe9) is not UTF-8" in result.err


def test_tokenize_there_and_back(cli):
    text = "Grüße, 世界 <|im_end|>"
    fields = cli("tokenize", text, "--json").json
    assert fields["num_tokens"] == len(fields["token_ids"]) == len(fields["token_texts"])
    special = cli("tokenize", text, "--json", "--parse-special").json
    assert special["num_tokens"] < fields["num_tokens"]
    assert cli("tokenize", "--decode", str(fields["token_ids"])).out == text + "\n"


def test_bench_measures_exactly_what_was_asked(cli, shared_model):
    sizes = ("--prompt-tokens", "16", "--output-tokens", "3", "--warmup", "0", "--repeat", "2")
    fields = cli("bench", "throughput", *sizes, "--requests", "2", "--concurrency", "2", "--json").json
    assert shared_model["max_num_seqs"] == 2
    assert fields["workload"]["prompt_tokens"] == 16
    assert len(fields["repeats"]) == 2
    assert min(fields[f"{kind}_tokens_per_s"] for kind in ("prefill", "decode", "output")) > 0
    for time in ("ttft_s", "tpot_s", "e2e_s"):
        assert 0 < fields[time]["p50"] <= fields[time]["p99"]
    text = cli("bench", "prefill", "--prompt-tokens", "16", "--warmup", "0", "--repeat", "1")
    assert text.out.startswith("PREFILL")
    assert "repeat 1/1" in text.err


def test_perplexity_agrees_with_the_scores(cli, llm, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("The quick brown fox jumps over the lazy dog. " * 3, encoding="utf-8")
    whole = llm.score(file.read_text(encoding="utf-8"))[0]
    fields = cli("perplexity", "--file", str(file), "--context", "256", "--json").json
    assert fields["tokens"] == whole.num_predicted
    assert fields["nll"] == pytest.approx(-whole.total_logprob / whole.num_predicted, rel=1e-5)
    assert fields["perplexity"] == pytest.approx(math.exp(fields["nll"]))
    short = cli("perplexity", "--file", str(file), "--context", "16", "--stride", "8", "--json").json
    assert short["tokens"] == whole.num_predicted
    assert short["nll"] > fields["nll"]
    assert cli("perplexity", "--file", str(file), "--context", "16", "--stride", "16").code == 2


def test_fit_reads_headers_only(cli):
    fields = cli("fit", "--json").json
    assert fields["num_params"] == 134_515_008
    assert {one["name"] for one in fields["formats"]} >= {"float32", "bfloat16"}
    assert "MAX CONTEXT" in cli("fit", "--batch", "2").out


def test_chat_remembers_and_reuses_the_cache(cli):
    lines = b"My name is Ada.\n\nWhat is my name?\n/exit\nnever reached\n"
    result = cli("chat", "--json", "-n", "8", *GREEDY, stdin=lines)
    assert result.code == 0
    turns = [json.loads(line) for line in result.out.splitlines()]
    assert len(turns) == 2
    assert turns[1]["prompt_tokens"] > turns[0]["prompt_tokens"]
    assert turns[1]["cached_tokens"] >= turns[0]["prompt_tokens"] // 16 * 16 > 0
    plain = cli("chat", "-n", "3", *GREEDY, stdin=b"Hi\n/reset\nHi\n").out.splitlines()
    assert plain[0] == plain[1]


def test_chat_commands(cli, tmp_path):
    target = tmp_path / "talk.json"
    lines = f"/help\n/system Be brief.\nHi\n/save {target}\n//slash\n".encode()
    result = cli("chat", "-n", "2", stdin=lines)
    assert result.code == 0
    assert "/reset" in result.err
    saved = json.loads(target.read_text(encoding="utf-8"))
    assert [message["role"] for message in saved["messages"]] == ["system", "user", "assistant"]
    assert cli("chat", stdin=b"/nonsense\n").code == 2
    assert cli("chat", stdin=b"/save /no/such/folder/x\n").code == 1
    assert cli("chat", stdin=b"ok \xff\n").code == 2


def test_ctrl_c_ends_the_answer_and_not_the_conversation(llm, capsys):
    loaded = Loaded(llm=llm, load_s=0.0)
    first = next(iter(loaded.llm.stream_outputs((1, 2), None)))

    def interrupted(ids, params):
        yield first
        raise KeyboardInterrupt

    def talk(interactive: bool) -> Conversation:
        conversation = Conversation("Be kind.")
        stand_in = SimpleNamespace(llm=llm, name="m", max_model_len=256, stream=interrupted)
        Repl(stand_in, SamplingOptions(), conversation, as_json=False, interactive=interactive).run(
            iter(["Hi", "/exit"])
        )
        return conversation

    assert [message["role"] for message in talk(True).turns] == ["user", "assistant"]
    with pytest.raises(KeyboardInterrupt):
        talk(False)
    assert "finish: cancelled" in capsys.readouterr().err


def test_errors_of_a_turn_do_not_end_a_conversation_on_a_terminal(llm, capsys):
    conversation = Conversation(None)
    repl = Repl(Loaded(llm=llm, load_s=0), SamplingOptions(), conversation, as_json=False, interactive=True)
    repl.run(iter(["word " * 400, "/nonsense"]))
    err = capsys.readouterr().err
    assert "error: prompt: " in err
    assert "error: /nonsense: " in err
    assert conversation.turns == []
