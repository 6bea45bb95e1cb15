"""Every padding and padding mode, of both operations: what they read, add back and refuse."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from layers import (
    DTYPES,
    PADDING_MODES,
    assert_exact,
    assert_layer_accurate,
    assert_layer_exact,
    assert_same_bits,
    random_layers,
)

import fastconv1d
from fastconv1d import Conv1d, ConvTranspose1d, reference

STRINGS = ("causal", "same_upper", "same_lower")
NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def padded_layers(count, seed, op, **fixed):
    """Random layers with every kind of padding and every mode that their lengths allow."""
    rng = np.random.default_rng(seed)
    for layer in random_layers(count, seed, op=op, padding_mode="zeros", **fixed):
        paddings = [*STRINGS, "same" if layer.stride == 1 and op == "conv1d" else "causal"]
        paddings += [int(rng.integers(0, 9)), tuple(map(int, rng.integers(0, 20, 2)))]
        for padding in paddings:
            for mode in PADDING_MODES:
                made = dataclasses.replace(layer, padding=padding, padding_mode=mode)
                padded = made.l_in if op == "conv1d" else made.l_out
                widest = max(made.pads) + (mode == "reflect")
                if made.l_out >= 1 and (mode == "zeros" or widest <= padded):
                    yield made


def test_padding_is_numpys_pad_and_then_a_valid_convolution(lib, share):
    seen = set()
    for seed, layer in enumerate(padded_layers(int(300 * share) + 10, 1, "conv1d")):
        for arrays, check in (
            (layer.integer_arrays(seed), assert_exact),
            (layer.normal_arrays(seed), assert_same_bits),
        ):
            x, w, b, _ = arrays
            mode = NUMPY_MODES[layer.padding_mode]
            longer = np.pad(x, ((0, 0), (0, 0), layer.pads), mode)
            if check is assert_same_bits and lib.algorithm == "blas":
                continue  # its bits depend on the length of the input
            valid = dataclasses.replace(layer, padding="valid", padding_mode="zeros")
            y = layer.forward(lib)(x, w, b)
            check(y, valid.forward(lib)(longer, w, b), f"{layer}")
        seen.add((layer.padding_mode, layer.padding if isinstance(layer.padding, str) else "int"))
    assert len(seen) == len(PADDING_MODES) * 5


def same_pads(l_in, kernel_size, stride, dilation, upper):
    """TensorFlow's rule, as its documentation writes it; 'lower' is ONNX's addition."""
    span = dilation * (kernel_size - 1) + 1
    total = span - stride if l_in % stride == 0 else span - l_in % stride
    total = max(total, 0)
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


SIZES = [
    (l_in, kernel_size, stride, dilation)
    for l_in in (1, 2, 3, 7, 8, 9, 20, 33)
    for kernel_size in (1, 2, 3, 4, 7)
    for stride in (1, 2, 3, 5)
    for dilation in (1, 2, 3)
]


@pytest.mark.parametrize("padding", ["same_upper", "same_lower"])
def test_same_is_tensorflows_rule(padding):
    rng = np.random.default_rng(2)
    for l_in, kernel_size, stride, dilation in SIZES:
        x = rng.integers(-4, 5, (2, 3, l_in)).astype(np.float32)
        w = rng.integers(-4, 5, (5, 3, kernel_size)).astype(np.float32)
        y = fastconv1d.conv1d(x, w, stride=stride, padding=padding, dilation=dilation)
        assert y.shape[2] == -(-l_in // stride)
        pads = same_pads(l_in, kernel_size, stride, dilation, padding == "same_upper")
        expected = reference.conv1d(x, w, stride=stride, padding=pads, dilation=dilation)
        assert_exact(y, expected, f"{l_in} {kernel_size} {stride} {dilation}")


def onnx_session(op, w, attributes):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    node = onnx.helper.make_node(op, ["x", "w"], ["y"], **attributes)
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", "c", None])
        for name in "xy"
    ]
    weight = onnx.numpy_helper.from_array(w, "w")
    graph = onnx.helper.make_graph([node], "layer", infos[:1], infos[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("padding", ["same_upper", "same_lower"])
def test_same_is_onnx_runtimes_auto_pad(padding):
    rng = np.random.default_rng(3)
    for kernel_size, stride in dict.fromkeys(size[1:3] for size in SIZES):
        w = rng.integers(-4, 5, (5, 3, kernel_size)).astype(np.float32)
        session = onnx_session(
            "Conv",
            w,
            {  # which has no dilations there
                "auto_pad": padding.upper(),
                "strides": [stride],
                "kernel_shape": [kernel_size],
            },
        )
        for l_in in (1, 2, 3, 7, 8, 9, 20, 33):
            if (l_in - 1) // stride * stride + kernel_size < l_in:
                continue  # nothing is missing: ONNX Runtime pads by less than 0 there
            x = rng.integers(-4, 5, (2, 3, l_in)).astype(np.float32)
            (expected,) = session.run(None, {"x": x})
            y = fastconv1d.conv1d(x, w, stride=stride, padding=padding)
            assert_exact(y, expected, f"{l_in} {kernel_size} {stride}")


@pytest.mark.parametrize("padding", ["same_upper", "same_lower"])
def test_transposed_same_is_onnx_runtimes_auto_pad(padding):
    rng = np.random.default_rng(4)
    for kernel_size, stride in ((3, 1), (4, 2), (5, 2), (5, 3), (7, 3), (2, 2)):
        w = rng.integers(-4, 5, (3, 5, kernel_size)).astype(np.float32)
        attributes = {"auto_pad": padding.upper(), "strides": [stride]}
        session = onnx_session("ConvTranspose", w, {**attributes, "kernel_shape": [kernel_size]})
        for l_in in (1, 2, 9, 20):
            x = rng.integers(-4, 5, (2, 3, l_in)).astype(np.float32)
            (expected,) = session.run(None, {"x": x})
            y = fastconv1d.conv_transpose1d(x, w, stride=stride, padding=padding)
            assert y.shape[2] == l_in * stride
            assert_exact(y, expected, f"{l_in} {kernel_size} {stride}")


@pytest.mark.parametrize("op", ["conv1d", "conv_transpose1d"])
def test_forward_and_gradients_are_exact(lib, share, op):
    for seed, layer in enumerate(padded_layers(int(100 * share) + 5, 5, op)):
        assert_layer_exact(lib, layer, seed)


@pytest.mark.parametrize("op", ["conv1d", "conv_transpose1d"])
def test_forward_and_gradients_are_accurate(lib, share, op):
    for seed, layer in enumerate(padded_layers(int(100 * share) + 5, 6, op)):
        # The margins are rounded sums that are added to rounded sums.
        assert_layer_accurate(lib, layer, layer.normal_arrays(seed), units=8)


def test_the_transposed_operation_is_the_adjoint(lib, share):
    # <g, conv1d(x)> = <conv_transpose1d(g), x> with the same weight and mode, exactly on integers.
    seen = set()
    for seed, layer in enumerate(
        padded_layers(int(300 * share) + 10, 7, "conv1d", dtype="float64")
    ):
        x, w, _, g = layer.integer_arrays(seed)
        left, right = layer.pads
        # Windows need not end where the padded input does: the rest is output padding.
        rest = layer.l_in + left + right - (layer.l_out - 1) * layer.stride - layer.span
        back = lib.conv_transpose1d(
            g,
            w,
            stride=layer.stride,
            padding=(left, right),
            output_padding=rest,
            groups=layer.groups,
            dilation=layer.dilation,
            padding_mode=layer.padding_mode,
        )
        assert back.shape == x.shape
        assert np.vdot(g, layer.forward(lib)(x, w)) == np.vdot(back, x), layer
        assert_exact(back, layer.backward(lib)(g, x, w)[0], f"{layer}")
        seen.add(layer.padding_mode)
    assert seen == set(PADDING_MODES)


def test_gradients_are_the_limits_of_differences():
    layers = padded_layers(4, 8, "conv_transpose1d", dtype="float64", c_in_per_group=2)
    for seed, layer in enumerate(layers):
        x, w, b, g = layer.normal_arrays(seed)
        forward = layer.forward(fastconv1d)
        dx, dw, db = layer.backward(fastconv1d)(g, x, w)
        rng = np.random.default_rng(seed)
        vx, vw = rng.standard_normal(x.shape), rng.standard_normal(w.shape)
        slope = np.vdot(g, forward(x + vx, w, b) - forward(x - vx, w, b)) / 2
        scale = np.vdot(np.abs(g), reference.magnitude(layer.forward(reference), x, w)) + 1
        assert abs(slope - np.vdot(dx, vx)) <= 1e-10 * scale
        slope = np.vdot(g, forward(x, w + vw, b) - forward(x, w - vw, b)) / 2
        assert abs(slope - np.vdot(dw, vw)) <= 1e-10 * scale
        np.testing.assert_allclose(db, g.sum(axis=(0, 2)), rtol=1e-12, atol=1e-12)


def test_transposed_modes_are_what_torch_differentiates():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(9)
    for mode in PADDING_MODES:
        for stride, dilation, pads in ((1, 1, (2, 2)), (2, 1, (3, 1)), (3, 2, (0, 4))):
            g = rng.standard_normal((2, 6, 9))
            w = rng.standard_normal((6, 2, 3))
            y = fastconv1d.conv_transpose1d(
                g, w, None, stride, pads, 0, 2, dilation, padding_mode=mode
            )
            x = torch.zeros(y.shape, dtype=torch.float64, requires_grad=True)
            constant = {"zeros": "constant"}.get(mode, mode)
            padded = torch.nn.functional.pad(x, pads, constant)
            out = torch.nn.functional.conv1d(
                padded, torch.from_numpy(w), None, stride, 0, dilation, 2
            )
            out.backward(torch.from_numpy(g))
            np.testing.assert_allclose(y, x.grad.numpy(), rtol=1e-12, atol=1e-12)


def module_of(layer, algorithm, w, b):
    kind = Conv1d if layer.op == "conv1d" else ConvTranspose1d
    made = kind(
        layer.c_in,
        layer.c_out,
        layer.kernel_size,
        bias=layer.bias,
        dtype=layer.dtype,
        algorithm=algorithm,
        **{"padding_mode": "zeros", **layer.params},
    )
    made.load_state_dict({"weight": w} | ({"bias": b} if layer.bias else {}))
    return made


@pytest.mark.parametrize("mode", PADDING_MODES)
def test_a_mode_without_padding_is_none(mode):
    x = np.random.default_rng(13).standard_normal((1, 2, 9)).astype(np.float32)
    for kind in (Conv1d, ConvTranspose1d):
        made = kind(2, 3, 4, padding_mode=mode, rng=np.random.default_rng(14))
        plain = kind(2, 3, 4, rng=np.random.default_rng(14))
        assert_same_bits(made(x), plain(x))


@pytest.mark.parametrize("op", ["conv1d", "conv_transpose1d"])
def test_modules_are_the_functions(lib, share, op):
    for seed, layer in enumerate(padded_layers(int(100 * share) + 10, 10, op)):
        x, w, b, g = layer.normal_arrays(seed)
        made = module_of(layer, lib.algorithm, w, b)
        y = layer.forward(lib)(x, w, b)
        assert_same_bits(made(x), y, f"{layer}")
        assert_same_bits(made(x[0]), layer.forward(lib)(x[0], w, b), f"{layer}")
        made.train()
        assert_same_bits(made(x), y, f"{layer}")
        dx, dw, db = layer.backward(lib)(g, x, w)
        assert_same_bits(made.backward(g), dx, f"{layer}")
        assert_same_bits(made.weight_grad, dw, f"{layer}")
        if layer.bias:
            assert_same_bits(made.bias_grad, db, f"{layer}")


def test_one_module_pads_each_length_as_it_needs():
    made = Conv1d(3, 4, 5, stride=2, padding="same_upper", rng=np.random.default_rng(0))
    assert repr(made) == "Conv1d(3, 4, kernel_size=(5,), stride=(2,), padding=same_upper)"
    for l_in in (8, 7, 1, 2, 100, 7):
        x = np.random.default_rng(l_in).standard_normal((2, 3, l_in)).astype(np.float32)
        pads = same_pads(l_in, 5, 2, 1, True)
        y = fastconv1d.conv1d(x, made.weight, made.bias, 2, pads)
        assert_same_bits(made(x), y)
        assert made(x).shape[2] == -(-l_in // 2)


@pytest.mark.parametrize("mode", PADDING_MODES)
def test_causal_outputs_see_no_later_input(mode):
    rng = np.random.default_rng(11)
    x, w = rng.standard_normal((1, 2, 40)), rng.standard_normal((3, 2, 4))
    later = x.copy()
    later[:, :, 31:] = np.nan
    for stride in (1, 2, 3):
        args = {"stride": stride, "padding": "causal", "dilation": 3, "padding_mode": mode}
        y, z = fastconv1d.conv1d(x, w, **args), fastconv1d.conv1d(later, w, **args)
        assert y.shape[2] == -(-40 // stride)
        seen = -(-31 // stride)
        if mode == "circular":  # its left margin is the end of the input
            continue
        assert_same_bits(z[:, :, :seen], y[:, :, :seen])
        assert np.isnan(z[:, :, seen:]).all()
    up = rng.standard_normal((2, 3, 5))
    y = fastconv1d.conv_transpose1d(x, up, stride=3, padding="causal")
    z = fastconv1d.conv_transpose1d(later, up, stride=3, padding="causal")
    assert y.shape[2] == 40 * 3
    assert_same_bits(z[:, :, : 31 * 3], y[:, :, : 31 * 3])


def test_lengths_of_cropped_outputs():
    x = np.ones((1, 2, 7), np.float32)
    for kernel_size, stride, dilation in ((1, 1, 1), (5, 2, 1), (3, 2, 2), (4, 4, 1), (3, 3, 5)):
        w = np.ones((2, 3, kernel_size), np.float32)
        for padding in STRINGS:
            for extra in range(max(stride, dilation)):
                y = fastconv1d.conv_transpose1d(
                    x, w, None, stride, padding, extra, dilation=dilation
                )
                span = dilation * (kernel_size - 1) + 1
                assert y.shape[2] == 6 * stride + min(span, stride) + extra
    made = ConvTranspose1d(2, 3, 5, stride=2, padding="causal")
    assert made(x).shape == (1, 3, 14)
    assert made(x, output_size=15).shape == (1, 3, 15)


@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_are_padded_as_the_convolution(dtype):
    rng = np.random.default_rng(12)
    for l_in, kernel_size, stride, dilation in SIZES[::7]:
        x = rng.integers(-4, 5, (2, 3, l_in)).astype(dtype)
        for padding in STRINGS:
            args = {"stride": stride, "padding": padding, "dilation": dilation}
            columns = fastconv1d.unfold1d(x, kernel_size, dilation, padding, stride)
            assert_exact(columns, reference.unfold1d(x, kernel_size, dilation, padding, stride))
            w = rng.integers(-4, 5, (4, 3, kernel_size)).astype(dtype)
            assert_exact(w.reshape(4, -1) @ columns, fastconv1d.conv1d(x, w, **args))
            folded = fastconv1d.fold1d(columns, l_in, kernel_size, dilation, padding, stride)
            expected = reference.fold1d(columns, l_in, kernel_size, dilation, padding, stride)
            assert_exact(folded, expected)


X, X5, W = np.ones((1, 2, 4)), np.ones((1, 2, 5)), np.ones((2, 2, 3))
BAD = [
    ("conv1d", X, {"padding": "SAME_UPPER"}, ValueError, "Invalid padding string: 'SAME_UPPER'"),
    ("conv1d", X, {"padding": "same", "stride": 2}, ValueError, "strided .* got stride=2"),
    ("conv_transpose1d", X, {"padding": "same"}, TypeError, "'causal', .* got padding='same'"),
    ("conv_transpose1d", X, {"padding_mode": "foo"}, ValueError, "got padding_mode='foo'"),
    (
        "conv_transpose1d",
        X,
        {"padding": 2, "padding_mode": "reflect"},
        ValueError,
        r"less than the corresponding output dimension.*\(2, 2\).*\[1, 2, 2\]",
    ),
    (
        "conv_transpose1d",
        X5,
        {"padding": (4, 0), "padding_mode": "circular"},
        ValueError,
        r"at most 3, the output length, got padding \(4, 0\)",
    ),
    (
        "conv_transpose1d",
        X,
        {"padding": 3, "padding_mode": "replicate"},
        ValueError,
        r"for output, but got: \[1, 2, 0\]",
    ),
]


@pytest.mark.parametrize(("name", "x", "kwargs", "error", "words"), BAD)
def test_what_is_refused(name, x, kwargs, error, words):
    with pytest.raises(error, match=words):
        getattr(fastconv1d, name)(x, W, **kwargs)
    with pytest.raises(error, match=words):
        getattr(fastconv1d, name + "_backward")(x, x, W, **kwargs)


def test_function_and_module_choose_an_engine_by_both_crops():
    made = ConvTranspose1d(1, 1, 2, stride=1024, padding=(0, 2**40))
    assert made._pack().prepared is None
    x = np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (1, 1, 2**30 + 1), (0, 0, 0))
    g = np.zeros((1, 1, 0), np.float32)
    with pytest.raises(ValueError, match="algorithm='direct' cannot compute this layer"):
        fastconv1d.conv_transpose1d_backward(
            g, x, made.weight, 1024, (0, 2**40 + 2), algorithm="direct"
        )


@pytest.mark.parametrize("mode", PADDING_MODES)
def test_no_mode_copies_the_signal(mode):
    x = np.ones((1, 2, 1_000_000), np.float32)
    w = np.ones((2, 2, 31), np.float32)
    for function in (fastconv1d.conv1d, fastconv1d.conv_transpose1d):
        y = function(x, w, padding=15, padding_mode=mode)
        tracemalloc.start()
        function(x, w, padding=15, padding_mode=mode, out=y)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < x.nbytes / 4
