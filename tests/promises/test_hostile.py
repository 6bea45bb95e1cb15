"""Hostile arguments and files: an error of the promised kinds in a second, or the right result."""

import random
import sys

import numpy as np
import pytest
from fuzz import files, hostile, runner
from hypothesis import given, settings
from hypothesis import strategies as st

import fastconv1d
from fastconv1d import reference

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")


def full(fraction, count):
    """Parameters of a test: a part of the full count, and the full count for soak."""
    return [fraction, pytest.param(count, marks=pytest.mark.soak)]


def assert_nothing_found(kind, seed, count):
    findings = runner.run(runner.Options([kind], seed), 0, count, say=str)
    first = findings[0] if findings else None
    assert not findings, f"{len(findings)} findings, case {first['case']}: {first['text']}"


@pytest.mark.parametrize("count", full(20_000, 500_000))
def test_hostile_arguments(count):
    assert_nothing_found("hostile", 2026, count)


@pytest.mark.parametrize("count", full(4_000, 200_000))
def test_hostile_weight_files(count):
    pytest.importorskip("safetensors")
    assert_nothing_found("files", 2027, count)


def test_every_public_name_is_called():
    assert set(hostile.NAMES) == set(hostile.public_callables())
    assert {"conv1d", "Conv1d", "conv1d_weight", "load_file"} <= set(hostile.NAMES)


INTEGERS = st.one_of(
    st.integers(-3, 12),
    st.integers(-(2**66), 2**66),
    st.sampled_from([v for v in hostile.HOSTILE if type(v) is int]),
    st.sampled_from(hostile.EDGES).flatmap(lambda edge: st.integers(edge - 9, edge + 9)),
)
VALUES = st.one_of(
    st.integers(1, 4),
    INTEGERS,
    st.sampled_from(hostile.HOSTILE),
    st.lists(INTEGERS, max_size=3).map(tuple),
)


@st.composite
def calls(draw):
    """Draw the name of a function, arrays that fit and any other arguments."""
    name = draw(st.sampled_from(hostile.OPERATIONS + hostile.FOLDS))
    rng = random.Random(draw(st.integers(0, 2**16)))
    sizes = hostile.draw_sizes(rng, "transpose" in name)
    arguments = {"input": hostile.ordinary_array(rng, "input", sizes)}
    if name in hostile.OPERATIONS:
        arguments["weight"] = hostile.ordinary_array(rng, "weight", sizes)
        arguments["groups"] = sizes.groups
    names = {"conv1d": ("stride", "padding", "dilation", "groups")}.get(
        name,
        {
            "conv_transpose1d": ("stride", "padding", "output_padding", "groups", "dilation"),
            "unfold1d": ("kernel_size", "dilation", "padding", "stride"),
            "fold1d": ("output_size", "kernel_size", "dilation", "padding", "stride"),
        }.get(name),
    )
    required = {"kernel_size", "output_size"} & set(names)
    chosen = draw(st.sets(st.sampled_from(names), max_size=3)) | required
    return name, {**arguments, **{key: draw(VALUES) for key in sorted(chosen)}}


@pytest.mark.parametrize("examples", full(2_000, 20_000))
def test_any_arguments(examples):
    outcomes = {"right": 0, "refused": 0}

    @settings(max_examples=examples)
    @given(call=calls())
    def check(call):
        name, arguments = call
        elements = product_of_outputs(name, arguments)
        if elements is not None and elements > 2**22:
            return  # right, but large
        try:
            result = hostile.quickly(getattr(fastconv1d, name), **arguments)
        except hostile.ALLOWED as error:
            hostile.check_refusal(name, arguments, (), error)
            outcomes["refused"] += 1
            return
        hostile.compare(result, name, arguments)
        outcomes["right"] += 1

    check()
    assert min(outcomes.values()) > examples // 20, outcomes


def product_of_outputs(name, arguments):
    """Return about how many elements the result has, None where the call should be refused."""
    try:
        values = {
            key: value if isinstance(value, np.ndarray) else reference._integer(key, value)
            for key, value in arguments.items()
            if key != "padding"
        }
        left, right = reference._pads(arguments.get("padding", 0), 1, 1, 1, 1)
    except hostile.ALLOWED:
        return None
    stride, dilation = values.get("stride", 1), values.get("dilation", 1)
    if min(stride, dilation) < 1:
        return None
    x, weight = values["input"], values.get("weight")
    kernel = values.get("kernel_size", 1) if weight is None else weight.shape[2]
    length = x.shape[-1]
    if name == "conv_transpose1d":
        length = (length - 1) * stride + dilation * (kernel - 1) + stride + dilation
    elif name == "fold1d":
        length = values["output_size"]
    else:
        length = (length + left + right) // stride + 1
        length *= kernel if name == "unfold1d" else 1
    return x.size * length


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (lambda right, given: right(**{**given, "padding": 1}), "elements are wrong"),
        (lambda right, given: right(**{**given, "stride": 2}), r"\(1, 3, 6\), \(1, 3, 12\)"),
        (lambda right, given: right(**{**given, "stride": 0}), "refused, but the result has"),
        (lambda right, given: {}[given["padding"]], r"\(0, 2\)"),
    ],
)
def test_a_finding_is_found(monkeypatch, wrong, match):
    right = hostile.CALLABLES["conv1d"]
    rng = random.Random(0)
    sizes = hostile.Sizes("float32", 1, 2, 3, 1, 1, 10, False)
    arguments = {name: hostile.ordinary_array(rng, name, sizes) for name in ("input", "weight")}
    arguments = {**arguments, "input": arguments["input"].reshape(1, 2, 10), "padding": (0, 2)}
    hostile.check(rng, "conv1d", arguments, [], sizes)
    monkeypatch.setitem(hostile.CALLABLES, "conv1d", lambda **given: wrong(right, given))
    with pytest.raises((AssertionError, KeyError), match=match):
        hostile.check(rng, "conv1d", arguments, [], sizes)


def test_files_that_are_whole_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("safetensors")
    rng = random.Random(5)
    for _ in range(50):
        state = files.draw_state(rng)
        for suffix in files.SUFFIXES:
            loaded = files.load(files.whole(state, suffix))
            assert set(loaded) == set(state)
            for key, value in state.items():
                np.testing.assert_array_equal(loaded[key], value)


def test_large_outputs_are_not_computed():
    x = np.ones((1, 6, 40))
    assert product_of_outputs("unfold1d", {"input": x, "kernel_size": 1, "padding": 2**25}) > 2**30
    assert product_of_outputs("unfold1d", {"input": x, "kernel_size": 1, "padding": "x"}) is None
