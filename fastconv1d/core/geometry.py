"""Every length formula and padding rule, in integers checked against 64 bits; no arrays.

The functions of this module take shapes and parameters as the user gave them and return plain
integers, or raise the error that explains which rule was broken and by which value. The texts
contain torch's wording, so that a pattern written for torch's message matches.
"""

import operator
from typing import Any, NamedTuple, NoReturn

import numpy as np

INT64_MAX = 2**63 - 1
PADDING_MAX = INT64_MAX // 2
STEP_MAX = 2**31

# The numbers under which the kernels know the padding modes.
PADDING_MODES = {"zeros": 0, "reflect": 1, "replicate": 2, "circular": 3}
ZEROS, REFLECT, REPLICATE, CIRCULAR = PADDING_MODES.values()

# The strings that `padding` may be, those of a transposed convolution last.
PADDING_STRINGS = ("valid", "same", "causal", "same_upper", "same_lower")
CROPPING_STRINGS = PADDING_STRINGS[2:]

_make = tuple.__new__


class Geometry(NamedTuple):
    """What the kernels need to know of a convolution with lengths, checked.

    Attributes
    ----------
    c_out, l_out : int
        Channels and length of the output.
    stride, dilation : int
        Steps between windows and between taps.
    left, right : int
        Padding, or cropping of a transposed convolution.
    groups : int
        Blocks of channels.
    mode : int
        One of the values of `PADDING_MODES`.
    """

    c_out: int
    l_out: int
    stride: int
    dilation: int
    left: int
    right: int
    groups: int
    mode: int


def as_index(name: str, value: Any) -> int:
    """Return `value` as an int of 64 bits.

    Parameters
    ----------
    name : str
        The name of the argument, for the error.
    value : int, NumPy integer, or a tuple or list of one of them
        The value the user gave. Booleans are refused, as torch refuses them.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If `value` is not an integer.
    ValueError
        If `value` is a tuple or list whose length is not one.
    OverflowError
        If `value` does not fit in 64 bits.

    Examples
    --------
    >>> as_index("stride", (2,))
    2
    """
    if type(value) is not int:
        value = _unpacked(name, value)
    if not -INT64_MAX <= value <= INT64_MAX:
        raise OverflowError(
            f"Overflow when unpacking long long: {name} should fit in 64 bits, "
            f"got {name}={shown(value)}"
        )
    return value


def _unpacked(name: str, value: Any) -> int:
    item = value
    if isinstance(value, (tuple, list)):
        if len(value) != 1:
            pair = "" if name != "padding" else ", or (left, right)"
            raise ValueError(
                f"expected {name} to be a single integer value or a list of 1 values to match the "
                f"convolution dimensions, but got {name}={shown(list(value))}: one number is "
                f"enough, as there is one axis{pair}"
            )
        item = value[0]
    try:
        if isinstance(item, (bool, np.bool_)):  # an index to NumPy 1
            raise TypeError
        return operator.index(item)
    except TypeError:
        raise TypeError(
            f"received an invalid combination of arguments: {name} should be an int or a tuple "
            f"of one int, not {type(item).__name__}, got {name}={shown(value)}"
        ) from None


def shown(value: Any) -> str:
    """Return a short text for a value of an error message, whatever its size.

    Examples
    --------
    >>> shown(2**40), shown(10**9999)
    ('1099511627776', 'an int of 33216 bits')
    """
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an int of {value.bit_length()} bits"
    try:
        text = repr(value)
    except ValueError:  # an int with more digits than Python prints, inside a list
        return f"a {type(value).__name__}"
    return text if len(text) <= 200 else text[:197] + "..."


def conv_length(
    l_in: int, kernel_size: int, stride: int, pad_left: int, pad_right: int, dilation: int
) -> int:
    """Return the output length of a convolution.

    ``L_out = floor((L_in + pad_left + pad_right - dilation*(kernel_size - 1) - 1) / stride) + 1``

    Raises
    ------
    ValueError
        If the dilated kernel is longer than the padded input.
    OverflowError
        If the padded length or that of the dilated kernel exceeds 64 bits.

    Examples
    --------
    >>> conv_length(50, 3, 2, 0, 0, 1)
    24
    """
    padded = l_in + pad_left + pad_right
    extent = dilation * (kernel_size - 1) + 1
    if padded > INT64_MAX or extent > INT64_MAX:
        _overflow("padded input or dilated kernel", max(padded, extent))
    if extent > padded:
        raise ValueError(
            f"Calculated padded input size per channel: ({padded}). Kernel size: ({extent}). "
            "Kernel size can't be greater than actual input size"
        )
    return (padded - extent) // stride + 1


