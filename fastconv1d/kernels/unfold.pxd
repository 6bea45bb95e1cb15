from fastconv1d.kernels.numeric cimport num_t

cdef enum PaddingMode:
    ZEROS = 0
    REFLECT = 1
    REPLICATE = 2
    CIRCULAR = 3

# How output column l and tap k meet input position l * stride + k * dilation - pad_left.
cdef struct Window:
    Py_ssize_t kernel_size
    Py_ssize_t stride
    Py_ssize_t dilation
    Py_ssize_t pad_left
    int mode

# An array of three dimensions where it lies, with its strides in bytes.
cdef struct Strided:
    const char *data
    Py_ssize_t shape[3]
    Py_ssize_t strides[3]


cdef Strided strided(const num_t[:, :, :] x) noexcept
cdef void unfold_tile(
    const Strided *x, Py_ssize_t item, Py_ssize_t first_channel,
    Py_ssize_t first_row, Py_ssize_t n_rows, Py_ssize_t first_column, Py_ssize_t n_columns,
    const Window *window, num_t *out, Py_ssize_t out_row_length,
) noexcept nogil
cdef void fold_tile(
    const Strided *cols, Py_ssize_t item, Py_ssize_t channel,
    const Window *window, num_t *out, Py_ssize_t length,
) noexcept nogil
