"""Batch norm and weight norm folded into weights: exact formulas, and torch where importable."""

import numpy as np
import pytest

from fastconv1d import Conv1d, ConvTranspose1d, conv1d, fold_batch_norm, fold_weight_norm

RNG = np.random.default_rng(0)


def _norm_state(channels, prefix="bn", dtype=np.float64, rng=RNG):
    return {
        f"{prefix}.weight": rng.standard_normal(channels).astype(dtype),
        f"{prefix}.bias": rng.standard_normal(channels).astype(dtype),
        f"{prefix}.running_mean": rng.standard_normal(channels).astype(dtype),
        f"{prefix}.running_var": rng.uniform(0.1, 4, channels).astype(dtype),
        f"{prefix}.num_batches_tracked": np.array(7),
    }


def _batch_norm(y, state, eps, prefix="bn"):
    gamma, beta, mean, var = (
        state[f"{prefix}.{key}"][:, None]
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    return (y - mean) / np.sqrt(var + eps) * gamma + beta


def test_exact_values():
    # variances for which the root is exact, and scales that are powers of two
    state = {
        "conv.weight": np.arange(12.0, dtype=np.float32).reshape(2, 2, 3),
        "conv.bias": np.array([1, 2], np.float32),
        "bn.weight": np.array([2, 4], np.float32),
        "bn.bias": np.array([10, 20], np.float32),
        "bn.running_mean": np.array([3, 5], np.float32),
        "bn.running_var": np.array([3, 15], np.float32),
        "bn.num_batches_tracked": np.array(3),
        "head.weight": np.ones((4, 2)),
    }
    before = {key: value.copy() for key, value in state.items()}
    folded = fold_batch_norm(state, eps=1)
    assert list(folded) == ["conv.weight", "conv.bias", "head.weight"]
    assert folded["conv.weight"].dtype == folded["conv.bias"].dtype == np.float32
    np.testing.assert_array_equal(folded["conv.weight"], state["conv.weight"])  # 2/2 and 4/4
    np.testing.assert_array_equal(folded["conv.bias"], [1 - 3 + 10, 2 - 5 + 20])
    assert folded["head.weight"] is state["head.weight"]
    for key, value in before.items():
        np.testing.assert_array_equal(state[key], value)
    halved = fold_batch_norm({**state, "bn.weight": np.array([1, 8.0])}, eps=1)
    np.testing.assert_array_equal(halved["conv.weight"], before["conv.weight"] * [[[0.5]], [[2]]])
    np.testing.assert_array_equal(halved["conv.bias"], [-2 * 0.5 + 10, -3 * 2 + 20])


def test_without_affine_parameters_and_bias():
    state = {
        "0.weight": np.ones((2, 1, 1)),
        "1.running_mean": np.array([1.0, -2.0]),
        "1.running_var": np.array([4.0, 0.25]),
        "1.num_batches_tracked": 1,
    }
    folded = fold_batch_norm(state, eps=0)
    assert list(folded) == ["0.weight", "0.bias"]
    np.testing.assert_array_equal(folded["0.weight"][:, 0, 0], [0.5, 2])
    np.testing.assert_array_equal(folded["0.bias"], [-0.5, 4])
    scaled = fold_batch_norm({**state, "1.weight": np.array([2.0, 3.0])}, 0)
    np.testing.assert_array_equal(scaled["0.bias"], [-1, 12])
    shifted = fold_batch_norm({**state, "1.bias": np.array([2.0, 3.0])}, 0)
    np.testing.assert_array_equal(shifted["0.bias"], [1.5, 7])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kind", [Conv1d, ConvTranspose1d])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_folded_layer_equals_both(kind, groups, bias, dtype):
    rng = np.random.default_rng(groups)
    layer = kind(6, 12, 3, 2, groups=groups, bias=bias, dtype=dtype, rng=rng)
    folded_layer = kind(6, 12, 3, 2, groups=groups, dtype=dtype)
    norm = _norm_state(12, rng=rng)
    state = {**{f"conv.{key}": value for key, value in layer.state_dict().items()}, **norm}
    folded = fold_batch_norm(state, 1e-3, transposed=kind is ConvTranspose1d)
    assert list(folded) == ["conv.weight", "conv.bias"]
    folded_layer.load_state_dict({key[5:]: value for key, value in folded.items()})
    x = rng.standard_normal((3, 6, 20)).astype(dtype)
    expected = _batch_norm(layer(x).astype("complex128"), norm, 1e-3)
    wide = np.dtype(dtype).char in "dD"
    np.testing.assert_allclose(
        folded_layer(x), expected, rtol=0, atol=(1e-13 if wide else 5e-6) * np.abs(expected).max()
    )


def test_several_pairs_keep_order_and_the_rest():
    rng = np.random.default_rng(5)
    layers = {"enc.0": Conv1d(3, 8, 3, rng=rng), "enc.3": ConvTranspose1d(8, 4, 4, 2, rng=rng)}
    state = {}
    for name, norm, channels in (("enc.0", "enc.1", 8), ("enc.3", "enc.4", 4)):
        state.update({f"{name}.{k}": v for k, v in layers[name].state_dict().items()})
        state.update(_norm_state(channels, norm, np.float32, rng))
    state["last.weight"] = np.ones((1, 4, 1), np.float32)
    folded = fold_batch_norm(
        state, pairs={"enc.0": "enc.1", "enc.3": "enc.4"}, transposed={"enc.3"}
    )
    assert list(folded) == [
        "enc.0.weight", "enc.0.bias", "enc.3.weight", "enc.3.bias", "last.weight",
    ]  # fmt: skip
    x = rng.standard_normal((1, 3, 9), np.float32)
    for name, norm in (("enc.0", "enc.1"), ("enc.3", "enc.4")):
        expected = _batch_norm(layers[name](x), state, 1e-5, norm)
        layers[name].load_state_dict({k: folded[f"{name}.{k}"] for k in ("weight", "bias")})
        x = layers[name](x)
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)
    one = fold_batch_norm(state, pairs={"enc.0": "enc.1"})
    assert "enc.1.weight" not in one
    assert one["enc.4.weight"] is state["enc.4.weight"]


