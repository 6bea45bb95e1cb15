/* Sums of many chains, included by template.h: a tree, so that the error does not grow with the number of chains.
 *
 * The first FC1D_FAN chains of an output are added one after another where the output is made. Such a group is complete
 * when the next one begins, and then it is carried to total 0, a full total 0 (FC1D_FAN groups) to total 1, and so on;
 * after the last chain the totals are added to what is there, the smallest first. An output of one group has no totals.
 * Total l begins l*level elements behind total 0, rows `pitch` apart.
 */

/* total[row][i] = sums[row][i], or += with `add`, i < cols. */
static void NAME(collect)(T *restrict total, ptrdiff_t pitch, const T *restrict sums, ptrdiff_t lds, ptrdiff_t rows,
                          ptrdiff_t cols, int add)
{
    for (ptrdiff_t row = 0; row < rows; row++, total += pitch, sums += lds) {
        if (!add)
            memcpy(total, sums, (size_t)cols * sizeof(T));
        else
            for (ptrdiff_t i = 0; i < cols; i++)
                total[i] += sums[i];
    }
}

/* Carry group `i`, counted from 0, to the totals. */
static void NAME(carry)(T *total, ptrdiff_t level, ptrdiff_t pitch, const T *sums, ptrdiff_t lds, ptrdiff_t rows,
                        ptrdiff_t cols, ptrdiff_t i)
{
    if (i > 0 && i % FC1D_FAN == 0)
        NAME(carry)(total + level, level, pitch, total, pitch, rows, cols, i / FC1D_FAN - 1);
    NAME(collect)(total, pitch, sums, lds, rows, cols, i % FC1D_FAN > 0);
}

/* Add the totals that `groups` groups were carried to. */
static NOINLINE void NAME(add_totals)(T *sums, ptrdiff_t lds, const T *total, ptrdiff_t level, ptrdiff_t pitch, ptrdiff_t rows,
                             ptrdiff_t cols, ptrdiff_t groups)
{
    for (; groups > 0; groups = (groups - 1) / FC1D_FAN, total += level)
        NAME(collect)(sums, lds, total, pitch, rows, cols, 1);
}
