"""``bench --sweep`` and ``--layers FILE.csv``: layers drawn at random, and lost ones."""

import json
import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastconv1d.__main__ import main
from fastconv1d.bench import drawn
from fastconv1d.bench.drawn import CAUSES, cause, clusters, described, told
from fastconv1d.bench.layers import load_layers, read_layers, select_layers

HARD = Path(__file__).parents[1] / "benchmarks" / "layers_hard.csv"
[TINY] = select_layers(load_layers(), "tiny")


def test_layers_of_a_seed():
    layers = drawn.random_layers(0, 300)
    assert drawn.random_layers(0, 40) == layers[:40]
    assert drawn.random_layers(1, 40) != layers[:40]
    assert len({layer.name for layer in layers}) == 300
    assert all(layer.l_out >= 1 for layer in layers)
    assert all(layer.c_in % layer.groups == layer.c_out % layer.groups == 0 for layer in layers)
    assert all(2e4 <= layer.flops(np.float32) <= 2e9 for layer in layers)
    kinds = Counter((layer.transposed, layer.groups > 1) for layer in layers)
    assert min(kinds.values()) > 10 and len(kinds) == 4
    assert len({cause(layer) for layer in layers}) >= len(CAUSES) - 2


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ({"n_batch": 512, "l_in": 1, "kernel_size": 1, "padding": 0}, "one position"),
        ({"l_in": 17, "kernel_size": 8, "dilation": 8, "padding": 28}, "taps on padding alone"),
        ({"c_in": 64, "c_out": 128, "groups": 64, "l_in": 8}, "depthwise, short"),
        ({"c_in": 64, "c_out": 64, "groups": 64, "l_in": 800}, "depthwise"),
        ({"n_batch": 512, "l_in": 4}, "many short items"),
        ({"l_in": 6}, "few columns"),
        ({"c_in": 1000, "c_out": 1000, "kernel_size": 7, "padding": 3}, "large weights"),
        ({"transposed": True, "stride": 5, "kernel_size": 5}, "transposed, odd stride"),
        ({"c_out": 512, "l_in": 16384}, "large output"),
        ({"c_in": 1, "l_in": 4000}, "few channels"),
        ({"l_in": 4096}, "length a power of two"),
        ({"l_in": 4097}, "the rest"),
    ],
)
def test_causes(sizes, name):
    assert cause(replace(TINY, **sizes)) == name


def row(layer, **seconds):
    sizes = {**vars(layer), "l_out": layer.l_out}
    return {"layer": layer.name, "sizes": sizes, "seconds": seconds}


def test_clusters_of_losers():
    few, rest = replace(TINY, name="few", l_in=6), replace(TINY, name="rest", l_in=4097)
    rows = [
        row(few, fastconv1d=2.0, torch=1.0, openvino=4.0),
        row(few, fastconv1d=1.0, torch=8.0),
        row(rest, fastconv1d=1.0, torch=0.96),
        row(rest, fastconv1d=1.0),
    ]
    first, second = clusters(rows)
    assert (first.cause, first.count) == ("few columns", 2)
    assert math.isclose(first.geomean, 2.0)
    assert [(ratio, peer) for ratio, peer, _ in first.losers] == [(0.5, "torch")]
    assert (second.cause, second.count, second.losers) == ("the rest", 1, [])
    assert told(rows).splitlines() == [
        "few columns: 1 of 2 lost, geomean to the best peer 2.00",
        "  0.50 of torch: few N1 8 -> 8 K3 p1 L6",
        "the rest: 1 layers, geomean to the best peer 0.96",
    ]
    strided = replace(few, transposed=True, stride=2, dilation=3, groups=4, padding=0)
    assert described(strided) == "N1 8 -> 8 K3 s2 d3 g4 L6 transposed"


@pytest.mark.parametrize("options", [(), ("--backward",)])
def test_a_sweep(options, tmp_path):
    target = tmp_path / "f.json"
    command = [sys.executable, "-m", "fastconv1d", "bench", "--quick", "--sweep", "3"]
    command += ["--count", "4", "--peers=", "--json", str(target), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(target.read_text())["rows"]
    assert [each["layer"] for each in rows] == ["s3_000", "s3_001", "s3_002", "s3_003"]
    assert [each["excluded"] for each in rows] == [{}] * 4
    assert [drawn.layer_of(each) for each in rows] == drawn.random_layers(3, 4)


def test_layers_that_were_lost(tmp_path):
    layers = read_layers(str(HARD))
    assert len({layer.name for layer in layers}) == len(layers) >= 31
    assert all(layer.l_out >= 1 for layer in layers)
    lines = HARD.read_text().splitlines()
    few = tmp_path / "few.csv"
    few.write_text("\n".join([lines[0], *(each for each in lines if each.startswith("cols_"))]))
    command = [sys.executable, "-m", "fastconv1d", "bench", "--quick", "--peers="]
    done = subprocess.run(
        [*command, "--layers", str(few)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "\ncols_6 " in done.stdout and "\ncols_8 " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--layers", "no.csv"], "--layers no.csv: No such file or directory"),
        (["--layers", "{bad}"], "has no column 'op', as layers.csv has"),
        (["--layers", "{empty}"], "holds no layers"),
        (["--sweep", "0", "--subject", "length"], "--sweep draws its own layers"),
        (["--sweep", "0", "--layers", "tiny"], "--sweep draws its own layers"),
        (["--sweep", "0", "--count", "0"], "no layer matches '*'"),
    ],
)
def test_sweeps_of_nothing(arguments, reason, tmp_path, capsys):
    bad, empty = tmp_path / "bad.csv", tmp_path / "empty.csv"
    bad.write_text("a,b\n1,2\n")
    empty.write_text("")
    assert main(["bench", *(each.format(bad=bad, empty=empty) for each in arguments)]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "9" * 10, ""])
def test_seeds(value, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--sweep", value])
    assert "expected an integer below 10^9" in capsys.readouterr().err