def test_empty_prefix():
    state = {"weight": np.ones((1, 1, 1)), **_norm_state(1)}
    assert list(fold_batch_norm(state)) == ["weight", "bias"]
    assert list(fold_batch_norm(state, pairs={"": "bn"})) == ["weight", "bias"]


def _good():
    return {"conv.weight": np.ones((4, 2, 3)), **_norm_state(4)}


@pytest.mark.parametrize(
    ("change", "kwargs", "error", "text"),
    [
        ({"conv.weight": None}, {}, ValueError, r"got the convolutions \[\]"),
        ({"conv.weight": None}, {"pairs": {"conv": "bn"}}, ValueError, 'Missing key "conv.weight"'),
        ({"bn.running_var": None}, {}, ValueError, 'Missing key "bn.running_var" in state'),
        ({"bn.running_mean": None}, {"pairs": {"conv": "bn"}}, ValueError, "running statistics"),
        ({"bn.running_mean": np.ones(5)}, {}, ValueError, "4 output channels of conv.weight, got"),
        ({"bn.running_mean": np.ones((4, 1))}, {}, ValueError, r"got size \[4, 1\]"),
        ({"bn.running_var": np.ones(3)}, {}, ValueError, r"bn.running_var should have the shape"),
        ({"bn.weight": np.ones(3)}, {}, ValueError, r"bn.weight should have the shape \[4\]"),
        ({"bn.bias": np.ones(3)}, {}, ValueError, r"bn.bias should have the shape \[4\], got \[3"),
        ({"conv.bias": np.ones(3)}, {}, ValueError, r"conv.bias should have the shape \[4\]"),
        ({"bn.running_var": np.array([1, 1, -1, 1.0])}, {}, ValueError, "got -0.99999 at 2"),
        ({"bn.running_var": np.array([1, np.nan, 1, 1])}, {}, ValueError, "got nan at 1"),
        ({"bn.running_var": np.ones(4) * 1j}, {}, TypeError, "bn.running_var should be real"),
        ({"bn.running_var": [1, 1, 1, 1]}, {}, TypeError, "floating-point or complex array, got l"),
        ({"conv.weight": np.ones((4, 2))}, {"pairs": {"conv": "bn"}}, ValueError, "three dim"),
        ({}, {"transposed": True}, ValueError, "a multiple of the 2 channels a group of conv"),
        ({}, {"transposed": "conv"}, TypeError, "collection of prefixes, got 'conv'"),
        ({}, {"transposed": ["cnv"]}, ValueError, r"convolutions of pairs, got \['cnv'\]"),
        ({}, {"eps": -1e-5}, ValueError, "eps should be a finite number of at least 0, got -1e-05"),
        ({}, {"eps": "x"}, ValueError, "eps should be a finite number"),
        ({}, {"pairs": [("conv", "bn")]}, TypeError, "Expected pairs to be dict-like"),
        ({}, {"pairs": {"conv": "bn", "c": "bn"}}, ValueError, "name each batch norm once"),
        ({"c.weight": np.ones((4, 2, 3))}, {}, ValueError, r"\['conv', 'c'\] and the batch norms"),
        (_norm_state(4, "b2"), {}, ValueError, r"batch norms \['bn', 'b2'\]"),
    ],
)  # fmt: skip
def test_errors(change, kwargs, error, text):
    state = {key: value for key, value in {**_good(), **change}.items() if value is not None}
    if kwargs.get("transposed") is True:
        state["conv.weight"] = np.ones((5, 2, 3))
    with pytest.raises(error, match=text):
        fold_batch_norm(state, **kwargs)


