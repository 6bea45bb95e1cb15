"""The benchmark's parts with known numbers, and one run of a small layer."""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastconv1d
from fastconv1d import reference
from fastconv1d.__main__ import main
from fastconv1d.bench import contestants, environment, measure, report, timing
from fastconv1d.bench.layers import load_layers, make_problem, parse_layers, select_layers
from fastconv1d.bench.measure import (
    WrongResultError,
    check,
    expected,
    gemm_rate,
    measure_layer,
    stream_rate,
    tolerances,
)
from fastconv1d.bench.sweeps import KERNEL_SIZES, LENGTHS, subject_layers
from fastconv1d.bench.timing import LoadMeter, Plan, Spread, interleave, plan, spread, takes_part

HEADER = "name,op,n,c_in,c_out,length,kernel,stride,padding,dilation,groups,output_padding,network"
ROWS = [
    HEADER,
    "grouped,conv,2,6,8,20,3,2,1,2,2,0,a test",
    "up,convt,3,4,6,5,4,2,1,1,2,1,a test",
]


def row(layer, ours, **peers):
    seconds = {"fastconv1d": ours, **peers}
    gauges = {"gemm": 100.0, "peak": 200.0}
    return {"layer": layer, "flops": 1e9, "seconds": seconds, "gauges": gauges, "excluded": {}}


def test_parse_layers():
    grouped, up = parse_layers(ROWS)
    assert (grouped.name, grouped.transposed, grouped.l_out) == ("grouped", False, 9)
    assert grouped.weight_shape == (8, 3, 3)
    assert grouped.flops(np.float32) == 2 * 2 * 8 * 9 * 3 * 3
    assert (up.name, up.transposed, up.l_out) == ("up", True, 2 * 4 - 2 + 3 + 1 + 1)
    assert up.weight_shape == (4, 3, 4)
    assert up.flops(np.float64) == 2 * 3 * 4 * 5 * 3 * 4
    assert up.flops(np.complex64) == 4 * up.flops(np.float32)
    assert up.flops(np.float32, backward=True) == 2 * up.flops(np.float32)
    assert grouped.n_elements == 2 * (6 * 20 + 8 * 9) + 8 * 3 * 3 + 8
    assert up.n_elements == 3 * (4 * 5 + 6 * 11) + 4 * 3 * 4 + 6


def test_parse_layers_names_a_bad_op():
    with pytest.raises(ValueError, match="got 'pool' for grouped"):
        parse_layers([HEADER, ROWS[1].replace("conv", "pool")])


def test_the_shipped_layers():
    layers = load_layers()
    assert len(layers) == 35
    assert len({layer.name for layer in layers}) == 35
    mflop = {layer.name: round(layer.flops(np.float32) / 1e6, 1) for layer in layers}
    assert mflop["w2v_l1"] == 12581.3
    assert mflop["mamba_dw4"] == 33.6
    assert mflop["hifi_up1_t"] == 838.9
    assert all(layer.l_out > 0 for layer in layers)


def test_select_layers():
    layers = load_layers()
    names = [layer.name for layer in select_layers(layers, "hifi_up?_t, tiny")]
    assert names == ["tiny", "hifi_up1_t", "hifi_up2_t", "hifi_up3_t"]
    assert select_layers(layers, "*") == layers
    assert select_layers(layers, "nothing*") == []


def test_subject_layers():
    lengths = subject_layers("length", "*", quick=False)
    assert [layer.l_in for layer in lengths] == [layer.l_out for layer in lengths] == list(LENGTHS)
    assert LENGTHS[0] == 10**3
    assert LENGTHS[-1] == 10**7
    kernels = subject_layers("kernel", "depthwise*", quick=False)
    assert [layer.kernel_size for layer in kernels] == list(KERNEL_SIZES)
    assert {layer.groups for layer in kernels} == {128}
    threaded = [layer.name for layer in subject_layers("threads", "*", quick=True)]
    assert threaded == ["stream_small", "tiny"]
    assert subject_layers("layers", "*", quick=True) == load_layers()


def test_spread():
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0, 1)


def test_plan():
    assert plan(3e-6, budget=0.25) == Plan(n_calls=667, n_rounds=100)
    assert plan(4e-3, budget=0.2) == Plan(n_calls=1, n_rounds=50)
    assert plan(0.2, budget=0.2) == Plan(n_calls=1, n_rounds=5)
    assert plan(5.0, budget=0.2) == Plan(n_calls=1, n_rounds=3)


