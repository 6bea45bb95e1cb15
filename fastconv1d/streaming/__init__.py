"""Layers and networks over a signal that arrives in chunks."""

from .layers import StreamingConv1d, StreamingConvTranspose1d
from .networks import StreamingNetwork

__all__ = ["StreamingConv1d", "StreamingConvTranspose1d", "StreamingNetwork"]