def test_state_should_be_a_mapping():
    with pytest.raises(TypeError, match="Expected state to be dict-like, got <class 'list'>"):
        fold_batch_norm([1])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_torchs_model(groups, transposed, affine, bias):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    kind = torch.nn.ConvTranspose1d if transposed else torch.nn.Conv1d
    model = torch.nn.Sequential(
        kind(4, 6, 5, 3, 2, groups=groups, bias=bias),
        torch.nn.BatchNorm1d(6, eps=1e-3, affine=affine),
    )
    x = torch.randn(8, 4, 30)
    for _ in range(3):
        model(x)  # moves the running statistics
    model.eval()
    folded = fold_batch_norm(model.state_dict(), 1e-3, transposed=transposed)
    assert list(folded) == ["0.weight", "0.bias"]
    layer = (ConvTranspose1d if transposed else Conv1d)(4, 6, 5, 3, 2, groups=groups)
    layer.load_state_dict({"weight": folded["0.weight"], "bias": folded["0.bias"]})
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(layer(x.numpy()), expected, rtol=1e-5, atol=1e-5)
    if groups == 1 or not transposed:  # torch's own fold has no groups of transposed weights
        fused = torch.nn.utils.fusion.fuse_conv_bn_eval(*model, transpose=transposed)
        np.testing.assert_allclose(folded["0.weight"], fused.weight.detach(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(folded["0.bias"], fused.bias.detach(), rtol=1e-5, atol=1e-6)


def test_weight_norm_exact():
    v = np.array([[[3.0, 4.0]], [[0.0, -2.0]]], np.float32)
    weight = fold_weight_norm(np.array([10, 3], np.float32), v)
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight, [[[6, 8]], [[0, -3]]])
    np.testing.assert_array_equal(
        fold_weight_norm(np.array([[[10.0]], [[3.0]]]), v), [[[6, 8]], [[0, -3]]]
    )
    by_tap = fold_weight_norm(np.array([6.0, 5.0]), np.array([[[3.0, 4]], [[4, 3]]]), dim=2)
    np.testing.assert_array_equal(by_tap, np.array([[[18, 20]], [[24, 15]]]) / 5)
    whole = fold_weight_norm(2.0, np.array([[[1.0, 1]], [[1, 1]]]), dim=None)
    np.testing.assert_array_equal(whole, np.ones((2, 1, 2)))
    np.testing.assert_array_equal(
        fold_weight_norm(np.array([5.0]), np.array([[[3 + 4j, 0]]])), [[[3 + 4j, 0]]]
    )


def test_weight_norm_of_extreme_values():
    for scale in (1e-300, 1e300):
        np.testing.assert_allclose(
            fold_weight_norm(np.array([10.0]), np.array([[[3.0, 4.0]]]) * scale),
            [[[6, 8]]],
            rtol=1e-15,
        )
    assert fold_weight_norm(np.ones(0), np.ones((0, 2, 3))).shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("g", "v", "dim", "error", "text"),
    [
        (np.ones(3), np.ones((2, 1, 3)), 0, ValueError, r"each of 2 norms, got one of size \[3"),
        (np.ones((2, 1)), np.ones((1, 1, 3)), None, ValueError, "for each of 1 norms"),
        (np.ones((2, 2)), np.ones((4, 1, 3)), 0, ValueError, r"got one of size \[2, 2\]"),
        (np.ones(2), np.ones((2, 1, 3)), 3, ValueError, "0 to 2, got dim=3"),
        (np.ones(2), np.ones((2, 1, 3)), -1, ValueError, "got dim=-1"),
        (np.ones(2), np.ones((2, 1, 3)), "0", TypeError, "dim should be an int"),
        (np.ones(2), np.ones((2, 1, 3), int), 0, TypeError, "v should be a floating-point"),
        ([1, 2], np.ones((2, 1, 3)), 0, TypeError, "g should be a floating-point"),
        (np.ones(2), np.eye(2, 3)[::-1] * [[[0]], [[1]]], 0, ValueError, "at index 0 of dim=0"),
        (1.0, np.zeros((2, 3)), None, ValueError, "norm of v should not be zero, got zeros only$"),
    ],
)
def test_weight_norm_errors(g, v, dim, error, text):
    with pytest.raises(error, match=text):
        fold_weight_norm(g, v, dim)


@pytest.mark.parametrize("dim", [0, 1, 2, None])
@pytest.mark.parametrize("transposed", [False, True])
def test_torchs_weight_norm(dim, transposed):
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    kind = torch.nn.ConvTranspose1d if transposed else torch.nn.Conv1d
    layer = torch.nn.utils.parametrizations.weight_norm(kind(4, 6, 5), dim=dim)
    g, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    with torch.no_grad():
        g *= 1.5
        v -= 0.25
        expected = layer.weight.numpy()
    weight = fold_weight_norm(g.detach(), v.detach(), dim)
    np.testing.assert_allclose(weight, expected, rtol=2e-6, atol=1e-7)


def test_folded_weight_norm_of_a_state_dict():
    g, v = RNG.standard_normal((5, 1, 1)), RNG.standard_normal((5, 2, 3))
    x = RNG.standard_normal((2, 9))
    y = conv1d(x, fold_weight_norm(g, v))
    raw = conv1d(x, v)
    norms = np.sqrt((v**2).sum((1, 2)))
    np.testing.assert_allclose(y, raw * (g[:, 0, 0] / norms)[:, None], rtol=1e-12, atol=1e-13)
