"""S12 on made-up runs in GPPerf's form: the table stands, the predictor is left behind and can be used."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from steelyard.core.errors import InputError
from steelyard.cost.learned.gemm import Gemm, load_gemm_predictor
from steelyard.cost.learned.gpperf import CUTLASS_FILE, GemmRun
from steelyard.cost.learned.step import LearnedStepModel
from steelyard.cost.roofline import ModelShape, StepShape
from steelyard.reproduce.options import ReproduceOptions
from steelyard.reproduce.s12 import asked_tile_share, reproduce, rtx_4070, tabulate

GPU = rtx_4070()
TRUE_SLOWDOWN = 1.7
BOARD = "NVIDIA GeForce RTX 4070, 8.9, 1 MHz, 1 MHz, 1 W, 47, Default, 1 MiB, 1 MiB, 1 MiB, 100 %, 0 %"


def results_file(directory: Path) -> Path:
    """Write runs whose products all take 1.7 times their bound, with a little noise, and draw power by their size."""
    rng, lines = np.random.default_rng(0), []
    for number in range(240):
        m, n, k = (int(size) for size in rng.choice([512, 1024, 2048], size=3))
        gemm = Gemm(m=m, n=n, k=k)
        milliseconds = 1e3 * TRUE_SLOWDOWN * GPU.bound_s(gemm) * rng.uniform(0.99, 1.01)
        watts = 40 + 30 * np.log2(m / 256) if number % 2 else "[N/A]"
        lines.append(
            f"{1731372000 + number},{m},{n},{k},cutlass_simt_sgemm_128x128_8x2_nn_align1,nn,64,64,32,2,linear,1,0,"
            f"{milliseconds},,{watts},2760,10251,47,99,0,{BOARD},kernel_name,cutlass_simt_sgemm_128x128_8x2_nn_align1"
        )
    (directory / CUTLASS_FILE).write_bytes(gzip.compress("\n".join(lines).encode()))
    return directory


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    data, out = results_file(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("out")
    return reproduce(ReproduceOptions(model="none", out_dir=out, data_dir=data, quick=True)), out


def test_the_table_holds_out_rows_and_sizes_beside_baselines(done):
    setups = [row.setup for row in done[0].rows]
    for name in ("random forest", "boosted trees", "ridge"):
        for way in ("rows", "sizes"):
            assert f"run time, {name}, {way} held out" in setups
            assert f"power, {name}, {way} held out" in setups
    assert "run time, roofline, nothing learned" in setups
    assert all(row.ratio > 5 for row in done[0].rows if row.ratio is not None)  # 70 % off against 1 %


def test_the_predictor_left_behind_is_a_source_of_costs(done):
    predictor = load_gemm_predictor(done[1], GPU)
    asked = predictor.predict(1024, 2048, 512)
    assert asked.seconds == pytest.approx(TRUE_SLOWDOWN * GPU.bound_s(Gemm(m=1024, n=2048, k=512)), rel=0.02)
    assert asked.watts == pytest.approx(100, rel=0.1)
    model = ModelShape(
        num_layer_params=4 * 512 * (512 * 4 + 3 * 1024), hidden_size=512, vocab_size=2048, num_heads=8, num_kv_heads=8,
        head_dim=64, windows=(None,) * 4, feed_forward_size=1024,
    )  # fmt: skip
    found = LearnedStepModel(model, predictor).estimate(StepShape.of((1024, 1024)))
    products = [(1536, 512), (512, 512), (2048, 512), (512, 1024)]
    linear = sum(4 * predictor.predict(1024, n, k).seconds for n, k in products)
    assert linear < found.seconds < 1.5 * linear
    assert found.watts is not None


def test_an_asked_tile_that_changes_nothing_explains_nothing():
    runs = [
        GemmRun(gemm=Gemm(m=m, n=64, k=64), asked_tile=(tile, tile, 32), seconds=seconds, watts=None, utilisation=0.0)
        for m in (64, 128)
        for tile in (64, 128)
        for seconds in (1.0, 2.0)
    ]
    assert asked_tile_share(tuple(runs), tabulate(tuple(runs), GPU)) == pytest.approx(0)
    slower = tuple(replace(run, seconds=run.seconds * run.asked_tile[0]) for run in runs)
    assert asked_tile_share(slower, tabulate(slower, GPU)) == pytest.approx(0.5)


def test_without_data_it_says_where_they_are():
    with pytest.raises(InputError, match="GPPerf"):
        reproduce(ReproduceOptions(model="none"))
