"""Pages of large results, taken from the system before the work begins.

The system gives NumPy's large arrays pages of 2 MiB and clears one when it is first written to, in
0.2 to 0.5 ms or, beside busy processes, many times that. A unit of work that writes a few columns
of many long rows would have all of them wait for a page at once, and a pending signal with them:
256 rows took up to 1.5 s. Here a few pages are taken between two looks for signals. What is written
is overwritten by the result.
"""

from cpython.exc cimport PyErr_CheckSignals

from fastconv1d.kernels.workers cimport run_units, unit_fn

cdef enum:
    PAGE = 2 << 20
    # Pages between two looks for a signal, for each thread: 8 are some 3 ms.
    AT_ONCE = 8
    # Rows that one unit may write to without this: 16 pages at the most.
    FEW_ROWS = 16

cdef struct Rows:
    char *first
    Py_ssize_t pitch
    Py_ssize_t pages  # of a row, and one that it may end in


cdef void _touch(const Rows *rows, Py_ssize_t page, void *scratch) noexcept nogil:
    rows.first[page // rows.pages * rows.pitch + page % rows.pages * PAGE] = 0


# Takes the pages of rows that lie `pitch` bytes apart, if they are long and many. Row by row, as
# they lie in memory.
cdef int touch_rows(
    void *first, Py_ssize_t n_rows, Py_ssize_t pitch, Py_ssize_t row_bytes, Py_ssize_t n_threads,
) except -1 nogil:
    cdef Rows rows
    cdef Py_ssize_t begin = 0, end, total
    if n_rows <= FEW_ROWS or row_bytes < PAGE or pitch < row_bytes:
        return 0
    rows.first, rows.pitch, rows.pages = <char *> first, pitch, (row_bytes - 1) // PAGE + 1
    total = n_rows * rows.pages
    while begin < total:
        end = min(total, begin + AT_ONCE * n_threads)
        run_units(<unit_fn> _touch, &rows, begin, end, NULL, 0, n_threads)
        begin = end
        with gil:
            PyErr_CheckSignals()
    return 0
