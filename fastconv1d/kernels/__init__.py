"""Everything compiled: unfold and fold, BLAS, and the engines built on them."""

from importlib.util import find_spec
from pathlib import Path

if find_spec(f"{__name__}.direct_engine") is None:
    raise ImportError(
        f"{Path(__file__).parents[1]} holds the sources of fastconv1d without its compiled "
        "kernels, and Python looks there first. Run from another folder to use the package that "
        "is installed, or compile here: pip install -e ."
    )
