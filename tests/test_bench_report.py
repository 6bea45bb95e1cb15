"""bench --report: pages and plots of made-up figures, and one quick run of it all."""

import argparse
import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fastconv1d.bench import costs, pages, stages
from fastconv1d.bench.drawn import random_layers
from fastconv1d.bench.layers import load_layers, select_layers
from fastconv1d.bench.sweeps import subject_layers
from fastconv1d.bench.timing import Spread

PLOTS = (
    *("ratios", "roofline", "length", "kernel", "threads", "costs", "memory"),
    *("sweep", "sweep_backward"),
)
NAMES = ("fastconv1d", "torch", "onnxruntime", "openvino", "jax")


def made_up_row(layer, factors):
    ours = layer.flops("float32") / 50e9
    seconds = {name: ours * factor for name, factor in zip(NAMES, factors, strict=False)}
    return {
        "layer": layer.name,
        "sizes": {**asdict(layer), "l_out": layer.l_out},
        "flops": layer.flops("float32"),
        "bytes": 4 * layer.n_elements,
        "seconds": seconds,
        "quartiles": {name: [0.9 * value, 1.2 * value] for name, value in seconds.items()},
        "rounds": dict.fromkeys(seconds, 10),
        "gauges": {"gemm": 80.0, "peak": 100.0},
        "excluded": {},
    }


def made_up_stage(layers, factors=(1, 2, 1.5, 0.5, 8)):
    rows = [made_up_row(layer, factors) for layer in layers]
    about = ["machine  a machine", "versions of everything"]
    stage = {"command": "python -m fastconv1d bench", "seconds": 60.0, "status": 0}
    return {**stage, "about": about, "stream": [20.0, 25.0], "rows": rows}


def made_up_cost(scale):
    start = {"import_seconds": 0.1, "first_seconds": 0.01, "further_seconds": 0.002}
    return {
        "starts": [{k: v * scale * f for k, v in start.items()} for f in (1.0, 2.0, 3.0)],
        "new_lengths": {"new": [3.0 * scale, 4.0 * scale, 5.0 * scale], "repeated": [1.0] * 3},
        "memory_growth": {"calls": [0.0, 1000.0, 2000.0], "megabytes": [0.0, scale, 3.5 * scale]},
        "megabytes": {"own": 10.0 * scale, "with_requirements": 20.0 * scale},
        "errors": {},
        "version": "1",
    }


@pytest.fixture(scope="module")
def report():
    layers = load_layers()
    measured = {
        "forward": made_up_stage(layers),
        "backward": made_up_stage(layers, (1, 2)),
        "sweep": made_up_stage(random_layers(0, 30), (1, 2, 0.9, 1.5)),
        "sweep_backward": made_up_stage(random_layers(1, 10), (1, 2)),
        "length": made_up_stage(subject_layers("length", "*", quick=False)),
        "kernel": made_up_stage(subject_layers("kernel", "*", quick=False)),
        "threads_1": made_up_stage(subject_layers("threads", "*", quick=False)),
        "threads_2": made_up_stage(subject_layers("threads", "*", quick=False)),
    }
    each = {name: made_up_cost(scale) for scale, name in enumerate(NAMES, 1)}
    each["jax"]["errors"] = {"new_lengths": "ValueError: not so"}
    measured["costs"] = {**measured["length"], "costs": each}
    measured["forward"]["rows"][4]["seconds"].pop("openvino")
    measured["forward"]["rows"][4]["excluded"] = {"openvino": "TypeError: computes it otherwise"}
    return {"seconds": 1.0, "stages": measured}


@pytest.fixture(scope="module")
def folder(report, tmp_path_factory):
    pytest.importorskip("matplotlib")
    from fastconv1d.bench.document import write_report

    folder = tmp_path_factory.mktemp("report")
    write_report(report, folder)
    return folder


def tables(markdown):
    """Return {header: {first cell: {column: other cell}}} of a page's tables."""
    found = {}
    for block in markdown.split("\n\n"):
        if block.startswith("| "):
            header, _, *lines = [line.strip("| ").split(" | ") for line in block.splitlines()]
            rows = {cells[0]: dict(zip(header[1:], cells[1:], strict=True)) for cells in lines}
            found.setdefault(" | ".join(header), rows)
    return found


def check_files(folder, markdown):
    """Assert that plots are XML, that the page is, and that what both link to exists."""
    for path in folder.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    page = ElementTree.fromstring((folder / "report.html").read_text(encoding="utf-8"))
    linked = re.findall(r"!\[[^]]+\]\(([^)]+)\)", markdown)
    assert linked == [image.get("src") for image in page.iter("img")]
    assert set(linked) == {path.name for path in folder.glob("*.svg")}
    return page