@pytest.mark.parametrize(("n_rounds", "n_total"), [(1, 1), (3, 100), (5, 7), (100, 100)])
def test_takes_part_as_often_as_planned(n_rounds, n_total):
    assert sum(takes_part(index, n_rounds, n_total) for index in range(n_total)) == n_rounds


def test_interleave_calls_everyone_and_takes_medians():
    calls = {"one": 0, "two": 0}

    def call(name):
        calls[name] += 1

    readings = iter([5.0, 1.0, 3.0, 2.0, 4.0])
    seconds, gauges = interleave(
        {"one": lambda: call("one"), "two": lambda: call("two")},
        budget=0.01,
        gauges={"rate": lambda: next(readings)},
    )
    assert gauges == {"rate": Spread(3.0, 2.0, 4.0, 5)}
    assert all(0 < seconds[name].median < 1e-3 and calls[name] > 10 for name in calls)
    assert all(each.low <= each.median <= each.high for each in seconds.values())
    assert all(each.count >= 5 for each in seconds.values())


def test_interleave_orders_a_slow_and_a_fast_call():
    seconds, _ = interleave({"sum": lambda: sum(range(20000)), "none": lambda: None}, budget=0.02)
    assert seconds["sum"].median > 10 * seconds["none"].median


def meter_of(*rates):
    return LoadMeter(iter(rates).__next__)


def test_a_meter_of_other_work():
    meter = meter_of(10, 8.1, 7.9, 12, 9.7, 9.5)
    assert [meter.is_quiet() for _ in range(6)] == [True, True, False, True, True, False]
    assert (meter.n_readings, meter.n_slow, meter.best) == (6, 2, 12)
    assert "in 2 of 6 readings" in meter.warning()
    quiet = meter_of(*[10] * 40, 1, *[10] * 40)
    assert all([quiet.wait() for _ in range(80)])
    assert quiet.n_slow == 1
    assert quiet.warning() is None
    never = meter_of(10, *[1] * 6)
    assert [never.wait(), never.wait(), never.n_readings] == [True, False, 6]


class MadeUpMeter:
    """A meter that finds other work after the rounds of these numbers."""

    def __init__(self, busy):
        self.busy, self.outcomes = busy, []
        self.interrupted = lambda: 0

    def wait(self):
        return True

    def is_quiet(self):
        self.outcomes.append(len(self.outcomes) not in self.busy)
        return self.outcomes[-1]


def test_rounds_beside_other_work_do_not_count():
    meter, readings = MadeUpMeter((1, 3)), iter(range(100))
    times, gauges = interleave(
        {"call": lambda: None}, 0.0, {"rate": lambda: next(readings)}, meter=meter
    )
    assert meter.outcomes == [True, False, True, False, True]
    assert times["call"].count == 3
    assert gauges["rate"] == Spread(2, 1, 3, 3)  # of 0, 2 and 4
    all_busy = MadeUpMeter(range(5))
    _, gauges = interleave(
        {"call": lambda: None}, 0.0, {"rate": lambda: next(readings)}, meter=all_busy
    )
    assert gauges["rate"] == Spread(7, 6, 8, 5)  # of 5 to 9: there are no others


def test_samples_that_were_interrupted_do_not_count(monkeypatch):
    """Beside a count that grows within the first two of six samples."""
    meter = MadeUpMeter(())
    meter.interrupted = iter([0, 1, 1, 2, *[2] * 100]).__next__
    times = iter([9.0, 8.0, 3.0, 4.0, 5.0, 6.0])
    monkeypatch.setattr(timing, "calibrate", lambda call, budget: Plan(1, 6))
    monkeypatch.setattr(timing, "sample", lambda call, n_calls: next(times))
    found, _ = interleave({"call": lambda: None}, meter=meter)
    assert found["call"] == Spread(4.5, 3.75, 5.25, 4)
    assert timing.interruptions() >= 0


def test_the_meter_of_this_machine():
    meter = measure.load_meter()
    assert 0 < meter.best < 1e9
    for _ in range(3):
        meter.is_quiet()
    assert meter.n_readings == 3


