"""The peers benchmark without any peer: its arithmetic, its choices, and its protocol with a fake engine."""

import sys
from pathlib import Path

import pytest
from peerbench.cache import Cache
from peerbench.child import Child, PeerError, last_line, parse_answer
from peerbench.contenders import (
    CONTENDERS,
    ENVIRONMENTS,
    MODELS,
    OURS,
    Recipe,
    chosen,
    needed_environments,
    needed_models,
)
from peerbench.corpus import Source, windows
from peerbench.install import convert, run
from peerbench.measure import Arena, run_all
from peerbench.quality import Score, difference, score_all
from peerbench.report import Column, Spread, cell, spread, standing, table
from peerbench.workloads import (
    WORKLOADS,
    Workload,
    batch_rate,
    check_answer,
    decode_rate,
    prefill_rate,
    random_prompts,
    start_time,
)
from servebench.servers import SERVERS

FAKE = Path(__file__).with_name("fake_engine.py")
SHAPE = {"threads": 2, "seats": 1, "context": 64}


@pytest.fixture
def start(tmp_path):
    """Start fake engines, and leave none behind."""
    children = []

    def start_one(name="fake"):
        children.append(Child([sys.executable, str(FAKE)], tmp_path / f"{name}.log"))
        return children[-1]

    yield start_one
    for child in children:
        child.kill()


def load(child, fault=None):
    return child.ask("load", model="m", options={"fault": fault}, **SHAPE)


# --- protocol --------------------------------------------------------------------------------------------------------


def test_a_child_answers_despite_its_librarys_chatter(start):
    child = start()
    assert load(child)["version"] == "fake m 2"
    answer = child.ask("generate", prompts=[[5], [7, 8]], max_tokens=3)
    assert [each["token_ids"] for each in answer["completions"]] == [[6, 7, 8], [9, 10, 11]]
    assert answer["total_s"] >= 0
    assert answer["peak_rss_bytes"] > 1 << 20


def test_an_engines_error_comes_back_in_one_line_and_the_child_lives(start):
    child = start()
    with pytest.raises(PeerError, match="RuntimeError: no such model"):
        load(child, "refuse")
    assert load(child)["version"] == "fake m 2"


def test_a_dead_childs_last_words_are_reported(start):
    child = start()
    load(child, "die")
    with pytest.raises(PeerError, match="ended with code 3: out of luck"):
        child.ask("generate", prompts=[[1]], max_tokens=1)


def test_asking_a_dead_child_again_is_refused(start):
    child = start()
    child.kill()
    with pytest.raises(PeerError, match="had ended before"):
        load(child)


def test_a_silent_child_is_given_up(start):
    child = start()
    load(child, "sleep")
    with pytest.raises(PeerError, match="no answer within"):
        child.ask("generate", prompts=[[1]], max_tokens=1, timeout_s=0.2)


def test_a_paused_child_waits_until_it_is_resumed(start):
    child = start()
    load(child)
    child.pause()
    child.send("generate", prompts=[[1]], max_tokens=1)
    child.resume()
    assert child.receive()["completions"][0]["token_ids"] == [2]


def test_two_answers_that_come_together_are_two(start):
    child = start()
    child.send("load", model="m", options={}, **SHAPE)
    child.send("generate", prompts=[[1]], max_tokens=1)
    child.send("score", window=[1, 2])
    child.receive()
    child.receive()
    assert child.receive(timeout_s=20)["logprob"] == -2.0


@pytest.mark.parametrize(
    ("line", "reason"), [(b"hello\n", "no JSON"), (b"[1]\n", "no object"), (b'{"error": "full"}', "full")]
)
def test_answers_that_are_none_raise(line, reason):
    with pytest.raises(PeerError, match=reason):
        parse_answer(line)


def test_the_last_line_of_a_progress_bar_is_its_last_state(tmp_path):
    log = tmp_path / "log"
    log.write_text("first\nbar 1%\rbar 2%\r\n\n")
    assert last_line(log) == "bar 2%"


# --- workloads -------------------------------------------------------------------------------------------------------