def conv_transpose_length(
    l_in: int,
    kernel_size: int,
    stride: int,
    pad_left: int,
    pad_right: int,
    dilation: int,
    output_padding: int = 0,
) -> int:
    """Return the output length of a transposed convolution, which may be 0.

    ``L_out = (L_in - 1)*stride - pad_left - pad_right + dilation*(kernel_size - 1)
    + output_padding + 1``

    Raises
    ------
    ValueError
        If the padding crops more than there is.
    OverflowError
        If a length exceeds 64 bits.

    Examples
    --------
    >>> conv_transpose_length(24, 3, 2, 0, 0, 1)
    49
    """
    full = (l_in - 1) * stride + dilation * (kernel_size - 1) + output_padding + 1
    if full > INT64_MAX:
        _overflow("output", full)
    l_out = full - pad_left - pad_right
    if l_out < 0:
        raise ValueError(
            f"Given input size per channel: ({l_in}). Calculated output size per channel: "
            f"({l_out}). Output size is too small, got padding=({pad_left}, {pad_right})"
        )
    return l_out


def resolve_padding(
    padding: Any, kernel_size: int, stride: int, dilation: int, l_in: int = 1
) -> tuple[int, int]:
    """Return how many positions are added to the left and to the right.

    Parameters
    ----------
    padding : int, tuple of one or two ints, or one of `PADDING_STRINGS`
        'same' adds ``dilation*(kernel_size - 1)`` in all, an odd one to the right, and 'causal'
        as many to the left alone. 'same_upper' and 'same_lower' add what
        ``L_out = ceil(L_in / stride)`` needs, ``max((L_out - 1)*stride + dilation*(kernel_size - 1)
        + 1 - L_in, 0)``, an odd one to the right and to the left.
    kernel_size, stride, dilation : int
        The layer's; the strings need them.
    l_in : int
        The input's length, on which 'same_upper' and 'same_lower' depend if ``stride > 1``.

    Returns
    -------
    tuple of int
        (pad_left, pad_right)

    Raises
    ------
    ValueError
        If a padding is negative, the string is unknown, or 'same' meets a stride above 1.
    TypeError
        If a padding is not an integer.
    OverflowError
        If a padding exceeds 64 bits.

    Examples
    --------
    >>> resolve_padding("same", 4, 1, 1), resolve_padding("causal", 4, 1, 1)
    ((1, 2), (3, 0))
    >>> resolve_padding("same_upper", 4, 2, 1, 7), resolve_padding("same_lower", 4, 2, 1, 7)
    ((1, 2), (2, 1))
    """
    if isinstance(padding, str):
        return _string_padding(padding, kernel_size, stride, dilation, l_in)
    if isinstance(padding, (tuple, list)) and len(padding) == 2:
        left, right = as_index("padding", padding[0]), as_index("padding", padding[1])
    else:
        left = right = as_index("padding", padding)
    if left < 0 or right < 0:
        raise ValueError(f"negative padding is not supported, got padding={shown(padding)}")
    if left > PADDING_MAX or right > PADDING_MAX:
        raise OverflowError(
            f"Given padding={max(left, right)} at dimension 0 , expected padding to be at most "
            f"{PADDING_MAX}"
        )
    return left, right


