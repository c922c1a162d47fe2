"""``steelyard batch``: one line out for one line in, in order, resumed or refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from steelyard.serve.batch import offline
from steelyard.serve.batch.types import Answer

LINE = '{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {}}'


def write_input(path, *bodies, url="/v1/completions"):
    lines = [
        {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": body}
        for number, body in enumerate(bodies)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def body(prompt="Once upon a time", **more):
    return {"prompt": prompt, "max_tokens": 4, "ignore_eos": True} | more


@pytest.fixture
def paths(tmp_path):
    return str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")


def test_one_line_out_for_one_line_in(cli, paths, tmp_path):
    write_input(tmp_path / "in.jsonl", *(body(f"{number}, ") for number in range(6)))
    result = cli("batch", *paths, "--json", "--max-num-seqs", "2", "--max-model-len", "256", "--order", "by_prefix")
    assert result.code == 0, result.err
    told = result.json
    assert (told["lines"], told["completed"], told["failed"], told["output_tokens"]) == (6, 6, 0, 24)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in found] == [f"line-{number}" for number in range(6)]
    assert all(line["response"]["body"]["usage"]["completion_tokens"] == 4 for line in found)
    assert {path.name for path in tmp_path.glob("*.jsonl*")} == {"in.jsonl", "out.jsonl"}
    again = cli("batch", *paths)
    assert again.code == 2
    assert "it is there already" in again.err


def test_lines_that_fail_are_told_and_counted(cli, paths, tmp_path):
    write_input(tmp_path / "in.jsonl", body(), body(n=-1), body(model="somebody-else"))
    result = cli("batch", *paths, "--max-model-len", "256")
    assert result.code == 2
    assert "2 of 3 lines came to an error" in result.err
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["response"]["status_code"] for line in found] == [200, 400, 404]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file has no lines"),
        ("{}\n", "line 1: custom_id is missing"),
        (LINE.replace("completions", "models"), "its lines go to '/v1/models'"),
        (f"{LINE}\n" * 3, "line 2: the custom_id 'a'"),
    ],
)
def test_a_wrong_input_is_told_before_a_model_is_loaded(cli, paths, tmp_path, text, told):
    (tmp_path / "in.jsonl").write_text(text)
    result = cli("batch", *paths, "--model", "no-such-model")
    assert result.code == 2
    assert told in result.err
    assert not list(tmp_path.glob("out*")), "nothing is left behind"


def test_there_must_be_an_input(cli, paths):
    assert "there is no such file" in cli("batch", *paths).err


def test_a_job_goes_on_only_with_what_it_was_begun_with(cli, paths, tmp_path):
    write_input(tmp_path / "in.jsonl", body())
    job = offline.FileJob(input=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl")
    offline.open_job(job, "one").close()
    told = cli("batch", *paths, "--model", "two")
    assert told.code == 2
    assert "--model: it was one when this job was begun" in told.err
    write_input(tmp_path / "in.jsonl", body("changed"))
    told = cli("batch", *paths, "--model", "one")
    assert told.code == 2
    assert "the file has changed" in told.err
    assert f"remove {job.state} to begin anew" in told.err


def test_a_job_killed_after_its_output_was_written_ends_in_order(cli, paths, tmp_path):
    write_input(tmp_path / "in.jsonl", body())
    assert cli("batch", *paths, "--max-model-len", "256").code == 0
    before = (tmp_path / "out.jsonl").read_text()
    job = offline.FileJob(input=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl")
    answers = [json.loads(line)["response"] for line in before.splitlines()]
    job.output.rename(tmp_path / "kept")
    store = offline.open_job(job, "smollm2-135m-instruct")
    told = Answer(number=1, status=200, request_id="r", body=json.dumps(answers[0]["body"]))
    assert store.finish("batch_of_file", [told]) == 1
    store.close()
    (tmp_path / "kept").rename(job.output)
    result = cli("batch", *paths, "--max-model-len", "256", "--json")
    assert result.code == 0, result.err
    assert result.json["output_tokens"] == 0, "nothing is computed again"
    assert json.loads(job.output.read_text())["response"]["body"] == answers[0]["body"]
    assert not job.state.exists()


def test_two_at_a_time_are_one_too_many(cli, paths, tmp_path):
    write_input(tmp_path / "in.jsonl", body())
    program = f"from steelyard.serve.batch.store import Store; Store({paths[1] + '.state'!r}); print('open'); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as other:
        assert other.stdout.readline() == b"open\n"
        result = cli("batch", *paths)
        other.kill()
    assert result.code == 1
    assert "another process works with it" in result.err


def test_ctrl_c_leaves_a_job_that_goes_on(start, shell, paths, tmp_path):
    write_input(tmp_path / "in.jsonl", *(body(f"{number}, ", max_tokens=24) for number in range(16)))
    arguments = ("batch", *paths, "--max-num-seqs", "2", "--json")
    child = start(*arguments)
    state = tmp_path / "out.jsonl.state-wal"
    while child.poll() is None and not (state.exists() and state.stat().st_size > 90_000):
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err.decode()
    assert b"Traceback" not in err
    assert not (tmp_path / "out.jsonl").exists()
    result = shell(*arguments)
    assert result.code == 0, result.err
    assert result.json["lines"] == 16
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 16
