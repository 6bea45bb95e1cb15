"""Unfold (im2col) and fold (col2im, its adjoint) of one-dimensional windows."""

from cpython.exc cimport PyErr_CheckSignals
from libc.string cimport memcpy, memset

from fastconv1d.kernels.numeric cimport num_t


# Elements written between two looks for a pending signal: 0.02 to 0.1 s.
cdef Py_ssize_t SIGNAL_ELEMENTS = 1 << 24


cdef Strided strided(const num_t[:, :, :] x) noexcept:
    cdef Strided view
    cdef int i
    view.data = <const char *> &x[0, 0, 0] if x.shape[0] and x.shape[1] and x.shape[2] else NULL
    for i in range(3):
        view.shape[i], view.strides[i] = x.shape[i], x.strides[i]
    return view


# The first column l >= 0 with start + l * stride >= bound, where stride > 0.
cdef inline Py_ssize_t _first_reaching(
    Py_ssize_t start, Py_ssize_t stride, Py_ssize_t bound
) noexcept nogil:
    if start >= bound:
        return 0
    return (bound - start - 1) // stride + 1


# The input position that padding puts at `position`, or -1 where the padding is zero.
cdef inline Py_ssize_t _resolve(Py_ssize_t position, Py_ssize_t length, int mode) noexcept nogil:
    if 0 <= position < length:
        return position
    if mode == REFLECT:
        position = -position if position < 0 else 2 * (length - 1) - position
    elif mode == REPLICATE:
        position = 0 if position < 0 else length - 1
    elif mode == CIRCULAR:
        position += length if position < 0 else -length
    return position if 0 <= position < length else -1


# out[j] = x[start + j * stride], resolved by `mode`, for j in [begin, end): the padded ends of a
# row.
cdef void _unfold_padding(
    const char *x, Py_ssize_t x_step, Py_ssize_t length, Py_ssize_t start, Py_ssize_t stride,
    int mode, Py_ssize_t begin, Py_ssize_t end, num_t *out,
) noexcept nogil:
    cdef Py_ssize_t j, position
    if end <= begin:
        return
    if mode == ZEROS:
        memset(out + begin, 0, (end - begin) * sizeof(num_t))
        return
    for j in range(begin, end):
        position = _resolve(start + j * stride, length, mode)
        out[j] = (<const num_t *> (x + position * x_step))[0] if position >= 0 else 0


# out[j] = the j-th element from x on, step bytes apart.
cdef void _copy_strided(
    const char *x, Py_ssize_t step, num_t *out, Py_ssize_t count
) noexcept nogil:
    cdef Py_ssize_t j
    cdef const num_t *source = <const num_t *> x
    if step == sizeof(num_t):
        memcpy(out, x, count * sizeof(num_t))
    elif step == 2 * sizeof(num_t):  # a constant stride lets the compiler use shuffles
        for j in range(count):
            out[j] = source[2 * j]
    else:
        for j in range(count):
            out[j] = (<const num_t *> (x + j * step))[0]


# Rows r = c * kernel_size + k from first_row on, columns l from first_column on:
#     out[r - first_row, l - first_column] = x[item, first_channel + c, position],
#     position = l*stride + k*dilation - pad_left,
# with positions outside [0, length) resolved by the padding mode. The columns that need no padding
# are a range worked out once a row. Every position must fit a Py_ssize_t; nothing outside x is
# read.
cdef void unfold_tile(
    const Strided *x, Py_ssize_t item, Py_ssize_t first_channel,
    Py_ssize_t first_row, Py_ssize_t n_rows, Py_ssize_t first_column, Py_ssize_t n_columns,
    const Window *window, num_t *out, Py_ssize_t out_row_length,
) noexcept nogil:
    cdef Py_ssize_t length = x.shape[2], x_step = x.strides[2], stride = window.stride
    cdef Py_ssize_t channel = first_channel + first_row // window.kernel_size
    cdef Py_ssize_t k = first_row % window.kernel_size
    cdef Py_ssize_t start, inside, outside, _
    cdef const char *base = x.data + item * x.strides[0]
    cdef const char *row
    for _ in range(n_rows):
        row = base + channel * x.strides[1]
        start = first_column * stride - window.pad_left + k * window.dilation
        inside = min(_first_reaching(start, stride, 0), n_columns)
        outside = max(inside, min(_first_reaching(start, stride, length), n_columns))
        _unfold_padding(row, x_step, length, start, stride, window.mode, 0, inside, out)
        if outside > inside:
            _copy_strided(
                row + (start + inside * stride) * x_step, stride * x_step,
                out + inside, outside - inside)
        _unfold_padding(row, x_step, length, start, stride, window.mode, outside, n_columns, out)
        out += out_row_length
        k += 1
        if k == window.kernel_size:
            k = 0
            channel += 1