def answer_of(num_prompts=1, tokens=1, ttft_s=0.5, total_s=2.0):
    return {"completions": [{"token_ids": [0] * tokens, "ttft_s": ttft_s}] * num_prompts, "total_s": total_s}


def test_rates_follow_their_definitions():
    shape = {"num_prompts": 4, "prompt_tokens": 100, "output_tokens": 31}
    assert decode_rate(Workload(title="", figure=decode_rate, **shape), answer_of()) == 30 / 1.5
    assert prefill_rate(Workload(title="", figure=prefill_rate, **shape), answer_of()) == 200
    assert batch_rate(Workload(title="", figure=batch_rate, **shape), answer_of()) == 62
    assert start_time(Workload(title="", figure=start_time, **shape), {"start_s": 1.25}) == 1.25


def test_prompts_are_the_same_for_all_engines_new_each_round_and_without_common_prefixes():
    workload = WORKLOADS["batch-64"]
    prompts = random_prompts(workload, 0)
    assert prompts == random_prompts(workload, 0)
    assert prompts != random_prompts(workload, 1)
    assert {len(prompt) for prompt in prompts} == {128}
    assert len({tuple(prompt[:2]) for prompt in prompts}) == 64


def test_every_workload_fits_the_models_context():
    assert max(workload.context for workload in WORKLOADS.values()) <= 8192


def test_an_engine_that_stops_early_has_no_figure():
    check_answer(answer_of(2, 3), 2, 3)
    with pytest.raises(PeerError, match="5 tokens where 2 × 3"):
        check_answer({"completions": [{"token_ids": [0] * 3}, {"token_ids": [0] * 2}]}, 2, 3)


# --- the driver ------------------------------------------------------------------------------------------------------


def arena_of(start, faults):
    return Arena(
        names=list(faults),
        start=start,
        load_fields=lambda name: {"model": name, "options": {"fault": faults[name]}},
        threads=1,
    )


def test_all_contenders_are_measured_and_failures_keep_their_reason(start):
    shapes = {"prompt_tokens": 4, "output_tokens": 2}
    workloads = {
        "many": Workload(title="many", num_prompts=3, figure=batch_rate, **shapes),
        "start": Workload(title="start", figure=start_time, more_is_better=False, fresh_process=True, **shapes),
    }
    arena = arena_of(start, {"good": None, "refusing": "refuse", "short": "short"})
    results = run_all(arena, workloads, 2, [10])
    assert results.samples["good"][:2] == [11, 12]
    assert {key: {name: len(each) for name, each in found.items()} for key, found in results.figures.items()} == {
        "many": {"good": 2},
        "start": {"good": 2},
    }
    assert len(results.peak_rss_bytes["good"]) == 2
    assert list(results.failures) == ["refusing", "short, many", "short, start"]
    assert "no such model" in results.failures["refusing"]


# --- statistics and tables -------------------------------------------------------------------------------------------


def test_spread_is_median_and_both_ends():
    assert spread([3.0, 1.0, 100.0]) == Spread(3.0, 1.0, 100.0)


@pytest.mark.parametrize(("more_is_better", "ratio", "peer"), [(True, 0.5, "fast"), (False, 2.0, "slow")])
def test_standing_is_above_one_when_we_are_better(more_is_better, ratio, peer):
    medians = {OURS: 10.0, "fast": 20.0, "slow": 20.0 if not more_is_better else 5.0}
    if not more_is_better:
        medians["fast"] = 40.0
    column = Column(
        title="", spreads={name: Spread(m, m, m) for name, m in medians.items()}, more_is_better=more_is_better
    )
    found = standing(column)
    assert (found.ratio, found.peer) == (ratio, peer)


def test_without_us_or_without_peers_there_is_no_standing():
    alone = {OURS: Spread(1, 1, 1)}
    assert standing(Column(title="", spreads=alone, more_is_better=True)) is None
    assert standing(Column(title="", spreads={"peer": Spread(1, 1, 1)}, more_is_better=True)) is None