def _string_padding(
    padding: str, kernel_size: int, stride: int, dilation: int, l_in: int
) -> tuple[int, int]:
    if padding not in PADDING_STRINGS:
        raise ValueError(
            f"Invalid padding string: {shown(padding)}, should be one of "
            + ", ".join(map(repr, PADDING_STRINGS))
        )
    if padding == "valid":
        return 0, 0
    total = dilation * (kernel_size - 1)
    if padding == "causal":
        return total, 0
    if padding == "same":
        if stride != 1:
            raise ValueError(
                f"padding='same' is not supported for strided convolutions, got stride={stride}"
            )
        return total // 2, total - total // 2
    total = max(total + 1 + (max(-(-l_in // stride), 1) - 1) * stride - l_in, 0)
    return _halves(total, padding)


def _halves(total: int, padding: str) -> tuple[int, int]:
    left = total // 2 if padding == "same_upper" else total - total // 2
    return left, total - left


def pads_follow_length(padding: Any, stride: int) -> bool:
    """Return whether a convolution's padding depends on the length of its input.

    Examples
    --------
    >>> pads_follow_length("same_upper", 2), pads_follow_length("same_upper", 1)
    (True, False)
    """
    return isinstance(padding, str) and padding.startswith("same_") and stride > 1


def resolve_cropping(padding: Any, kernel_size: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return how many positions a transposed convolution leaves out on the left and the right.

    Parameters
    ----------
    padding : int, tuple of one or two ints, or one of `CROPPING_STRINGS`
        The strings leave out ``max(dilation*(kernel_size - 1) + 1 - stride, 0)`` positions, so that
        ``L_out = L_in*stride`` (without output padding, and for a kernel that spans the stride):
        'causal' on the right, the others on both sides, an odd one as in `resolve_padding`.
    kernel_size, stride, dilation : int
        The layer's; the strings need them.

    Returns
    -------
    tuple of int
        (left, right)

    Raises
    ------
    ValueError
        If a padding is negative.
    TypeError
        If a padding is not an integer, or is another string.
    OverflowError
        If a padding exceeds 64 bits.

    Examples
    --------
    >>> resolve_cropping("causal", 5, 2, 1), resolve_cropping("same_upper", 5, 2, 1)
    ((0, 3), (1, 2))
    """
    if not isinstance(padding, str):
        return resolve_padding(padding, kernel_size, stride, dilation)
    if padding not in CROPPING_STRINGS:
        raise TypeError(
            "conv_transpose1d(): argument 'padding' must be tuple of ints, not str, or one of "
            f"{', '.join(map(repr, CROPPING_STRINGS))}, got padding={shown(padding)}"
        )
    total = max(dilation * (kernel_size - 1) + 1 - stride, 0)
    return (0, total) if padding == "causal" else _halves(total, padding)


def resolve_mode(padding_mode: Any) -> int:
    """Return the kernels' number of a padding mode.

    Raises
    ------
    ValueError
        If the mode is unknown.
    TypeError
        If it is not a string.

    Examples
    --------
    >>> resolve_mode("circular")
    3
    """
    if not isinstance(padding_mode, str):
        raise TypeError(
            f"padding_mode should be a string, not {type(padding_mode).__name__}, "
            f"got padding_mode={shown(padding_mode)}"
        )
    try:
        return PADDING_MODES[padding_mode]
    except KeyError:
        raise ValueError(
            f"padding_mode must be one of {{'zeros', 'replicate', 'reflect', 'circular'}}, "
            f"but got padding_mode={shown(padding_mode)}"
        ) from None


def check_positive(stride: int, dilation: int, groups: int) -> None:
    """Raise ValueError unless all three are positive.

    Examples
    --------
    >>> check_positive(stride=2, dilation=1, groups=1)
    """
    if groups <= 0:
        raise ValueError(
            "groups must be a positive integer: non-positive groups is not supported, "
            f"got groups={groups}"
        )
    if stride <= 0:
        raise ValueError(f"non-positive stride is not supported, got stride={stride}")
    if dilation <= 0:
        raise ValueError(
            "non-positive dilation is not supported: dilation should be greater than zero, "
            f"got dilation={dilation}"
        )


def check_output_padding(output_padding: int, stride: int, dilation: int) -> None:
    """Raise ValueError unless `output_padding` is below the stride or the dilation.

    Examples
    --------
    >>> check_output_padding(1, 2, 1)
    """
    if output_padding < 0:
        raise ValueError(
            f"negative output_padding is not supported, got output_padding={output_padding}"
        )
    if output_padding >= max(stride, dilation):
        raise ValueError(
            "output padding must be smaller than either stride or dilation, but got "
            f"output_padding={output_padding} stride={stride} dilation={dilation}"
        )


def conv_geometry(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    bias_shape: tuple[int, ...] | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    padding_mode: Any,
) -> Geometry:
    """Check a convolution of a batched input and return what the kernels need to run it.

    Parameters
    ----------
    x_shape : tuple of three ints
        (N, C_in, L_in)
    w_shape : tuple of int
        (C_out, C_in/groups, K)
    bias_shape : tuple of int or None
        (C_out,)
    stride, padding, dilation, groups, padding_mode
        As the user gave them.

    Returns
    -------
    Geometry
        As in torch, an input without channels has an output without channels.

    Raises
    ------
    ValueError, TypeError, OverflowError
        If torch would refuse the call.

    Examples
    --------
    >>> conv_geometry((20, 16, 50), (33, 16, 3), (33,), 2, 0, 1, 1, "zeros")
    Geometry(c_out=33, l_out=24, stride=2, dilation=1, left=0, right=0, groups=1, mode=0)
    """
    if not (
        type(stride) is type(dilation) is type(groups) is int
        and 0 < stride <= INT64_MAX
        and 0 < dilation <= INT64_MAX
        and 0 < groups <= INT64_MAX
        and len(w_shape) == 3
    ):
        stride, dilation, groups = _checked_parameters(x_shape, w_shape, stride, dilation, groups)
    n_batch, c_in, l_in = x_shape
    c_out, c_in_group, kernel_size = w_shape
    if type(padding) is int and 0 <= padding <= PADDING_MAX:
        left = right = padding
    else:
        left, right = resolve_padding(padding, kernel_size, stride, dilation, l_in)
    if (
        c_out < groups
        or c_out % groups
        or c_in != c_in_group * groups
        or kernel_size == 0
        or (bias_shape is not None and bias_shape != (c_out,))
    ):
        explain_channels(x_shape, w_shape, bias_shape, groups)
    mode = 0
    if padding_mode != "zeros":
        mode = resolve_mode(padding_mode)
        check_padding_mode(padding_mode, x_shape, left, right)
    l_out = conv_length(l_in, kernel_size, stride, left, right, dilation)
    if l_in == 0 and n_batch and c_in:
        refuse_empty(x_shape)
    if stride > STEP_MAX or dilation > STEP_MAX:
        stride, dilation = tamed(stride, dilation, l_out, kernel_size)
    # by tuple.__new__: the constructor of a NamedTuple costs as much as half of these checks
    return _make(
        Geometry, (c_out if c_in else 0, l_out, stride, dilation, left, right, groups, mode)
    )


def conv_transpose_geometry(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    bias_shape: tuple[int, ...] | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    padding_mode: Any = "zeros",
) -> Geometry:
    """Check a transposed convolution of a batched input and return what the kernels need.

    Parameters
    ----------
    x_shape : tuple of three ints
        (N, C_in, L_in)
    w_shape : tuple of int
        (C_in, C_out/groups, K)
    bias_shape : tuple of int or None
        (C_out,)
    stride, padding, output_padding, groups, dilation, padding_mode
        As the user gave them.

    Returns
    -------
    Geometry

    Raises
    ------
    ValueError, TypeError, OverflowError
        If torch would refuse the call.

    Examples
    --------
    >>> conv_transpose_geometry((20, 33, 24), (33, 16, 3), None, 2, 0, 1, 1, 1)
    Geometry(c_out=16, l_out=50, stride=2, dilation=1, left=0, right=0, groups=1, mode=0)
    """
    stride, dilation, groups = _checked_parameters(x_shape, w_shape, stride, dilation, groups)
    output_padding = as_index("output_padding", output_padding)
    left, right = resolve_cropping(padding, w_shape[2], stride, dilation)
    n_batch, c_in, l_in = x_shape
    weight_in, c_out_group, kernel_size = w_shape
    c_out = c_out_group * groups
    if (
        weight_in < groups
        or weight_in % groups
        or c_in != weight_in
        or kernel_size == 0
        or c_out == 0
        or (bias_shape is not None and bias_shape != (c_out,))
    ):
        _explain_transposed_channels(x_shape, w_shape, bias_shape, groups)
    check_output_padding(output_padding, stride, dilation)
    l_out = conv_transpose_length(l_in, kernel_size, stride, left, right, dilation, output_padding)
    if l_in == 0 and n_batch:
        refuse_empty(x_shape)
    mode = 0
    if padding_mode != "zeros":
        mode = resolve_mode(padding_mode)
        check_padding_mode(padding_mode, (n_batch, c_out, l_out), left, right, "output")
    stride, dilation = tamed(stride, dilation, l_in, kernel_size)
    return _make(Geometry, (c_out, l_out, stride, dilation, left, right, groups, mode))


def unfold_geometry(
    x_shape: tuple[int, ...], kernel_size: Any, dilation: Any, padding: Any, stride: Any
) -> tuple[int, int, int, int, int]:
    """Check `unfold1d` of a batched input and return (K, L_out, stride, dilation, pad_left).

    Raises
    ------
    ValueError, TypeError, OverflowError
        If torch's Unfold would refuse the call.

    Examples
    --------
    >>> unfold_geometry((1, 2, 10), 3, 1, 0, 1)
    (3, 8, 1, 1, 0)
    """
    _, channels, l_in = x_shape
    kernel_size, stride, dilation, left, right = _window(
        kernel_size, dilation, padding, stride, l_in
    )
    if channels == 0 or l_in == 0:
        raise ValueError(
            "Expected 2D or 3D (batch mode) tensor with possibly 0 batch size and other non-zero "
            f"dimensions for input, but got: {list(x_shape)}"
        )
    blocks = _blocks(l_in, kernel_size, stride, left, right, dilation)
    if blocks < 1:
        raise ValueError(
            f"Given input with spatial size ({l_in}), kernel_size=({kernel_size}), "
            f"dilation=({dilation}), padding=({left}, {right}), calculated shape of the array of "
            f"sliding blocks as ({blocks}), but its components must be at least one."
        )
    stride, dilation = tamed(stride, dilation, blocks, kernel_size)
    return kernel_size, blocks, stride, dilation, left


def fold_geometry(
    x_shape: tuple[int, ...],
    output_size: Any,
    kernel_size: Any,
    dilation: Any,
    padding: Any,
    stride: Any,
) -> tuple[int, int, int, int, int]:
    """Check `fold1d` of batched columns and return (C, output_size, stride, dilation, pad_left).

    Raises
    ------
    ValueError, TypeError, OverflowError
        If torch's Fold would refuse the call.

    Examples
    --------
    >>> fold_geometry((1, 6, 8), 10, 3, 1, 0, 1)
    (2, 10, 1, 1, 0)
    """
    output_size = as_index("output_size", output_size)
    kernel_size, stride, dilation, left, right = _window(
        kernel_size, dilation, padding, stride, max(output_size, 0)
    )
    _, rows, columns = x_shape
    if rows == 0 or columns == 0:
        raise ValueError(
            "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and "
            f"non-zero dimensions for input, but got: {list(x_shape)}"
        )
    if rows % kernel_size:
        raise ValueError(
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size, "
            f"but got input.size(1)={rows} and kernel_size=({kernel_size})."
        )
    if output_size < 1:
        raise ValueError(
            f"Expected output spatial size to be positive, but got: output_size=({output_size})"
        )
    blocks = _blocks(output_size, kernel_size, stride, left, right, dilation)
    if blocks != columns:
        raise ValueError(
            f"Given output_size=({output_size}), kernel_size=({kernel_size}), "
            f"dilation=({dilation}), padding=({left}, {right}), stride=({stride}), expected size "
            f"of input's dimension 2 to match the calculated number of sliding blocks {blocks}, "
            f"but got input.size(2)={columns}."
        )
    stride, dilation = tamed(stride, dilation, columns, kernel_size)
    return rows // kernel_size, output_size, stride, dilation, left


def _window(
    kernel_size: Any, dilation: Any, padding: Any, stride: Any, length: int
) -> tuple[int, int, int, int, int]:
    kernel_size = as_index("kernel_size", kernel_size)
    stride, dilation = as_index("stride", stride), as_index("dilation", dilation)
    for name, value in (("kernel size", kernel_size), ("stride", stride), ("dilation", dilation)):
        if value <= 0:
            raise ValueError(f"{name} should be greater than zero, but got {value}")
    if isinstance(padding, str) and padding not in CROPPING_STRINGS:
        raise TypeError(
            "padding should be an int or a tuple of ints, or one of "
            f"{', '.join(map(repr, CROPPING_STRINGS))}, got {shown(padding)}"
        )
    try:
        left, right = resolve_padding(padding, kernel_size, stride, dilation, length)
    except ValueError as error:
        raise ValueError(f"padding should be non-negative: {error}") from None
    return kernel_size, stride, dilation, left, right


def _blocks(l_in: int, kernel_size: int, stride: int, left: int, right: int, dilation: int) -> int:
    extent = dilation * (kernel_size - 1) + 1
    padded = l_in + left + right
    if padded > INT64_MAX or extent > INT64_MAX:
        _overflow("padded input or dilated kernel", max(padded, extent))
    return (padded - extent) // stride + 1


def tamed(stride: int, dilation: int, steps: int, kernel_size: int) -> tuple[int, int]:
    # A stride never taken and a dilation never spanned may be anything up to 2^63 - 1; cut them,
    # so that an index one past the end does not overflow in a kernel either.
    if steps <= 1:
        stride = min(stride, STEP_MAX)
    if kernel_size == 1:
        dilation = min(dilation, STEP_MAX)
    return stride, dilation


def _overflow(what: str, size: int) -> NoReturn:
    raise OverflowError(f"the size of the {what} should be at most {INT64_MAX}, got {size}")


def refuse_empty(x_shape: tuple[int, ...]) -> NoReturn:
    raise ValueError(
        "Only zero batch or zero channel inputs are supported, "
        f"but got input shape: {list(x_shape)}"
    )


def _checked_parameters(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Any, dilation: Any, groups: Any
) -> tuple[int, int, int]:
    stride, dilation = as_index("stride", stride), as_index("dilation", dilation)
    groups = as_index("groups", groups)
    if len(w_shape) < 3:
        raise ValueError(
            "weight should have at least three dimensions, "
            f"but got weight of size {list(w_shape)} instead"
            + (": taps[None, None] for one filter" if len(w_shape) == 1 else "")
            + (": weight[:, None] for a filter each row" if len(w_shape) == 2 else "")
        )
    check_positive(stride, dilation, groups)
    if len(w_shape) > 3:
        raise ValueError(
            f"Expected {len(w_shape)}-dimensional input for {len(w_shape)}-dimensional weight "
            f"{list(w_shape)}, but got 3-dimensional input of size {list(x_shape)} instead"
        )
    return stride, dilation, groups


def _explain_groups(w_shape: tuple[int, ...], groups: int) -> None:
    if w_shape[0] < groups:
        raise ValueError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, "
            f"but got weight of size {list(w_shape)} instead"
        )
    if w_shape[0] % groups:
        raise ValueError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, "
            f"but got weight of size [{list(w_shape)}] instead"
        )


def _swapped(x_shape: tuple[int, ...], channels: int) -> str:
    """Return how to mend an input whose channels are last where they should be second."""
    if len(x_shape) != 3 or x_shape[2] != channels:
        return ""
    return ": the axes are swapped, x.swapaxes(-1, -2) or the other layout= ('NCL', 'NLC') helps"


def explain_channels(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    bias_shape: tuple[int, ...] | None,
    groups: int,
) -> NoReturn:
    _explain_groups(w_shape, groups)
    c_out, c_in_group = w_shape[:2]
    if x_shape[1] != c_in_group * groups:
        raise ValueError(
            f"Given groups={groups}, weight of size {list(w_shape)}, expected input"
            f"{list(x_shape)} to have {c_in_group * groups} channels, "
            f"but got {x_shape[1]} channels instead{_swapped(x_shape, c_in_group * groups)}"
        )
    if bias_shape is not None and bias_shape != (c_out,):
        raise ValueError(
            f"Given weight of size {list(w_shape)}, expected bias to be 1-dimensional with "
            f"{c_out} elements, but got bias of size {list(bias_shape)} instead"
        )
    raise ValueError(
        f"kernel size should be greater than zero, but got weight of size {list(w_shape)}"
    )


def _explain_transposed_channels(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    bias_shape: tuple[int, ...] | None,
    groups: int,
) -> NoReturn:
    _explain_groups(w_shape, groups)
    given = f"Given transposed=1, weight of size {list(w_shape)}, expected"
    if x_shape[1] != w_shape[0]:
        raise ValueError(
            f"{given} input{list(x_shape)} to have {w_shape[0]} channels, "
            f"but got {x_shape[1]} channels instead{_swapped(x_shape, w_shape[0])}"
        )
    c_out = w_shape[1] * groups
    if bias_shape is not None and bias_shape != (c_out,):
        raise ValueError(
            f"{given} bias to be 1-dimensional with {c_out} elements, "
            f"but got bias of size {list(bias_shape)} instead"
        )
    raise ValueError(
        "kernel size should be greater than zero, and non-empty 2D or 4D weight tensor expected, "
        f"but got: {list(w_shape)}"
    )


def check_padding_mode(
    padding_mode: str, shape: tuple[int, ...], left: int, right: int, padded: str = "input"
) -> None:
    """Check a mode against what is padded: the input, or the output of a transposed convolution."""
    length, widest = shape[2], max(left, right)
    if padding_mode == "circular":
        if widest > length:
            raise ValueError(
                "Padding value causes wrapping around more than once. Circular padding should be "
                f"at most {length}, the {padded} length, got padding ({left}, {right})"
            )
        return
    if shape[1] == 0 or length == 0:
        raise ValueError(
            "Expected 2D or 3D (batch mode) tensor with possibly 0 batch size and other non-zero "
            f"dimensions for {padded}, but got: {list(shape)}"
        )
    if padding_mode == "reflect" and widest >= length:
        raise ValueError(
            f"Padding size should be less than the corresponding {padded} dimension, but got: "
            f"padding ({left}, {right}) at dimension 2 of {padded} {list(shape)}"
        )