def test_the_pages_hold_every_layer(folder):
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    page = check_files(folder, markdown)
    assert {path.stem for path in folder.glob("*.svg")} == set(PLOTS)
    names = [layer.name for layer in load_layers()]
    ratios, *_ = [rows for title, rows in tables(markdown).items() if title.startswith("layer | ")]
    assert list(ratios) == names
    assert ratios["w2v_l1"] == {
        "MFLOP": "12581",
        "GFLOP/s": "50.0",
        "of peak": "50%",
        "vs torch": "2.00",
        "vs onnxruntime": "1.50",
        "vs openvino": "0.50",
        "vs jax": "8.00",
    }
    assert ratios[names[4]]["vs openvino"] == "-"
    cells = [[cell.text for cell in line] for line in page.iter("tr")]
    assert [line[0] for line in cells if line[1] == "12581"] == ["w2v_l1"] * 2  # and gradients
    assert len([line for line in cells if line[0] == "w2v_l1"]) == 5  # and its sizes


def test_random_layers_that_were_lost(folder):
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    chapter = markdown.partition("## Random layers")[2].partition("## Gradients of random")[0]
    assert "30 of 30 here" in chapter
    found = tables(chapter)
    lost = found["lost layer | sizes | class | to | ratio"]
    assert set(lost) == {layer.name for layer in random_layers(0, 30)}
    assert {row["ratio"] for row in lost.values()} == {"0.90"}
    classes = found["class | layers | lost | geomean to the best peer"]
    assert sum(int(row["lost"]) for row in classes.values()) == 30
    assert "0 of 10 here" in markdown.partition("## Gradients of random layers")[2]


def test_what_looks_bad_is_said(folder):
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert "A peer is faster on 34 of 35: seed_doc (openvino 0.50), " in markdown
    assert "excluded openvino on wavenet_d512: TypeError: computes it otherwise" in markdown
    assert "jax, new_lengths: ValueError: not so" in markdown
    assert "Geometric means of the ratios: torch 2.00; onnxruntime 1.50; " in markdown
    assert "memory at 25.0 GB/s" in markdown


def test_times_and_costs(folder):
    found = tables((folder / "report.md").read_text(encoding="utf-8"))
    times = found["microseconds | " + " | ".join(NAMES)]
    assert times["w2v_l1"]["torch"] == "503254 (452928 to 603904)"
    starts, lengths, memory, sizes = list(found.values())[-4:]
    assert starts["torch"]["import ms"] == "400 (300 to 500)"
    assert starts["torch"]["first call ms"] == "40.0 (30.0 to 50.0)"
    assert lengths["fastconv1d"]["new / repeated"] == "4.00 (3.50 to 4.50)"
    assert memory["onnxruntime"] == {"calls": "2,000", "MB added": "10.5"}
    assert sizes["jax"] == {"its own MB": "50.0", "with requirements MB": "100.0"}