def test_busy_machines_are_told(monkeypatch, capsys, tmp_path):
    rates = itertools.cycle((1.0, 10.0))
    monkeypatch.setattr(measure, "load_meter", lambda: LoadMeter(lambda: next(rates)))
    monkeypatch.setattr("fastconv1d.demo.load_meter", measure.load_meter)
    monkeypatch.setenv("FASTCONV1D_BENCH_CHILD", "1")
    target = tmp_path / "f.json"
    options = ["--quick", "--layers", "tiny", "--peers=", "--json", str(target)]
    for arguments in (["bench", *options], ["demo"]):
        assert main(arguments) == 0
        assert "BUSY: in " in capsys.readouterr().out
    assert json.loads(target.read_text())["busy"] > 0.05


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="python -m of 3.10 looks into the current folder in any case"
)
def test_children_run_the_same_package(tmp_path, monkeypatch):
    """Not one in the current folder, such as a clone beside which the package is installed."""
    (tmp_path / "fastconv1d").mkdir()
    (tmp_path / "fastconv1d" / "__init__.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    package = Path(fastconv1d.__file__).parents[1]
    code = f"import sys; sys.path[:0] = [{str(package)!r}]; from fastconv1d.__main__ import main; "
    options = ["bench", "--quick", "--layers", "tiny", "--peers="]
    done = subprocess.run(
        [sys.executable, "-c", code + f"sys.exit(main({options}))"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_help_of_make_signal_writes_nothing(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks" / "make_signal.py"
    shipped = Path(fastconv1d.__file__).parent / "data" / "signal.wav"
    before = shipped.stat().st_mtime_ns
    subprocess.run([sys.executable, script, "--help"], check=True, stdout=subprocess.DEVNULL)
    target = tmp_path / "signal.wav"
    subprocess.run([sys.executable, script, target], check=True, stdout=subprocess.DEVNULL)
    assert target.read_bytes() == shipped.read_bytes()
    assert shipped.stat().st_mtime_ns == before


def test_geomean():
    assert math.isclose(report.geomean([2.0, 8.0]), 4.0)
    assert math.isclose(report.geomean([1.5]), 1.5)


def test_ratios():
    rows = [row("a", 1.0, torch=2.0, openvino=0.5), row("b", 2.0, torch=16.0), row("c", 1.0)]
    assert report.ratios(rows, "torch") == {"a": 2.0, "b": 8.0}
    assert report.ratios(rows) == {"a": 0.5, "b": 8.0}
    assert [report.best_peer(each) for each in rows] == ["openvino", "torch", None]


def test_summary():
    rows = [row("a", 1.0, torch=2.0, openvino=0.5), row("b", 2.0, torch=16.0)]
    rows[1]["excluded"] = {"openvino": "no float64"}
    assert report.summary(rows).splitlines() == [
        "SciPy's BLAS gemm in this run: 100.0 GFLOP/s (100.0 to 100.0)",
        "an FMA loop in this run: 200.0 GFLOP/s (200.0 to 200.0)",
        "to torch: geomean 4.000, min 2.000 (a), below 1.0: 0",
        "to the best peer of each layer: geomean 2.000, min 0.500 (a), below 1.0: 1 (a 0.500)",
        "excluded openvino on b: no float64",
    ]


def test_table():
    header, line = report.table([row("a", 0.02, torch=0.03, openvino=0.01)]).splitlines()
    assert header.split("  ")[0].strip() == "layer"
    cells = ["a", "1000.0", "20000.0", "50.0", "50%", "25%", "30000.0", "1.50"]
    assert line.split() == [*cells, "openvino", "10000.0", "0.50"]


def test_table_of_a_layer_without_results():
    empty = {"layer": "a", "flops": 1e6, "seconds": {}, "gauges": {}, "excluded": {}}
    assert report.table([empty]).splitlines()[1].split() == ["a", "1.0", *"-" * 9]
    assert "nothing to compare with" in report.summary([empty])


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("n_columns", [1, 3, 8, 9, 1 << 17])
def test_the_crop_is_part_of_the_whole(index, dtype, n_columns, monkeypatch):
    monkeypatch.setattr(measure, "REFERENCE_COLUMNS", n_columns)
    problem = make_problem(parse_layers(ROWS)[index], dtype)
    layer = problem.layer
    function = reference.conv_transpose1d if layer.transposed else reference.conv1d
    arrays = (problem.x, problem.weight, problem.bias)
    whole = function(*arrays, groups=layer.groups, **layer.window)
    truths, limits = expected(problem, backward=False), tolerances(problem, backward=False)
    assert truths[0][1].size > 0
    check([whole], truths, limits)
    assert truths[0][1].shape[2] == (layer.l_out if layer.transposed else min(n_columns, 9))
    whole[-1, -1, -1] += 1e-2
    with pytest.raises(WrongResultError, match=r"off by 0\.0"):
        check([whole], truths, limits)


def test_check_rejects_nan_and_shapes():
    with pytest.raises(WrongResultError, match="off by nan"):
        check([np.array([np.nan])], [((), np.array([1.0]))], [1.0])
    with pytest.raises(WrongResultError, match=r"shape \(2,\) instead of \(3,\)"):
        check([np.ones(2)], [((), np.ones(3))], [1.0])


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("index", [0, 1])
def test_measure_layer_leaves_out_who_is_wrong(index, backward):
    class Wrong(contestants.Fastconv1d):
        name = "wrong"

        def arrays(self, result):
            return tuple(1.01 * each for each in super().arrays(result))

    args = argparse.Namespace(dtype="float32", backward=backward, threads=1, quick=True)
    fields = [contestants.Fastconv1d(), Wrong()]
    measured = measure_layer(parse_layers(ROWS)[index], fields, {"gemm": lambda: 1.5}, args)
    assert set(measured["seconds"]) == {"fastconv1d"}
    assert measured["excluded"]["wrong"].startswith("WrongResultError: off by")
    assert measured["gauges"] == {"gemm": 1.5}
    layer = parse_layers(ROWS)[index]
    assert measured["bytes"] == 4 * layer.n_elements
    assert measured["sizes"]["l_out"] == layer.l_out
    low, high = measured["quartiles"]["fastconv1d"]
    assert low <= measured["seconds"]["fastconv1d"] <= high
    assert measured["rounds"]["fastconv1d"] >= 5


def test_the_machine_rates_are_possible():
    assert 0.01 < gemm_rate("float32")() < 1e4
    assert 0.01 < stream_rate() < 1e4


def test_child_environment(monkeypatch):
    monkeypatch.setenv("KEPT", "yes")
    plain = environment.child_environment(3, None)
    assert plain["KEPT"] == "yes"
    assert plain["OMP_NUM_THREADS"] == plain["FASTCONV1D_NUM_THREADS"] == "3"
    assert plain["NPROC"] == "3"
    lowered = environment.child_environment(1, "avx2")
    assert lowered["FASTCONV1D_ISA"] == lowered["ATEN_CPU_CAPABILITY"] == "avx2"
    assert lowered["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert lowered["XLA_FLAGS"] == "--xla_cpu_max_isa=AVX2"


def test_bench_runs_a_small_layer(tmp_path):
    target = tmp_path / "rows.json"
    command = [sys.executable, "-m", "fastconv1d", "bench", "--layers", "tiny", "--peers", ""]
    done = subprocess.run(
        [*command, "--json", str(target)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "to torch: nothing to compare with" in done.stdout
    written = json.loads(target.read_text())
    assert [each["layer"] for each in written["rows"]] == ["tiny"]
    assert 0 < written["rows"][0]["seconds"]["fastconv1d"] < 0.1
    if hasattr(os, "sched_getaffinity"):
        core = max(os.sched_getaffinity(0))
        assert f"on core(s) {core}," in written["about"][1]


def test_jax_computes_the_layers(tmp_path):
    pytest.importorskip("jax")
    target = tmp_path / "rows.json"
    command = [sys.executable, "-m", "fastconv1d", "bench", "--quick", "--peers", "jax"]
    names = "seed_doc,tiny,dw_up_t,hifi_up1_t"
    done = subprocess.run(
        [*command, "--layers", names, "--json", str(target)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(target.read_text())["rows"]
    assert [row["excluded"] for row in rows] == [{}] * 4  # each output was checked
    assert all(row["seconds"]["jax"] > 0 for row in rows)


@pytest.mark.parametrize("name", ["fastconv1d", "torch", "onnxruntime", "openvino"])
def test_any_length(name):
    """In a process of its own: the libraries keep pools, and handlers of forks."""
    pytest.importorskip(name)
    if name in ("onnxruntime", "openvino"):
        pytest.importorskip("onnx")
    script = """
import argparse, sys
from contextlib import ExitStack
import numpy as np
from fastconv1d import reference
from fastconv1d.bench import contestants
from fastconv1d.bench.layers import load_layers, make_problem, select_layers
args = argparse.Namespace(threads=1, algorithm="auto")
problem = make_problem(select_layers(load_layers(), "stream_small")[0], "float32")
with ExitStack() as stack:
    library = contestants.make(sys.argv[1], args, stack)
    call = library.any_length(problem)
    for length in (64, 9, 31):
        x = problem.x[:, :, :length].copy()
        (y,) = library.arrays(call(x))
        expected = reference.conv1d(x, problem.weight, problem.bias)
        assert y.shape == expected.shape and abs(y - expected).max() < 1e-3
"""
    done = subprocess.run(
        [sys.executable, "-c", script, name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
