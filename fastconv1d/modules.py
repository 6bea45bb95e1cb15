"""The layers Conv1d, Conv2d and ConvTranspose1d; what they share is in `core.convolution`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .core import geometry
from .core.convolution import Convolution, Option, Size
from .core.spec2d import checked_kernel2d, checked_spec2d
from .streaming import StreamingConv1d, StreamingConvTranspose1d

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, DTypeLike, NDArray


class Conv1d(Convolution):
    """A layer that applies a 1-D convolution; see `fastconv1d.conv1d` for the formula.

    A new layer is in eval mode, because this is a library for inference: call `train` before a
    forward that `backward` is to follow.

    Parameters
    ----------
    in_channels : int
        Channels C_in of the input.
    out_channels : int
        Channels C_out of the output.
    kernel_size : int
        Length K of the kernel, in taps.
    stride : int, default 1
        Step between two windows.
    padding : int, tuple of one or two ints, or str, default 0
        Positions added on both sides, or ``(left, right)``; 'valid', 'same', 'causal', 'same_upper'
        or 'same_lower' as in `fastconv1d.conv1d`.
    dilation : int, default 1
        Step between two taps of the kernel.
    groups : int, default 1
        Number of blocks of channels that are convolved separately; divides C_in and C_out.
    bias : bool, default True
        Whether there is a bias.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}, default 'zeros'
        What the added positions hold.
    device : None or 'cpu'
        For torch's argument order; there is only the CPU.
    dtype : dtype, default float32
        float32, float64, complex64 or complex128.
    rng : numpy.random.Generator, optional
        Where the initial parameters come from, see `reset_parameters`.
    algorithm : {'auto', 'blas', 'direct', 'fast', 'fft', 'winograd'}, default 'auto'
        Which engine computes, see `fastconv1d.conv1d`. With 'winograd' a layer in eval mode takes
        about half the multiplications, by tiles of some neighbouring outputs: stride or dilation 1,
        2 to 32 taps (of a phase of the stride), a real dtype, and as many channels a group, some
        48, as make long inputs faster. It is 'auto' elsewhere, and in deterministic mode. An input
        of some 30 positions may take longer. The error of up to four taps is a few times as large,
        and relative to the largest output rather than to each. An output's bits, and whether it is
        finite, depend on the inputs of its tile; and float32 inputs or weights beyond some 1e36,
        whose sums would still be finite, may overflow. With 'fft' a layer is computed by transforms
        of blocks, whose spectra it keeps, also in train mode, if stride or dilation is 1: the error
        is relative to the sum of the weights' sizes times the largest input of a block, bits change
        with the last block, and what is not finite makes its blocks NaN. 'fast' is the fastest of
        'direct', 'winograd' and 'fft' for the layer and the length.
    activation, pre_activation, residual_scale, residual_position, layout
        What happens around the sums and the layout of inputs and outputs, as in
        `fastconv1d.conv1d`; `forward` takes the residual.

    Attributes
    ----------
    weight : ndarray of shape (C_out, C_in / groups, K)
        Read-only in eval mode; assigning copies.
    bias : ndarray of shape (C_out,) or None
        As `weight`.
    weight_grad, bias_grad : ndarray or None
        Sums of the gradients of every `backward` since `zero_grad`.
    residual_grad : ndarray or None
        The gradient of the last `backward` by the residual, None where the forward had none.
    training : bool
        Whether the layer is in train mode.

    Raises
    ------
    ValueError
        If the parameters do not fit together.
    TypeError
        If a parameter has the wrong type or the dtype is not among the four.
    OverflowError
        If a size exceeds 64 bits.
    MemoryError
        If the parameters cannot be allocated.

    Notes
    -----
    Input (N, C_in, L_in) or (C_in, L_in), output (N, C_out, L_out) or (C_out, L_out), of the
    layer's dtype, ``L_out = floor((L_in + pad_left + pad_right - dilation*(K - 1) - 1) / stride)
    + 1``. Memory and threads as in `fastconv1d.conv1d`. In eval mode a layer may be called from
    several threads at once.

    References
    ----------
    ``torch.nn.Conv1d``: https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv1d.html

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import Conv1d
    >>> layer = Conv1d(16, 33, 3, stride=2)
    >>> layer
    Conv1d(16, 33, kernel_size=(3,), stride=(2,))
    >>> layer(np.zeros((20, 16, 50), np.float32)).shape
    (20, 33, 24)
    """

    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: DTypeLike | None = None,
        *,
        rng: np.random.Generator | None = None,
        algorithm: str = "auto",
        activation: Any = None,
        pre_activation: Any = None,
        residual_scale: float = 1.0,
        residual_position: str = "before",
        layout: str = "NCL",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            bias,
            device,
            dtype,
            rng,
            stride=stride,
            padding=padding,
            output_padding=0,
            dilation=dilation,
            groups=groups,
            padding_mode=padding_mode,
            algorithm=algorithm,
            activation=activation,
            pre_activation=pre_activation,
            residual_scale=residual_scale,
            residual_position=residual_position,
            layout=layout,
        )

    def _weight_shape(self) -> tuple[int, ...]:
        return self.out_channels, self.in_channels // self.groups, self.kernel_size[0]

    def forward(
        self,
        input: ArrayLike,
        *,
        residual: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Apply the layer; in train mode, keep the input for `backward`.

        Parameters
        ----------
        input : ndarray of shape (N, C_in, L_in) or (C_in, L_in)
            Of the layer's dtype, or of 16 bits for a float32 layer.
        residual : ndarray of the output's shape and dtype, optional
            Added to the output, before or after the activation.
        out : ndarray of the output's shape and dtype, optional
            Where to write the output.

        Returns
        -------
        ndarray of shape (N, C_out, L_out) or (C_out, L_out)

        Raises
        ------
        ValueError, TypeError, OverflowError, MemoryError
            As `fastconv1d.conv1d`.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d
        >>> Conv1d(2, 3, 5, padding="same").forward(np.zeros((2, 10), np.float32)).shape
        (3, 10)
        """
        if not self.training:
            fast = self._fast_forward(input, residual, out)
            if fast is not None:
                return fast
        return self._slow_forward(input, residual, out)

    def __call__(
        self,
        input: ArrayLike,
        *,
        residual: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return ``forward(input, residual=residual, out=out)``."""
        return self.forward(input, residual=residual, out=out)

    def stream(self, n_batch: int = 1) -> StreamingConv1d:
        """Return the layer over sequences that arrive in chunks.

        Parameters
        ----------
        n_batch : int, default 1
            How many sequences run side by side.

        Returns
        -------
        StreamingConv1d

        Raises
        ------
        ValueError
            If the padding depends on what is not there yet, see `StreamingConv1d`.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv1d
        >>> stream = Conv1d(2, 3, 5, padding="causal").stream()
        >>> stream(np.ones((2, 1), np.float32)).shape
        (3, 1)
        """
        return StreamingConv1d(self, n_batch)


class Conv2d(Convolution):
    """A layer that applies a 2-D convolution; see `fastconv1d.conv2d` for the formula.

    A new layer is in eval mode, as `Conv1d`.

    Parameters
    ----------
    in_channels : int
        Channels C_in of the input.
    out_channels : int
        Channels C_out of the output.
    kernel_size : int or pair of ints
        Size (KH, KW) of the kernel.
    stride : int or pair of ints, default 1
        Step between two windows.
    padding : int, pair of ints, pair of pairs or str, default 0
        As `fastconv1d.conv2d`.
    dilation : int or pair of ints, default 1
        Step between two taps of the kernel.
    groups : int, default 1
        Number of blocks of channels that are convolved separately; divides C_in and C_out.
    bias : bool, default True
        Whether there is a bias.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}, default 'zeros'
        What the added positions hold.
    device : None or 'cpu'
        For torch's argument order; there is only the CPU.
    dtype : dtype, default float32
        float32, float64, complex64 or complex128.
    rng : numpy.random.Generator, optional
        Where the initial parameters come from, see `reset_parameters`.
    algorithm : {'auto', 'blas', 'direct', 'fast', 'fft', 'winograd'}, default 'auto'
        Which engine computes, see `fastconv1d.conv2d`.
    activation, pre_activation, residual_scale, residual_position, layout
        What happens around the sums and the layout of inputs and outputs, as in
        `fastconv1d.conv2d`; `forward` takes the residual.

    Attributes
    ----------
    weight : ndarray of shape (C_out, C_in / groups, KH, KW)
        Read-only in eval mode; assigning copies.
    bias : ndarray of shape (C_out,) or None
        As `weight`.
    weight_grad, bias_grad : ndarray or None
        Sums of the gradients of every `backward` since `zero_grad`.
    residual_grad : ndarray or None
        The gradient of the last `backward` by the residual, None where the forward had none.
    training : bool
        Whether the layer is in train mode.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `Conv1d`.

    Notes
    -----
    Input (N, C_in, H_in, W_in) or (C_in, H_in, W_in), output (N, C_out, H_out, W_out) or
    (C_out, H_out, W_out), of the layer's dtype. Memory and threads as in `fastconv1d.conv1d`. In
    eval mode a layer may be called from several threads at once.

    References
    ----------
    ``torch.nn.Conv2d``: https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html

    Examples
    --------
    With square kernels and equal stride, with different ones and padding, and with dilation:

    >>> import numpy as np
    >>> from fastconv1d import Conv2d
    >>> x = np.zeros((20, 16, 50, 100), np.float32)
    >>> Conv2d(16, 33, 3, stride=2)(x).shape
    (20, 33, 24, 49)
    >>> Conv2d(16, 33, (3, 5), stride=(2, 1), padding=(4, 2))(x).shape
    (20, 33, 28, 100)
    >>> layer = Conv2d(16, 33, (3, 5), stride=(2, 1), padding=(4, 2), dilation=(3, 1))
    >>> layer
    Conv2d(16, 33, kernel_size=(3, 5), stride=(2, 1), padding=(4, 2), dilation=(3, 1))
    >>> layer(x).shape
    (20, 33, 26, 100)
    """

    transposed = False
    _rank = 2
    _options_of_spec = (
        *("stride", "padding", "dilation", "groups", "padding_mode", "algorithm", "layout"),
    )

    kernel_size = Size(lambda layer: layer._spec.kernel_size)
    stride = Option(lambda spec: spec.stride)
    dilation = Option(lambda spec: spec.dilation)
    output_padding = Size(lambda layer: (0, 0))

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Any = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: DTypeLike | None = None,
        *,
        rng: np.random.Generator | None = None,
        algorithm: str = "auto",
        activation: Any = None,
        pre_activation: Any = None,
        residual_scale: float = 1.0,
        residual_position: str = "before",
        layout: str = "NCHW",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            bias,
            device,
            dtype,
            rng,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            padding_mode=padding_mode,
            algorithm=algorithm,
            activation=activation,
            pre_activation=pre_activation,
            residual_scale=residual_scale,
            residual_position=residual_position,
            layout=layout,
        )

    def _weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def _checked_kernel(self, kernel_size: Any) -> Any:
        return checked_kernel2d(kernel_size)

    def _checked_spec(self, kernel_size: Any, **options: Any) -> Any:
        return checked_spec2d(kernel_size, self._channels, **options)

    def forward(
        self,
        input: ArrayLike,
        *,
        residual: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Apply the layer; in train mode, keep the input for `backward`.

        Parameters
        ----------
        input : ndarray of shape (N, C_in, H_in, W_in) or (C_in, H_in, W_in)
            Of the layer's dtype, or of 16 bits for a float32 layer.
        residual : ndarray of the output's shape and dtype, optional
            Added to the output, before or after the activation.
        out : ndarray of the output's shape and dtype, optional
            Where to write the output.

        Returns
        -------
        ndarray of shape (N, C_out, H_out, W_out) or (C_out, H_out, W_out)

        Raises
        ------
        ValueError, TypeError, OverflowError, MemoryError
            As `fastconv1d.conv2d`.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import Conv2d
        >>> Conv2d(2, 3, 5, padding="same").forward(np.zeros((2, 10, 8), np.float32)).shape
        (3, 10, 8)
        """
        if not self.training:
            fast = self._fast_forward(input, residual, out)
            if fast is not None:
                return fast
        return self._slow_forward(input, residual, out)

    def __call__(
        self,
        input: ArrayLike,
        *,
        residual: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return ``forward(input, residual=residual, out=out)``."""
        return self.forward(input, residual=residual, out=out)

    def stream(self, n_batch: int = 1) -> NoReturn:
        """Raise, as streams are of one dimension.

        Parameters
        ----------
        n_batch : int, default 1
            As `Conv1d.stream`.

        Returns
        -------
        NoReturn
            It never returns.

        Raises
        ------
        ValueError
            Always.

        Examples
        --------
        >>> from fastconv1d import Conv2d
        >>> Conv2d(2, 3, (1, 5)).stream()
        Traceback (most recent call last):
        ...
        ValueError: chunks should be (N, C, L), got a Conv2d: a kernel of (1, 5) may be a Conv1d
        """
        hint = f": a kernel of {self.kernel_size} may be a Conv1d" if 1 in self.kernel_size else ""
        raise ValueError(f"chunks should be (N, C, L), got a Conv2d{hint}")


class ConvTranspose1d(Convolution):
    """A layer that applies a transposed convolution; see `fastconv1d.conv_transpose1d`.

    A new layer is in eval mode, because this is a library for inference: call `train` before a
    forward that `backward` is to follow.

    Parameters
    ----------
    in_channels : int
        Channels C_in of the input.
    out_channels : int
        Channels C_out of the output.
    kernel_size : int
        Length K of the kernel, in taps.
    stride : int, default 1
        Step between the windows of two input positions.
    padding : int, tuple of one or two ints, or str, default 0
        Positions cropped from both ends of the output, or ``(left, right)``; 'causal', 'same_upper'
        or 'same_lower' as in `fastconv1d.conv_transpose1d`.
    output_padding : int, default 0
        Positions added to the right end, below `stride` or `dilation`.
    groups : int, default 1
        Number of blocks of channels that are convolved separately; divides C_in and C_out.
    bias : bool, default True
        Whether there is a bias.
    dilation : int, default 1
        Step between two taps of the kernel.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}, default 'zeros'
        What becomes of the cropped positions, see `fastconv1d.conv_transpose1d`; torch has 'zeros'
        only.
    device : None or 'cpu'
        For torch's argument order; there is only the CPU.
    dtype : dtype, default float32
        float32, float64, complex64 or complex128.
    rng : numpy.random.Generator, optional
        Where the initial parameters come from, see `reset_parameters`.
    algorithm : {'auto', 'blas', 'direct', 'fast', 'fft'}, default 'auto'
        Which engine computes, see `fastconv1d.conv1d`.
    activation, pre_activation, residual_scale, residual_position, layout
        What happens around the sums and the layout of inputs and outputs, as in
        `fastconv1d.conv_transpose1d`; `forward` takes the residual.

    Attributes
    ----------
    weight : ndarray of shape (C_in, C_out / groups, K)
        Read-only in eval mode; assigning copies.
    bias : ndarray of shape (C_out,) or None
        As `weight`.
    weight_grad, bias_grad : ndarray or None
        Sums of the gradients of every `backward` since `zero_grad`.
    residual_grad : ndarray or None
        The gradient of the last `backward` by the residual, None where the forward had none.
    training : bool
        Whether the layer is in train mode.

    Raises
    ------
    ValueError
        If the parameters do not fit together.
    TypeError
        If a parameter has the wrong type or the dtype is not among the four.
    OverflowError
        If a size exceeds 64 bits.
    MemoryError
        If the parameters cannot be allocated.

    Notes
    -----
    Input (N, C_in, L_in) or (C_in, L_in), output (N, C_out, L_out) or (C_out, L_out), of the
    layer's dtype, ``L_out = (L_in - 1)*stride - pad_left - pad_right + dilation*(K - 1)
    + output_padding + 1``. Memory and threads as in `fastconv1d.conv_transpose1d`. In eval mode
    a layer may be called from several threads at once.

    References
    ----------
    ``torch.nn.ConvTranspose1d``:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.ConvTranspose1d.html

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv1d import ConvTranspose1d
    >>> layer = ConvTranspose1d(33, 16, 3, stride=2)
    >>> layer
    ConvTranspose1d(33, 16, kernel_size=(3,), stride=(2,))
    >>> layer(np.zeros((20, 33, 24), np.float32), output_size=[50]).shape
    (20, 16, 50)
    """

    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: DTypeLike | None = None,
        *,
        rng: np.random.Generator | None = None,
        algorithm: str = "auto",
        activation: Any = None,
        pre_activation: Any = None,
        residual_scale: float = 1.0,
        residual_position: str = "before",
        layout: str = "NCL",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            bias,
            device,
            dtype,
            rng,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            dilation=dilation,
            groups=groups,
            padding_mode=padding_mode,
            algorithm=algorithm,
            activation=activation,
            pre_activation=pre_activation,
            residual_scale=residual_scale,
            residual_position=residual_position,
            layout=layout,
        )

    def _weight_shape(self) -> tuple[int, ...]:
        return self.in_channels, self.out_channels // self.groups, self.kernel_size[0]

    def forward(
        self,
        input: ArrayLike,
        output_size: int | Sequence[int] | None = None,
        *,
        residual: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Apply the layer; in train mode, keep the input for `backward`.

        Parameters
        ----------
        input : ndarray of shape (N, C_in, L_in) or (C_in, L_in)
            Of the layer's dtype, or of 16 bits for a float32 layer.
        output_size : int or sequence of int, optional
            The length of the output, alone or as the last of its whole shape. It takes the place
            of `output_padding`, and may exceed the shortest output by less than `stride`.
        residual : ndarray of the output's shape and dtype, optional
            Added to the output, before or after the activation.
        out : ndarray of the output's shape and dtype, optional
            Where to write the output.

        Returns
        -------
        ndarray of shape (N, C_out, L_out) or (C_out, L_out)

        Raises
        ------
        ValueError
            If `output_size` is out of range, and as `fastconv1d.conv_transpose1d`.
        TypeError, OverflowError, MemoryError
            As `fastconv1d.conv_transpose1d`.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import ConvTranspose1d
        >>> layer = ConvTranspose1d(2, 3, 3, stride=4)
        >>> layer.forward(np.zeros((2, 5), np.float32), output_size=20).shape
        (3, 20)
        """
        if output_size is None and not self.training:
            fast = self._fast_forward(input, residual, out)
            if fast is not None:
                return fast
        output_padding = None
        if output_size is not None:
            output_padding = self._output_padding(np.shape(input), output_size)
        return self._slow_forward(input, residual, out, output_padding)

    def __call__(
        self,
        input: ArrayLike,
        output_size: int | Sequence[int] | None = None,
        *,
        residual: ArrayLike | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return ``forward(input, output_size, residual=residual, out=out)``."""
        return self.forward(input, output_size, residual=residual, out=out)

    def stream(self, n_batch: int = 1) -> StreamingConvTranspose1d:
        """Return the layer over sequences that arrive in chunks.

        Parameters
        ----------
        n_batch : int, default 1
            How many sequences run side by side.

        Returns
        -------
        StreamingConvTranspose1d

        Raises
        ------
        ValueError
            If the padding mode is not 'zeros'.

        Examples
        --------
        >>> import numpy as np
        >>> from fastconv1d import ConvTranspose1d
        >>> stream = ConvTranspose1d(2, 3, 8, stride=4, padding="causal").stream()
        >>> stream(np.ones((2, 1), np.float32)).shape
        (3, 4)
        """
        return StreamingConvTranspose1d(self, n_batch)

    def _output_padding(
        self, input_shape: tuple[int, ...], output_size: int | Sequence[int]
    ) -> int:
        ndim = len(input_shape)
        if ndim not in (2, 3):
            return 0  # the convolution explains it
        sizes = list(output_size) if hasattr(output_size, "__len__") else [output_size]  # type: ignore[arg-type]
        if len(sizes) not in (1, ndim):
            raise ValueError(
                f"ConvTranspose1D: for {ndim}D input, output_size must have 1 or {ndim} elements "
                f"(got {len(sizes)})"
            )
        size = geometry.as_index("output_size", sizes[-1])
        spec = self._spec
        shortest = (input_shape[-1] - 1) * spec.stride - sum(spec.pads()) + spec.span
        longest = shortest + spec.stride - 1
        if not shortest <= size <= longest:
            raise ValueError(
                f"requested an output size of [{size}], but valid sizes range from [{shortest}] "
                f"to [{longest}] (for an input of [{input_shape[-1]}])"
            )
        return size - shortest
