# ruff: noqa: E402 (what follows imports the package that is asked for first)
"""fastconv1d inside torch: the 1-D convolutions of a model computed here, with autograd.

Imported on request, as ``import fastconv1d.torch``; torch is an optional dependency.
"""

from ..core.extras import require

require(__name__, "torch")

from .exchange import accelerate, restore
from .layers import FastConv1d, FastConvTranspose1d, _Pack
from .planes import FastConv2d
from .report import Report
from .watch import disabled

__all__ = [
    "FastConv1d",
    "FastConv2d",
    "FastConvTranspose1d",
    "Report",
    "accelerate",
    "disabled",
    "restore",
]

for _public in (
    FastConv1d,
    FastConv2d,
    FastConvTranspose1d,
    Report,
    accelerate,
    disabled,
    restore,
    _Pack,
):
    _public.__module__ = __name__  # where pickles look for them
