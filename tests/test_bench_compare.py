"""benchmarks/compare.py on made-up runs: what moved is found, what did not is not."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parent.parent / "benchmarks" / "compare.py"
PEERS = ("torch", "onnxruntime", "openvino", "jax")


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("compare", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_up_run(rng, peers=PEERS, factors=None, jitter=0.01, n_layers=35):
    """Return a run on a machine of some speed that drifts: {layer: row}.

    Every library's time of a layer differs from run to run by a jitter with heavy tails; samples
    within the run are skewed, and a tenth of them far off.
    """
    rows, speed = {}, math.exp(rng.uniform(0, math.log(2)))
    for index in range(n_layers):
        now = speed * math.exp(rng.normal(0, 0.1))
        gauges = {"gemm": 80 / now * math.exp(rng.normal(0, 0.02)), "peak": 91 / now}
        row = {"layer": f"layer{index}", "flops": 10**6, "gauges": gauges, "excluded": {}}
        row |= {"seconds": {}, "quartiles": {}, "rounds": {}}
        for name in ("fastconv1d", *peers):
            n_rounds = int(rng.choice([5, 20, 50, 100]))
            far = rng.choice([1, 5], n_rounds, p=[0.9, 0.1])
            samples = now * np.exp(np.abs(rng.normal(0, 0.03, n_rounds)) * far)
            samples *= math.exp(jitter * rng.standard_t(4) / math.sqrt(2))
            if name == "fastconv1d":
                samples *= (factors or {}).get(index, 1.0)
            low, median, high = np.quantile(samples, [0.25, 0.5, 0.75])
            row["seconds"][name], row["quartiles"][name] = median, [low, high]
            row["rounds"][name] = n_rounds
        rows[row["layer"]] = row
    return rows


def in_context(rows, versions=None, isa="avx2"):
    versions = versions or dict.fromkeys(("fastconv1d", *PEERS), "1.0")
    return {name: {**row, "versions": versions, "isa": isa} for name, row in rows.items()}


def written(path, rows, versions=None):
    versions = versions or dict.fromkeys(("fastconv1d", *PEERS), "1.0")
    path.write_text(json.dumps({"versions": versions, "isa": "avx2", "rows": list(rows.values())}))
    return str(path)


def beyond(changes):
    return {each.layer for each in changes if abs(each.change) > each.bound}


@pytest.mark.parametrize("seed", range(5))
def test_planted_changes_are_found_and_nothing_else(compare, seed):
    rng = np.random.default_rng(seed)
    before = in_context(made_up_run(rng, jitter=0.003))
    factors = {3: 1.15, 20: 1 / 1.15, 30: 2.0}
    after = in_context(made_up_run(rng, jitter=0.003, factors=factors))
    changes = compare.compare(before, after)
    # the few rounds of some layers leave wide bounds: what is beyond is planted, and 2x always is
    assert {"layer30"} <= beyond(changes) <= {"layer3", "layer20", "layer30"}
    by_name = {each.layer: each for each in changes}
    assert abs(by_name["layer30"].change - math.log(2.0)) < 0.1
    assert abs(by_name["layer3"].change - math.log(1.15)) < 0.1


def test_ten_percent_is_found_where_the_run_is_calm(compare):
    rng = np.random.default_rng(0)
    before, after = (made_up_run(rng, jitter=0.003, factors=f) for f in (None, {7: 1.1}))
    for run in (before, after):
        for row in run.values():
            row["rounds"]["fastconv1d"] = 100
    changes = compare.compare(in_context(before), in_context(after))
    assert [each.layer for each in changes if each.change > each.bound] == ["layer7"]


@pytest.mark.parametrize(("peers", "allowed"), [(PEERS, 4), (("torch",), 4), ((), 4)])
def test_noise_alone_is_seldom_flagged(compare, peers, allowed):
    """60 pairs of runs of 35 layers each: 2,100 unchanged layers."""
    rng = np.random.default_rng(1)
    flagged = 0
    for _ in range(60):
        pair = [in_context(made_up_run(rng, peers)) for _ in range(2)]
        flagged += len(beyond(compare.compare(*pair)))
    assert flagged <= allowed


def test_references(compare):
    rows = made_up_run(np.random.default_rng(0), n_layers=1)
    row = in_context(rows)["layer0"]
    assert compare.references(row, row) == list(PEERS)
    newer = {
        **row,
        "versions": {**row["versions"], "torch": "2.0", "jax": "2.0", "openvino": "2.0"},
    }
    assert compare.references(row, newer) == ["onnxruntime", "gemm"]
    alone = in_context(made_up_run(np.random.default_rng(0), (), n_layers=1))["layer0"]
    assert compare.references(alone, alone) == ["gemm", "peak"]
    assert compare.references(alone, {**alone, "isa": "base"}) == ["gemm"]


def test_the_numbers_of_a_change(compare):
    def row(ours, torch, jax):
        seconds = {"fastconv1d": ours, "torch": torch, "jax": jax}
        quartiles = {name: [value * 0.9, value * 1.1] for name, value in seconds.items()}
        rounds = dict.fromkeys(seconds, 25)
        gauges = {"gemm": 1.0}
        made = {"layer": "a", "flops": 1, "seconds": seconds, "quartiles": quartiles}
        return {"a": {**made, "rounds": rounds, "gauges": gauges, "excluded": {}}}

    (change,) = compare.compare(in_context(row(1.0, 2.0, 4.0)), in_context(row(3.0, 4.0, 8.8)))
    middle = (math.log(2.0) + math.log(2.2)) / 2
    assert math.isclose(change.change, math.log(3.0) - middle)
    error = 1.2533 * 0.2 / 1.349 / 5
    control = 1.4826 * math.log(1.1)
    assert math.isclose(change.bound, 4.0 * math.hypot(control, error, error))


def test_the_command(compare, tmp_path, capsys):
    rng = np.random.default_rng(2)
    before = written(tmp_path / "a.json", made_up_run(rng, jitter=0.003))
    after = written(tmp_path / "b.json", made_up_run(rng, jitter=0.003, factors={4: 3.0, 5: 0.3}))
    assert compare.main([before, after]) == 1
    slower, faster, closing = capsys.readouterr().out.splitlines()
    assert slower.split()[:2] == ["slower", "layer4"]
    assert faster.split()[:2] == ["faster", "layer5"]
    assert closing.startswith("35 layers compared, 2 beyond noise; median bound ")
    assert compare.main([before, before]) == 0
    assert "35 layers compared, 0 beyond noise" in capsys.readouterr().out


def test_reports_are_compared_stage_by_stage(compare, tmp_path):
    versions = dict.fromkeys(("fastconv1d", *PEERS), "1.0")
    rows = list(made_up_run(np.random.default_rng(0), n_layers=2).values())
    stages = {
        "forward": {"versions": versions, "isa": "avx2", "rows": rows},
        "costs": {"costs": {}},
    }
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"stages": stages}))
    assert list(compare.load_rows(path)) == ["forward/layer0", "forward/layer1"]
    assert compare.main([str(path), str(path)]) == 0


def test_what_cannot_be_compared(compare, tmp_path, capsys):
    rows = made_up_run(np.random.default_rng(0), n_layers=2)
    good = written(tmp_path / "good.json", rows)
    old = written(
        tmp_path / "old.json",
        {name: {k: v for k, v in row.items() if k != "quartiles"} for name, row in rows.items()},
    )
    assert compare.main([good, old]) == 2
    assert "has no quartiles" in capsys.readouterr().err
    other = {name: {**row, "flops": 7} for name, row in rows.items()}
    assert compare.main([good, written(tmp_path / "other.json", other)]) == 2
    assert "layer0 is not the same layer in both files" in capsys.readouterr().err
    assert compare.main([good, str(tmp_path / "missing.json")]) == 2
    assert "missing.json cannot be read: " in capsys.readouterr().err
    for content in ("[", "[]", '{"stages": 1}', '{"rows": [{}]}', '{"rows": 1}'):
        (tmp_path / "odd.json").write_text(content)
        assert compare.main([good, str(tmp_path / "odd.json")]) == 2
        assert "odd.json " in capsys.readouterr().err


def test_a_wrong_result_is_worse_than_a_slow_one(compare, tmp_path, capsys):
    rows = made_up_run(np.random.default_rng(0), n_layers=3)
    wrong = {**rows, "layer1": {**rows["layer1"], "excluded": {"fastconv1d": "off by 3"}}}
    wrong["layer1"]["seconds"] = {"torch": 1.0}
    paths = [written(tmp_path / f"{i}.json", each) for i, each in enumerate((rows, wrong))]
    assert compare.main(paths) == 1
    assert "its results were wrong: layer1" in capsys.readouterr().out