# out[l*stride + k*dilation - pad_left] += cols[item, channel * kernel_size + k, l]
# over taps k in order and columns l, wherever that position lies in [0, length).
cdef void fold_tile(
    const Strided *cols, Py_ssize_t item, Py_ssize_t channel,
    const Window *window, num_t *out, Py_ssize_t length,
) noexcept nogil:
    cdef Py_ssize_t stride = window.stride, n_columns = cols.shape[2], step = cols.strides[2]
    cdef Py_ssize_t k, j, start, inside, outside
    cdef const char *row
    for k in range(window.kernel_size):
        row = (cols.data + item * cols.strides[0]
               + (channel * window.kernel_size + k) * cols.strides[1])
        start = k * window.dilation - window.pad_left
        inside = min(_first_reaching(start, stride, 0), n_columns)
        outside = min(_first_reaching(start, stride, length), n_columns)
        for j in range(inside, outside):
            out[start + j * stride] += (<const num_t *> (row + j * step))[0]


cdef Window _window(rows, channels, stride, dilation, pad_left) except *:
    cdef Window window
    if stride < 1 or dilation < 1:
        raise ValueError(f"stride and dilation should be positive, got {stride} and {dilation}")
    if channels and rows % channels:
        raise ValueError(f"expected a multiple of {channels} rows, got {rows}")
    window.kernel_size = rows // channels if channels else 0
    window.stride, window.dilation, window.pad_left = stride, dilation, pad_left
    window.mode = ZEROS
    return window


# How many of `total` rows are done between two looks for a pending signal.
cdef Py_ssize_t _rows_a_look(Py_ssize_t total, Py_ssize_t row) noexcept:
    return max(1, min(total, SIGNAL_ELEMENTS // max(1, row)))


cdef _unfold_array(const num_t[:, :, :] x, num_t[:, :, ::1] out, Window window):
    cdef Strided view = strided(x)
    cdef Py_ssize_t item, row, n_rows, step = _rows_a_look(out.shape[1], out.shape[2])
    for item in range(x.shape[0]):
        for row in range(0, out.shape[1], step):
            n_rows = min(step, out.shape[1] - row)
            with nogil:
                unfold_tile(&view, item, 0, row, n_rows, 0, out.shape[2], &window,
                            &out[item, row, 0], out.shape[2])
            PyErr_CheckSignals()


cdef _fold_array(const num_t[:, :, :] cols, num_t[:, :, ::1] out, Window window):
    cdef Strided view = strided(cols)
    cdef Py_ssize_t work = max(out.shape[2], window.kernel_size * cols.shape[2])
    cdef Py_ssize_t item, first, channel, step = _rows_a_look(out.shape[1], work)
    for item in range(out.shape[0]):
        for first in range(0, out.shape[1], step):
            with nogil:
                for channel in range(first, min(first + step, out.shape[1])):
                    memset(&out[item, channel, 0], 0, out.shape[2] * sizeof(num_t))
                    fold_tile(&view, item, channel, &window, &out[item, channel, 0], out.shape[2])
            PyErr_CheckSignals()


def unfold(x, out, stride, dilation, pad_left):
    """Write the windows of x to out: every tap of every channel becomes a row.

    Parameters
    ----------
    x : ndarray of shape (N, C, L)
        Any strides; float32, float64, complex64 or complex128.
    out : C-contiguous ndarray of shape (N, C * K, L_out) and of x's dtype
        ``out[n, c * K + k, l] = x[n, c, l * stride + k * dilation - pad_left]``, zero outside x.
    stride, dilation : int
        Positive.
    pad_left : int
        May be negative.
    """
    if x.shape[0] != out.shape[0]:
        raise ValueError(f"expected out to have {x.shape[0]} items, got {out.shape[0]}")
    cdef Window window = _window(out.shape[1], x.shape[1], stride, dilation, pad_left)
    if out.size == 0:
        return
    kind = x.dtype.char
    if kind == "f":
        _unfold_array[float](x, out, window)
    elif kind == "d":
        _unfold_array[double](x, out, window)
    elif kind == "F":
        _unfold_array[floatcomplex](x, out, window)
    elif kind == "D":
        _unfold_array[doublecomplex](x, out, window)
    else:
        raise TypeError(f"expected a float or complex array, got {x.dtype}")


def fold(cols, out, stride, dilation, pad_left):
    """Sum windows back into a signal: the adjoint of `unfold`.

    Parameters
    ----------
    cols : ndarray of shape (N, C * K, L_cols)
        Any strides; float32, float64, complex64 or complex128.
    out : C-contiguous ndarray of shape (N, C, L) and of cols' dtype
        ``out[n, c, o]`` is the sum of ``cols[n, c * K + k, l]`` over all k and l
        with ``l * stride + k * dilation - pad_left == o``; zero where there is none.
    stride, dilation : int
        Positive.
    pad_left : int
        May be negative.
    """
    if cols.shape[0] != out.shape[0]:
        raise ValueError(f"expected out to have {cols.shape[0]} items, got {out.shape[0]}")
    cdef Window window = _window(cols.shape[1], out.shape[1], stride, dilation, pad_left)
    if out.size == 0:
        return
    kind = cols.dtype.char
    if kind == "f":
        _fold_array[float](cols, out, window)
    elif kind == "d":
        _fold_array[double](cols, out, window)
    elif kind == "F":
        _fold_array[floatcomplex](cols, out, window)
    elif kind == "D":
        _fold_array[doublecomplex](cols, out, window)
    else:
        raise TypeError(f"expected a float or complex array, got {cols.dtype}")