def test_the_same_figures_give_the_same_files(report, folder, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(report))
    command = [sys.executable, "-m", "fastconv1d", "bench", "--report", str(tmp_path)]
    done = subprocess.run(
        [*command, "--from-json"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_stage_that_failed_is_told(report, tmp_path):
    pytest.importorskip("matplotlib")
    from fastconv1d.bench.document import write_report

    failed = {"command": "python -m fastconv1d bench", "seconds": 1.0, "status": -11}
    measured = dict.fromkeys(report["stages"], failed)
    write_report({"stages": measured}, tmp_path)
    assert [path.name for path in tmp_path.glob("*.svg")] == []
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert markdown.count("**The command ended with status -11.**") == 7
    check_files(tmp_path, markdown)


def test_a_quick_report(tmp_path):
    pytest.importorskip("matplotlib")
    options = ["--quick", "--layers", "tiny,seed_doc", "--peers", ""]
    done = subprocess.run(
        [sys.executable, "-m", "fastconv1d", "bench", "--report", str(tmp_path), *options],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "report.json").read_text())
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    check_files(tmp_path, markdown)
    assert {"forward", "backward", "length", "kernel", "threads_1", "costs"} <= set(data["stages"])
    assert all(stage["command"] in markdown for stage in data["stages"].values())
    rows = data["stages"]["forward"]["rows"]
    assert [row["layer"] for row in rows] == ["seed_doc", "tiny"]
    shown = tables(markdown)["layer | MFLOP | GFLOP/s | of peak"]
    for row in rows:
        rate = row["flops"] / row["seconds"]["fastconv1d"] / 1e9
        assert float(shown[row["layer"]]["GFLOP/s"]) == pytest.approx(rate, rel=6e-3)
    lengths = [row["sizes"]["l_in"] for row in data["stages"]["length"]["rows"]]
    assert lengths == [1000, 3000, 10000]
    cost = data["stages"]["costs"]["costs"]["fastconv1d"]
    assert cost["errors"] == {}
    assert 0 < cost["starts"][0]["import_seconds"] < 100
    assert len(cost["new_lengths"]["new"]) == 5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--backward"], "--report chooses --threads, --backward, --subject, --json and --sweep"),
        (["--from-json"], "--from-json needs "),
    ],
)
def test_reports_that_cannot_be(options, reason, tmp_path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-m", "fastconv1d", "bench", "--report", str(tmp_path)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"fastconv1d bench: {reason}")
    assert list(tmp_path.iterdir()) == []


def test_stages(monkeypatch):
    monkeypatch.setattr(stages, "cores", lambda: list(range(5)))
    assert stages.thread_counts() == [1, 2, 4]
    given = {"peers": "torch", "dtype": "float64", "isa": None, "algorithm": "auto"}
    args = argparse.Namespace(**given, quick=False, layers="a*")
    found = stages.stages(args, ["torch"])
    common = ["--peers", "torch", "--dtype", "float64"]
    assert found["forward"] == ["--layers", "a*", *common]
    assert found["backward"] == ["--backward", "--layers", "a*", *common]
    assert found["threads_4"] == ["--subject", "threads", "--threads", "4", *common]
    assert found["sweep"] == ["--sweep", "0", "--count", "120", *common]
    assert found["sweep_backward"] == ["--backward", "--sweep", "1", "--count", "60", *common]
    plain = argparse.Namespace(
        peers=None, dtype="float32", isa=None, algorithm="auto", quick=True, layers="*"
    )
    assert stages.stages(plain, [])["forward"] == ["--quick"]


def test_a_stage_without_figures(tmp_path):
    stage = stages._run_stage(["--layers", "no_such"], tmp_path / "none.json")
    assert stage["status"] == 2
    assert stage["command"] == "python -m fastconv1d bench --layers no_such"
    assert "rows" not in stage


def test_costs_in_numbers():
    cost = made_up_cost(1)
    assert costs.start_spread(cost, "import_seconds") == Spread(0.2, 0.15000000000000002, 0.25, 3)
    assert costs.start_spread({"starts": [{"error": "x"}]}, "import_seconds") is None
    assert costs.new_length_spread(cost) == Spread(4.0, 3.5, 4.5, 3)
    assert costs.new_length_spread({"new_lengths": {"error": "x"}}) is None
    _, line = costs.table({"torch": cost}).splitlines()
    assert line.split() == ["torch", "200.0", "20.00", "4.00", "4.00", "3.5", "10.0"]


def test_what_a_child_says_of_its_error():
    assert "ModuleNotFoundError" in costs._ask("no_such_library", "first_calls", True)["error"]


def test_folder_size(tmp_path):
    (tmp_path / "__pycache__").mkdir()
    sizes = {"a.py": 3, "b.so": 5, "c.pyx": 7, "data/d.csv": 11, "__pycache__/a.py": 13}
    (tmp_path / "data").mkdir()
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    assert costs._folder_size(tmp_path) == 3 + 5 + 11


def test_requirements():
    pytest.importorskip("packaging")
    assert costs.requirements("scipy") == {"scipy", "numpy"}
    assert costs.requirements("no-such-distribution") == set()
    sizes = costs.installed_size("scipy")
    assert 1 < sizes["own"] < sizes["with_requirements"]


def test_what_installed_a_module():
    pytest.importorskip("dateutil")  # which matplotlib requires
    assert costs._distribution("numpy").name == "numpy"
    assert costs._distribution("dateutil").name == "python-dateutil"


BLOCKS = [
    pages.Heading("A & B", 1),
    pages.Text("use `a < b` and **this**"),
    pages.Code("x < y"),
    pages.Picture("p.svg", 'a "plot"'),
    pages.Table(["name", "value"], [["a|b", "1"]]),
]


def test_markdown():
    assert pages.markdown(BLOCKS).split("\n\n") == [
        "# A & B",
        "use `a < b` and **this**",
        "```text\nx < y\n```",
        '![a "plot"](p.svg)',
        "| name | value |\n| --- | ---: |\n| a\\|b | 1 |\n",
    ]


def test_html():
    body = ElementTree.fromstring(pages.html(BLOCKS)).find("body")
    assert [child.tag for child in body] == ["h1", "p", "pre", "p", "div"]
    text, picture = body.findall("p")
    assert [(part.tag, part.text) for part in text] == [("code", "a < b"), ("strong", "this")]
    assert picture.find("img").attrib == {"src": "p.svg", "alt": 'a "plot"'}
    assert [cell.text for cell in body.iter("td")] == ["a|b", "1"]


def test_the_shipped_report_is_whole():
    folder = Path(__file__).parent.parent / "docs" / "benchmark"
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    check_files(folder, markdown)
    rows = json.loads((folder / "report.json").read_text())["stages"]["forward"]["rows"]
    names = [layer.name for layer in select_layers(load_layers(), "*")]
    assert [row["layer"] for row in rows] == names
    assert all(f"| {name} |" in markdown for name in names)