def test_the_table_marks_the_best_and_leaves_dashes():
    column = Column(title="t", spreads={OURS: Spread(5, 4, 6), "a": Spread(10, 9, 11)}, more_is_better=True)
    assert cell(column, "a") == "**10.0 (9.0 … 11.0)**"
    assert cell(column, OURS) == "5.00 (4.00 … 6.00)"
    lines = table([OURS, "a", "b"], [column])
    assert lines[-2] == "| b | – |"
    assert lines[-1] == "| **steelyard against the best peer** | 0.50× a |"


# --- who takes part --------------------------------------------------------------------------------------------------


def test_engines_are_chosen_by_the_beginning_of_their_names_and_ours_is_always_there():
    assert list(chosen([])) == list(CONTENDERS)
    assert list(chosen(["LLAMA.CPP q4"])) == [OURS, "llama.cpp Q4_1", "llama.cpp Q4_0"]
    with pytest.raises(ValueError, match="'triton'"):
        chosen(["triton"])


def test_every_contender_names_things_that_exist():
    scripts = Path(sys.modules["peerbench"].__file__).parent / "engines"
    servers = {spec.environment for spec in SERVERS.values()} - {None}
    assert {*needed_environments(CONTENDERS), *servers} == set(ENVIRONMENTS)
    assert set(needed_models(CONTENDERS)) == set(MODELS)
    assert {contender.script for contender in CONTENDERS.values()} == {path.name for path in scripts.glob("serve_*")}


def test_a_model_is_made_after_its_source():
    assert needed_models(chosen(["ctranslate2"])) == ["hf-f32", "ctranslate2-int8"]
    assert needed_environments(chosen(["ctranslate2"])) == ["ctranslate2", "transformers"]


# --- setting up ------------------------------------------------------------------------------------------------------


def test_a_failing_command_is_told_in_one_line(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(PeerError, match="code 2: no luck"):
        run([sys.executable, "-c", "import sys; print('no luck'); sys.exit(2)"], log)


def test_a_model_gets_its_name_only_when_it_is_whole(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    monkeypatch.setattr(Cache, "bin", lambda self, environment: Path(sys.executable).parent)
    python = Path(sys.executable).name
    writes = (python, "-c", "import sys; open(sys.argv[1], 'w').write('x'); sys.exit(int(sys.argv[2]))", "{target}")
    cache.model("source").parent.mkdir()
    with pytest.raises(PeerError):
        convert(cache, "made", Recipe(environment="e", command=(*writes, "1"), source="source"))
    assert not cache.model("made").exists()
    convert(cache, "made", Recipe(environment="e", command=(*writes, "0"), source="source"))
    assert cache.model("made").read_text() == "x"


# --- quality ---------------------------------------------------------------------------------------------------------


def test_windows_are_whole_spread_evenly_and_named_by_a_hash():
    texts = [Source("a", "x" * 60), Source("b", "y" * 45)]
    found = windows(texts, lambda text: [ord(c) for c in text], length=10, tokens=25)
    assert [set(window) for window in found.token_ids] == [{ord("x")}, {ord("x")}, {ord("y")}]
    assert {len(window) for window in found.token_ids} == {10}
    assert found.sources == ("a", "b")
    assert found.sha256 != windows(texts[:1], lambda text: [ord(c) for c in text], length=10, tokens=25).sha256
    with pytest.raises(ValueError, match="105 tokens"):
        windows(texts, lambda text: [ord(c) for c in text], length=10, tokens=101)


def test_scores_are_per_token_and_differences_paired(start):
    found = windows([Source("a", "x" * 50)], lambda text: [ord(c) for c in text], length=10, tokens=50)
    scores, failures = score_all(arena_of(start, {"good": None, "refusing": "refuse"}), found)
    assert scores["good"].nll == (2.0,) * 5
    assert scores["good"].perplexity == pytest.approx(7.389, abs=1e-3)
    assert list(failures) == ["refusing"]
    shifted = difference(Score((1.5, 3.5)), Score((1.0, 3.0)))
    assert (shifted.mean, shifted.error) == (0.5, 0.0)
