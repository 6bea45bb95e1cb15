"""Layers that are products of matrices for torch, and as fast there, or faster.

Without groups and dilation torch multiplies by the MKL where a call has one item of at most 20,480
elements, and on one thread for kernels of one tap and fewer than 16 items, too; elsewhere it asks
oneDNN, which is as fast as any for the widest layers. The MKL's product has nothing to unfold for
one tap, and reads a large weight at the speed of memory. Torch's time as part of ours, float32 on
one thread with vectors of 16 lanes:

=============================================  =====================================
one item, at most 20,480 elements              128 channels and taps 1 to 7: 0.59 to 1.18, 256 and
                                               512 channels: 0.47 to 0.98
one tap, from 64 channels to no more           0.47 to 1.03
one tap, from 16 channels to half as many      0.47 to 0.95
one tap, from 256 channels to more             0.98
one tap, 1,024 and 1,536 channels              0.85 on one thread and on two
strided, 512 channels, 3 taps                  0.93 to 1.06, on two threads 0.78 to 0.92
one tap, from fewer channels to more           1.06 to 1.72, computed here
one item of 64 channels, taps 3 and 7          0.95 to 1.18, computed here
fewer output than 128 channels, several taps   1.25 to 2.4, computed here
dilated                                        2.4 to 4.3, computed here
an input that does not lie in order, one tap   1.2 to 2.2, 256 channels of 4,000 positions to 32 and
                                               256 channels 3.2 to 9.7: torch copies it before; not
                                               of weights of megabytes out of memory (0.99)
planes of 7 by 7, from 512 channels, 3 by 3    0.85, 8 items 0.69; depthwise 0.81 and 0.63
planes of 14 by 14, 256 channels, 3 by 3       1.00, 8 items 0.85; depthwise 1.13 and 1.14
=============================================  =====================================
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

_HAS_MKL = torch.backends.mkl.is_available()
MOST_ELEMENTS = 20_480  # of an input of one item, channels and all
MOST_ITEMS = 15  # of a kernel of one tap, on one thread
WIDE = 128  # channels on both sides
HEAVY = 1 << 18  # elements of a weight
SMALLEST, SMALL = 64, 196  # positions of planes, SMALL for several items of layers without groups


class Products(NamedTuple):
    """Which calls of a layer torch computes; no layer of few channels has these."""

    short: bool  # those of one item of at most 20,480 elements
    long: bool  # those of one thread and fewer than 16 items
    chained: bool  # and with what was fused around them, too
    all: bool  # the widest layers
    smallest: bool = False  # those of planes of at most 64 positions
    small: bool = False  # those of several items of planes of at most 196 positions
    heavy: bool = False  # the weight is so large that an input's copy takes little beside it

    def described(self) -> str:
        """Which calls those are, in words."""
        found = []
        if self.all:
            return "all calls: torch is as fast"
        if self.short:
            found.append(f"of one item of at most {MOST_ELEMENTS:,} elements")
        if self.long:
            found.append(f"of at most {MOST_ITEMS} items on one thread, unless fused")
        if self.smallest:
            found.append(f"of planes of at most {SMALLEST} positions")
        if self.small:
            found.append(f"of several items of planes of at most {SMALL} positions")
        return f"calls {', and '.join(found)}: torch multiplies matrices there, as fast"

    def leaves(self, x: Tensor, rank: int, chained: bool) -> bool:
        """Whether torch computes a call for that input."""
        if self.all:
            return True
        shape = x.shape
        if rank == 1 and not self.heavy and not x.is_contiguous():
            return False
        items = shape[0] if len(shape) == rank + 2 else 1
        if self.smallest:
            positions = shape[-1] * shape[-2]
            if positions <= SMALLEST or (self.small and items > 1 and positions <= SMALL):
                return True
        if self.chained if chained else self.long:
            if items <= MOST_ITEMS and torch.get_num_threads() == 1:
                return True
        if not self.short or items != 1:
            return False
        elements = 1
        for size in shape:
            elements *= size
        return elements <= MOST_ELEMENTS


def products_of(shape: tuple[int, ...], step: int, dilation: Any, groups: int) -> Products | None:
    """The calls of a convolution with a weight of that shape that torch computes, if there are any.

    Parameters
    ----------
    shape : tuple of int
        (C_out, C_in / groups, *kernel).
    step : int
        The product of the strides.
    dilation : int or tuple of int
    groups : int
    """
    c_out, c_in, *kernel = shape
    one_tap = all(size == 1 for size in kernel)
    if not _HAS_MKL or (dilation not in (1, (1, 1)) and not one_tap):
        return None
    in_planes = len(kernel) == 2 and min(kernel) > 1 and min(c_out, c_in * groups) >= WIDE
    if groups != 1:
        return Products(False, False, False, False, True) if in_planes else None
    narrow = 2 * c_out <= c_in and c_in >= 16
    long = one_tap and step == 1 and (narrow or c_in >= 256 or (c_in >= 64 and c_out <= c_in))
    least = min(c_out, c_in)
    short = least >= WIDE and not (len(kernel) == 2 and min(kernel) > 3)  # those are oneDNN's
    if one_tap:
        widest = step == 1 and least >= 1024
    else:
        widest = step > 1 and least >= 512 and max(kernel) >= 3
    if not (short or long or widest or in_planes):
        return None
    heavy = c_out * c_in * math.prod(kernel) > HEAVY
    return Products(short, long, long and narrow, widest, in_planes, in_planes, heavy)
