"""Steps from LLMServingSim's measured operators: sums over layers, and what is filled in between."""

import pytest

from steelyard.core.errors import InputError, StorageError
from steelyard.cost.llmservingsim import SHIPPED, read_steps, shipped_steps
from steelyard.cost.roofline import StepShape


@pytest.fixture
def folder(tmp_path):
    """A profile of two points per axis: attention takes chunk + history + decodes x context microseconds."""
    (tmp_path / "dense.csv").write_text("layer,tokens,time_us\nembedding,1,1\nlayernorm,1,2\nqkv_proj,1,4\n")
    (tmp_path / "per_sequence.csv").write_text("layer,sequences,time_us\nlm_head,1,10\nsampler,1,20\n")
    rows = ["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"]
    for n in (1, 2, 4):
        rows += [f"0,0,{n},{kv},{n * kv}" for kv in (16, 32)]
    for chunk in (16, 32):
        for history in (0, 16):
            rows.append(f"{chunk},{history},0,0,{chunk + history}")
            rows += [f"{chunk},{history},{n},{kv},{chunk + history + n * kv}" for n in (1, 2) for kv in (16, 32)]
    rows.append("24,0,0,0,999")  # of a second grid, with holes
    (tmp_path / "attention.csv").write_text("\n".join(rows))
    return tmp_path


def micro(steps, *pairs):
    return steps.estimate(StepShape.of(*pairs)).seconds * 1e6


def test_layers_count_as_often_as_they_run(folder):
    steps = read_steps(folder, num_layers=3)
    assert micro(steps, (1, 16)) == pytest.approx(1 + 3 * (2 * 2 + 4) + 30 + 3 * 16)


def test_decodes_count_with_their_mean_context_moved_by_the_skew(folder):
    alike, skewed = read_steps(folder, 1), read_steps(folder, 1, skew=0.5)
    assert micro(alike, (1, 16), (1, 32)) - micro(alike, (1, 24), (1, 24)) == pytest.approx(0)
    assert micro(skewed, (1, 16), (1, 32)) - micro(alike, (1, 24), (1, 24)) == pytest.approx(2 * 4)
    assert micro(skewed, (1, 24), (1, 24)) == pytest.approx(micro(alike, (1, 24), (1, 24)))


def test_prompts_and_decodes_of_one_step_are_looked_up_together(folder):
    steps = read_steps(folder, 1)
    fixed = micro(steps, (1, 16)) - 16
    assert micro(steps, (16, 32), (1, 16)) == pytest.approx(fixed + 16 + 16 + 16)
    assert micro(steps, (24, 24)) == pytest.approx(fixed + 24)  # between 16 and 32, whatever a second grid says
    least = 16
    assert micro(steps, (16, 16), (32, 32)) == pytest.approx(fixed + 32 + (16 - least))


def test_a_step_without_sequences_takes_nothing(folder):
    assert read_steps(folder, 1).estimate(StepShape(())).seconds == 0


def test_other_clocks_were_not_measured(folder):
    with pytest.raises(InputError, match="not measured"):
        read_steps(folder, 1).estimate(StepShape.of((1, 16)), clock_share=0.5)


def test_a_missing_table_is_named(folder):
    (folder / "per_sequence.csv").unlink()
    with pytest.raises(StorageError, match=r"per_sequence\.csv"):
        read_steps(folder, 1)


def test_a_table_with_holes_is_refused(folder):
    text = (folder / "attention.csv").read_text()
    (folder / "attention.csv").write_text(
        text.replace("32,16,2,32,112", "32,16,2,32,112".replace("32,16,2", "32,64,2"))
    )
    with pytest.raises(InputError, match="no value"):
        read_steps(folder, 1)


@pytest.mark.parametrize("device", SHIPPED)
def test_shipped_profiles_are_whole_and_about_as_good_as_they_say(device):
    steps = shipped_steps(device)
    assert set(steps.errors()) == {"dense", "per_sequence", "decodes", "mixed"}
    assert all(error.median < 0.03 for error in steps.errors().values())
    assert 8e-3 < steps.estimate(StepShape.of((1, 512))).seconds < 30e-3
    assert steps is shipped_steps(device.upper())


def test_a_device_that_was_not_measured_is_told_with_those_near():
    with pytest.raises(InputError) as caught:
        shipped_steps("rtx-409")
    assert caught.value.remedy == "Did you mean rtx-4090"
