"""Trained models of other packages against ONNX Runtime; `models.py` says where they are."""

import numpy as np
import pytest
from models import folder, found, inputs_of

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from fastconv1d.onnx import InferenceSession  # noqa: E402

MODELS = found()
ROUNDED = ("smart-turn", "half")  # integers or 16 bits inside


def theirs(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.skipif(not MODELS, reason=f"no models in {folder()}: python tests/models.py")
@pytest.mark.parametrize("rest", [None, "onnxruntime"])
@pytest.mark.parametrize("name", MODELS or ["none"])
def test_model(name, rest):
    session = theirs(MODELS[name])
    ours = InferenceSession(MODELS[name], rest=rest)
    assert [v.name for v in ours.get_inputs()] == [v.name for v in session.get_inputs()]
    assert [v.type for v in ours.get_outputs()] == [v.type for v in session.get_outputs()]
    for batch in (3, 1):
        values = inputs_of(name, session, batch)
        wanted = session.run(None, values)
        tolerance = 5e-3 if any(part in name for part in ROUNDED) else 1e-4
        for a, b in zip(ours.run(None, values), wanted, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            # ONNX Runtime's sigmoid of -14 is off by 3e-8
            assert np.abs(a - b).max(initial=0) <= tolerance * max(np.abs(b).max(initial=0), 1e-3)
