/* The direct engine's C interface: one problem description, one table of functions per instruction set.
 *
 * Every operation of the engine is a set of stride-1 sums over a window of the input:
 *
 *     y[phase r, co, q] = init + sum over t of w[t][co] * window[q + tap[r][t]],    t = (ci, k) in a fixed order
 *
 * correlate has one output phase and reads x[q*x_step + pos[k]]; scatter (its adjoint) has `stride` output
 * phases, output o = q*y_step + r - shift, and reads x[q + pos[k]] with x_step = 1. Where all phases of a scatter read
 * the same positions (dilation 1, K a multiple of the stride) they are rows of one phase: row co*fused + r.
 *
 * A correlate of two dimensions is one whose taps are (kh, kw) and whose window holds, for each channel, the rows of the
 * input that some rows of the output read: planes.h.
 *
 * Complex numbers are real ones: a channel of x is two rows, of real and of imaginary parts, and a channel of y two rows
 * of sums over the weight [[re, -im], [im, re]], which are interleaved as phases of a scatter are: y_step and fused are
 * twice as large, columns and channels are counted in real numbers.
 *
 * C code here is pointers and sizes: it allocates nothing, knows no threads and keeps no state.
 */
#ifndef FC1D_H
#define FC1D_H

#include <stddef.h>
#include <stdint.h>

/* Storage of x, y and residual: the element type of the kernels, or 16 bits that are converted on the way in and out. */
enum { FC1D_SAME = 0, FC1D_FLOAT16 = 1, FC1D_BFLOAT16 = 2 };

/* The element-wise functions; pointwise.h has their formulas. */
enum {
    FC1D_IDENTITY = 0,
    FC1D_RELU,
    FC1D_LEAKY_RELU, /* parameter: slope */
    FC1D_ELU,        /* parameter: alpha */
    FC1D_GELU,
    FC1D_GELU_TANH,
    FC1D_SILU,
    FC1D_TANH,
    FC1D_SIGMOID,
    FC1D_SNAKE, /* alpha of each channel */
    FC1D_RELU6,
    FC1D_HARDSWISH,
    FC1D_MISH,
    FC1D_SOFTPLUS, /* parameter: beta; limit: beta*x from which it is x */
    FC1D_PRELU     /* alpha of each channel: slope */
};

typedef struct {
    int function;
    double parameter, limit;
    const void *alpha; /* C elements of the kernels' type, for snake and prelu */
} fc1d_activation;

/* Sums that are added one after another before they become one of the next level; totals.h has the tree. */
enum { FC1D_FAN = 32 };

enum { FC1D_ZEROS = 0, FC1D_REFLECT = 1, FC1D_REPLICATE = 2, FC1D_CIRCULAR = 3 };

/* A run of the window: element i of the run is input position start + i*x_step (relative to the tile). */
typedef struct {
    ptrdiff_t start;  /* input position of element 0 for column 0 */
    ptrdiff_t extra;  /* elements beyond one per column */
    ptrdiff_t offset; /* where the run begins inside a window row */
} fc1d_run;

/* A weight as it lies in memory. Strides are in elements, of complex numbers too, whose parts follow each other. */
typedef struct {
    const void *data;
    ptrdiff_t sg, so, si, sk; /* from group, output channel, input channel and kernel position to the next */
    const ptrdiff_t *tap_k;   /* the kernel position of each sorted tap; all are below `taps` */
    ptrdiff_t taps;
    ptrdiff_t fused, parts; /* of the layer, whatever a call makes of its operands: see fc1d_problem */
} fc1d_weight;

typedef struct {
    /* operands: strides in elements, w is packed; outputs go straight to a plain y */
    const void *x, *w, *bias;
    /* or not NULL, and w is: each unit packs what it needs, and says where that is not finite */
    const fc1d_weight *unpacked;
    long long *not_finite;
    void *y;
    ptrdiff_t xn, xc, xl, yn, yc, yl;
    int half;  /* storage of x, y and residual */
    int parts; /* rows of x that a channel has, xc being from channel to channel: 2 of complex numbers, otherwise 1 */
    int pairs; /* y and residual are pairs of elements that follow each other, yl and rl being from pair to pair */
    /* around the sums: y = after(sums(before(x)) + bias [+ residual_scale*residual]) [+ residual_scale*residual] */
    fc1d_activation before, after;
    const void *residual;
    ptrdiff_t rn, rc, rl;
    double residual_scale;
    int residual_last;
    /* sizes; channels are per group */
    ptrdiff_t n_batch, groups, c_in, c_out, l_in, l_out;
    ptrdiff_t n_cols; /* columns q of one item */
    ptrdiff_t x_step, y_step, y_shift;
    ptrdiff_t n_phases, fused; /* n_phases * fused == y_step; c_out counts the fused rows */
    int mode;
    /* taps, sorted by output phase: taps of phase r are [phase_start[r], phase_start[r+1]) */
    ptrdiff_t kernel_size;
    const ptrdiff_t *phase_start; /* n_phases + 1 */
    /* blocking: chains of sums over ci_chain channels and k_block taps; a window holds ci_block channels */
    ptrdiff_t ci_chain, ci_block, k_block;
    /* more than FC1D_FAN chains: the blocks of a group, of ci_block channels and k_block taps each, and levels of totals */
    ptrdiff_t group_blocks, levels;
    const int32_t *tap; /* phase r, block channel c, tap j: tap[phase_start[r]*ci_block + c*taps(r) + j] */
    const int32_t *in_place; /* not NULL: the same for tiles inside the input, which need no window: its rows are those of x */
    /* the window: rows of row_pitch elements, one per input channel, made of runs */
    const fc1d_run *runs;
    ptrdiff_t n_runs, row_pitch;
    /* tiles: a unit is (items, groups, output channels, columns) */
    ptrdiff_t tile_cols, items_per_unit, item_pitch, groups_per_unit, co_unit, co_block;
    ptrdiff_t n_tiles, n_item_units, n_group_units, n_co_units;
    const ptrdiff_t *pos;    /* input position of each tap for column 0 of padding 0, rising (correlate) or falling */
    ptrdiff_t x_base;        /* of column 0 */
    int by_rows;             /* write the output row by row, as where the window stays in L1 */
    int plain;               /* y and residual have unit stride and the kernels' type */
    int staged;              /* outputs pass through a staging tile (phases, several items, or y is not plain) */
    ptrdiff_t stage_pitch;   /* elements of a staging row */
    ptrdiff_t window_elems;  /* scratch: window, staging tile, 2*emit_rows rows, totals, and a block of an unpacked weight */
    ptrdiff_t stage_elems, emit_rows, emit_pitch, total_elems; /* of one level: rows as in the staging tile */
    /* Planes, where rows_out > 0: items_per_unit counts output rows of one batch item in a tile, item_pitch columns apart;
     * output row o reads rows o*row_step + row_base + (those of its taps). Slot i of a run of rows is input row
     * start + i*row_step, `extra` slots more than output rows, from slot `offset` on. */
    ptrdiff_t rows_in, rows_out, n_row_tiles, row_step, row_base;
    ptrdiff_t kernel_rows, row_dilation; /* of run_positions */
    ptrdiff_t xh, yh, rh; /* strides of rows */
    const fc1d_run *row_runs;
    ptrdiff_t n_row_runs;
    const void *x_end; /* past the last element in memory */
    int streamed; /* tiles in place are made from a few rows of x at a time: at most 4 output channels, one tap */
    int leaves_out; /* the weights are finite, and taps that read nothing but zeros beyond the input's ends are left out */
    ptrdiff_t strip; /* so many columns have taps of their own to leave out; 0: all columns of a tile the same */
    int stacked; /* of a depthwise layer four rows at once, of so many rows and columns of the kernel; y is plain */
} fc1d_problem;

/* The weight gradient: dw[co][ci, k] = sum over items and columns of g[co] * window[ci, k].
 * `window` describes the input's windows as in correlate (tile_cols, items_per_unit, runs, tap with ci-major taps).
 * `chunks` (items x column tiles) from first_chunk on are dealt to `parts` partial sums, each with its own dw (and db). */
typedef struct {
    fc1d_problem window;
    const void *g, *g_end;      /* g_end is past the last element in memory */
    ptrdiff_t gn, gc, gl;
    void *dw;                   /* may be NULL, as db */
    double *db;
    ptrdiff_t dw_part, db_part; /* elements between two parts */
    ptrdiff_t parts, first_chunk, chunks;
    int fetch; /* fetch the rows of the next group ahead */
    int add;   /* sums of panels to what dw holds */
    /* Panels of `panel` channels instead of dot products, if not 0. Then window.x_step is 1: the window has all
     * positions, of which column q of tap k needs the one at q*stride. `place` has the panel's element for each element
     * of a window row, `column` for each column of a chunk relative to its tap. Scratch: the window, a panel of it, panels
     * of g, sums (sums_pitch an output channel), a table of taps, copies of rows of g. Where there is one chunk, the sums
     * are those of finish_rows output channels and a strip of the panel; otherwise finish_rows is 0. */
    ptrdiff_t panel, stride, sums_pitch, panel_offset, g_offset, sums_offset, live_offset, copy_offset, finish_rows;
    /* The window is that of grad_output and g the input: channels and taps change places, dw[ci][co][last tap - k]. */
    int swapped;
    const int32_t *place, *column;
    /* Depthwise, stride 1, or NULL: places of the taps in a row of the input whose column 0 is at `base`. Columns
     * [inside, beyond) read no padding. */
    const int32_t *in_place;
    ptrdiff_t base, inside, beyond;
    /* The gradient by the input as well, of contiguous items and channels, if dx is not NULL: with `scatter`
     * dx[i] = sum over k of w[k] * g[i - base + back[k]], otherwise, with the shape of g, of w[k] * window[k]. */
    const void *w;
    void *dx;
    int scatter;
    const int32_t *back;
} fc1d_gradient;

/* Convolutions of stride 1 by tiles of short Fourier transforms; spectral.h has the formulas. */
enum { SPECTRAL_FACTORS = 8, SPECTRAL_FILTER = 6 };

typedef struct {
    const void *x, *w, *bias, *residual, *twiddles;
    void *y;
    ptrdiff_t xn, xc, xl, yn, yc, yl, rn, rc, rl; /* strides in elements */
    int half;                                     /* storage of x, y and residual */
    ptrdiff_t n_batch, groups, l_in, l_out, left, dilation;
    int mode;
    /* Channels of a group, each of which x_split phases of an input channel may be, or y_split of an output channel: column
     * l of phase r reads position l*x_split + r - left, and is written to l*y_split + r - crop. */
    ptrdiff_t c_in, c_out, x_split, y_split, crop, n_cols;
    ptrdiff_t points, outputs, components; /* of a tile */
    int n_factors;
    ptrdiff_t factors[SPECTRAL_FACTORS], twiddle_start[SPECTRAL_FACTORS];
    /* tiles of an item and phases of the dilation, and those of a unit */
    ptrdiff_t n_tiles, n_phases, item_unit, tile_unit, phase_unit, n_item_units, n_tile_units, n_phase_units;
    ptrdiff_t window_elems, x_slot, y_slot; /* scratch: two transforms, a window, components in and out */
    fc1d_activation before, after;
    double residual_scale;
    int residual_last;
} fc1d_spectral;

/* Its weights w, of these strides, and where their spectra go. */
typedef struct {
    const fc1d_spectral *layer;
    const void *w;
    void *packed;
    const void *matrix; /* of minimal filtering: points rows of SPECTRAL_FILTER numbers */
    ptrdiff_t sg, so, si, sk, kernel_size, taps; /* taps of a phase */
} fc1d_spectral_weight;

/* Bytes of a row of a panel of the right matrix of add_product. */
enum { FC1D_PANEL_BYTES = 256 };

/* A product of rows of unsigned bytes with a packed matrix of signed bytes, see bytes.h. */
typedef struct {
    const uint8_t *x; /* rows of k bytes, one after the other */
    const int8_t *w;
    const int32_t *minus;     /* of each column: what the zero of x adds to a sum */
    const float *scale, *bias; /* of each column; bias NULL for none */
    float *y;
    ptrdiff_t rows, n, k, row_unit;
    float step, low, high; /* results are multiples of step from low to high steps; 0 for any number */
} fc1d_bytes;

/* Rows that are brought to mean 0 and variance 1; network.h has the formula. */
typedef struct {
    const void *x, *scale, *shift; /* scale and shift may be NULL */
    void *y;
    ptrdiff_t n, span, channels;
    double epsilon;
    int centered;
} fc1d_norm;

/* Rows of one channel after the other, times a number and plus another. */
typedef struct {
    const void *x, *scale, *shift;
    void *y;
    ptrdiff_t n, channels; /* n is 1 where the channels lie side by side */
} fc1d_affine;

/* Parts of rows that are reduced to their largest element or their mean: output i of a row is of [begin[i], end[i]). */
typedef struct {
    const void *x;
    void *y;
    const ptrdiff_t *begin, *end;
    ptrdiff_t n, count;
    int largest;
} fc1d_parts;

/* Rows of n elements to rows of count: each a sum of two neighbours, or one where `right` is NULL. */
typedef struct {
    const void *x, *near_, *far_; /* weights */
    void *y;
    const ptrdiff_t *left, *right;
    ptrdiff_t n, count;
} fc1d_resample;

/* Largest step of windows of which every position is computed. */
enum { FC1D_POOL_STEPS = 16 };

/* Windows over the rows and columns of planes: output (o, i) reads input rows o*row_step + k*row_dilation - row_before
 * and columns i*step + k*dilation - before. row_length is what vectors of windows reach over. */
typedef struct {
    const void *x;
    void *y;
    ptrdiff_t planes, rows, columns, rows_out, columns_out;
    ptrdiff_t row_taps, row_step, row_dilation, row_before;
    ptrdiff_t taps, step, dilation, before, row_length;
    int largest;
    const void *divisors; /* of the sums of each column, or NULL */
} fc1d_pool;

/* Rows times a packed matrix; product.h has the formula. Row r is row r % per_item of item r / per_item; y and residual
 * have one row after the other. */
typedef struct {
    const void *x, *w, *bias, *residual; /* bias and residual may be NULL; bias is readable for whole vectors */
    void *y;
    ptrdiff_t rows, per_item, x_item, x_row, x_tap, y_row;
    ptrdiff_t n, k, taps;
    ptrdiff_t row_unit, column_unit; /* the latter in whole panels */
    int add;                         /* to what y holds */
    fc1d_activation step;
    double residual_scale;
    int residual_last;
} fc1d_product;

/* Correlations by transforms, see fourier.h. Strides are in elements. Blocks of a row overlap; a row is a phase of an item:
 * element m of a block is position in_first + phase + m*in_step of the input, output m is at out_first + phase +
 * m*out_step. An input channel may be split into in_split ones, of which the i-th begins i positions later, and an output
 * channel likewise; `ci` and `co` count those of a group. */
typedef struct {
    const void *x, *bias, *residual, *nodes, *ends, *turns;
    void *w, *spectra, *y; /* a gradient writes to w and reads y */
    ptrdiff_t n, step;     /* complex elements of a transform; outputs of a block */
    ptrdiff_t kernel, taps; /* of the weight, and of its longest phase */
    ptrdiff_t co, ci, groups, first_group;
    ptrdiff_t w_co, w_ci, w_tap;
    ptrdiff_t x_item, x_channel, x_step, y_item, y_channel, y_step, residual_item, residual_channel, residual_step;
    ptrdiff_t l_in, l_out, in_first, in_step, in_split, out_first, out_step, out_split;
    ptrdiff_t phases, rows, blocks, together; /* blocks of a row; of a unit */
    double scale, residual_scale;
    fc1d_activation before, after;
    int is_complex, transposed, mode, sums_kept, residual_last;
} fc1d_fourier;

enum { FOURIER_PHASES = 16 }; /* of a unit: others write to other cache lines */

typedef struct {
    void (*weight)(const fc1d_fourier *q, ptrdiff_t unit, void *scratch);
    void (*blocks)(const fc1d_fourier *q, ptrdiff_t unit, void *scratch);
    void (*gradient)(const fc1d_fourier *q, ptrdiff_t unit, void *scratch);
    void (*window)(const fc1d_fourier *q, ptrdiff_t unit, void *scratch);
    void (*parts)(const fc1d_fourier *q, ptrdiff_t unit, void *scratch);
    void (*tiles)(const fc1d_spectral *q, ptrdiff_t unit, void *scratch);
    void (*pack_tiles)(const fc1d_spectral_weight *p, ptrdiff_t unit, void *scratch);
    ptrdiff_t lanes;
} fc1d_fourier_kernels;

/* Of an instruction set, by its name in fc1d_isa. */
typedef struct {
    const char *name;
    fc1d_fourier_kernels f32, f64;
} fc1d_transforms;

/* Matrices (rows, columns) that become (columns, rows); elements between two of them. */
typedef struct {
    const void *from;
    void *to;
    ptrdiff_t rows, columns, from_plane, to_plane;
} fc1d_planes;

/* Element-wise operations, see chain.h. Those with two operands come first. */
enum {
    FC1D_ADD,
    FC1D_SUBTRACT,
    FC1D_MULTIPLY,
    FC1D_DIVIDE,
    FC1D_LARGER,
    FC1D_SMALLER,
    FC1D_POWER,
    FC1D_SCALE,
    FC1D_SHIFT,
    FC1D_NEGATE,
    FC1D_ABSOLUTE,
    FC1D_SQUARE,
    FC1D_CUBE,
    FC1D_ROOT,
    FC1D_RECIPROCAL,
    FC1D_EXPONENTIAL,
    FC1D_LOGARITHM,
    FC1D_ERROR_FUNCTION,
    FC1D_ROUND,
    FC1D_FLOOR,
    FC1D_CEILING,
    FC1D_AT_LEAST,
    FC1D_AT_MOST,
    FC1D_STEPS,
    FC1D_SINE,
    FC1D_COSINE,
    FC1D_SIGN,
    FC1D_STEP /* an activation of a layer */
};

enum { FC1D_CHAIN_AXES = 8, FC1D_CHAIN_REGISTERS = 96, FC1D_CHAIN_OPERANDS = 32, FC1D_CHAIN_OPERATIONS = 128 };

typedef struct {
    int kind, target, a, b; /* registers: operands come first */
    double parameter, second, low;
    fc1d_activation step;
} fc1d_operation;

/* An operand that lies as the result does, one number for all, or anything else. */
enum { FC1D_ALIKE, FC1D_ONE_NUMBER, FC1D_REPEATED };

typedef struct {
    const void *data;
    int kind;
    ptrdiff_t strides[FC1D_CHAIN_AXES]; /* in elements */
} fc1d_operand;

typedef struct {
    fc1d_operand operands[FC1D_CHAIN_OPERANDS];
    const fc1d_operation *operations; /* the last one makes the result */
    int n_operands, n_operations, n_registers, n_axes;
    ptrdiff_t sizes[FC1D_CHAIN_AXES], size, unit; /* the latter is a multiple of a tile */
    void *y;
} fc1d_chain;

typedef struct {
    void (*run_unit)(const fc1d_problem *p, ptrdiff_t unit, void *scratch);
    /* a unit of many short items: items_per_unit of them, a group, output channels; see template.h */
    void (*run_items)(const fc1d_problem *p, ptrdiff_t unit, void *scratch);
    /* a unit of a correlate of one input channel a group on short inputs: groups of one item; see step.h */
    void (*run_channels)(const fc1d_problem *p, ptrdiff_t unit, void *scratch);
    int (*pack_weights)(const fc1d_weight *weight, const fc1d_problem *p, void *packed);
    int (*all_finite)(const void *numbers, ptrdiff_t n);
    void (*run_gradient)(const fc1d_gradient *q, ptrdiff_t unit, void *scratch);
    /* a unit of a depthwise correlate whose channels lie side by side: tile_cols columns of one item, see step.h */
    void (*run_positions)(const fc1d_problem *p, ptrdiff_t unit, void *scratch);
    void (*step)(ptrdiff_t channels, ptrdiff_t pitch, ptrdiff_t taps, ptrdiff_t chain, const void *w,
                 const void *const *x, const void *bias, void *y); /* a column of a depthwise correlate, see step.h */
    /* n_rows rows of n elements, in place: row i is channel i % channels; residual NULL or laid out as rows */
    void (*finish_rows)(const fc1d_activation *f, void *rows, const void *residual, ptrdiff_t n_rows, ptrdiff_t n,
                        ptrdiff_t channels, double residual_scale, int residual_last);
    /* layers between convolutions, see network.h: rows of n elements */
    void (*softmax_rows)(const void *x, void *y, ptrdiff_t n_rows, ptrdiff_t n, int logarithm);
    void (*softmax_columns)(const void *x, void *y, ptrdiff_t n_planes, ptrdiff_t n, ptrdiff_t columns);
    void (*standardize_rows)(const fc1d_norm *q, ptrdiff_t first, ptrdiff_t last);
    void (*standardize_columns)(const fc1d_norm *q, ptrdiff_t first, ptrdiff_t last);
    void (*lstm_rows)(const void *gates, void *cells, void *states, ptrdiff_t n_rows, ptrdiff_t n);
    void (*gru_rows)(const void *gates, const void *pushes, const void *before, void *states, ptrdiff_t n_rows,
                     ptrdiff_t n);
    void (*quantize)(const void *x, void *y, ptrdiff_t n, double scale, ptrdiff_t zero, ptrdiff_t low, ptrdiff_t high,
                     int size);
    void (*erf_rows)(const void *x, void *y, ptrdiff_t n);
    void (*convert)(const void *from, void *to, ptrdiff_t n, int half, int widen);
    void (*pool)(const fc1d_pool *q, void *scratch);
    void (*product)(const fc1d_product *q, ptrdiff_t unit, void *scratch);
    void (*pack_product)(const void *w, void *packed, ptrdiff_t n, ptrdiff_t terms);
    void (*transpose_planes)(const fc1d_planes *q, ptrdiff_t unit, void *scratch);
    void (*chain)(const fc1d_chain *q, ptrdiff_t unit, void *scratch);
    void (*affine_rows)(const fc1d_affine *q, ptrdiff_t first, ptrdiff_t last);
    void (*resample_rows)(const fc1d_resample *q, ptrdiff_t first, ptrdiff_t last);
    void (*gate)(const void *a, const void *b, void *y, ptrdiff_t n, int squashed);
    void (*reduce_parts)(const fc1d_parts *q, ptrdiff_t first, ptrdiff_t last);
    void (*add_product)(const void *a, const void *b, void *c, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k);
    double (*fma_loop)(ptrdiff_t rounds); /* returns the multiply-adds done per call, for the peak rate */
    ptrdiff_t lanes, rows; /* lanes of a vector, output channels of a register tile */
    ptrdiff_t product_width; /* columns of a panel of `product` */
    const ptrdiff_t *vectors; /* vectors[rows]: widest register tile for that many output channels */
} fc1d_kernels;

typedef struct {
    const char *name;
    fc1d_kernels f32, f64;
    void (*byte_product)(const fc1d_bytes *q, ptrdiff_t unit, void *scratch);
    ptrdiff_t byte_width; /* columns of a panel of its matrix: panels of (k + 3)/4 groups of 4 bytes of each column */
} fc1d_isa;

/* The instruction sets compiled in and supported by this CPU, best first; returns how many. */
int fc1d_supported(const fc1d_isa **list, int room);

extern const fc1d_isa fc1d_isa__base;
extern const fc1d_transforms fc1d_transforms__base;
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define FC1D_X86 1
extern const fc1d_isa fc1d_isa__avx2;
extern const fc1d_isa fc1d_isa__avx512;
extern const fc1d_transforms fc1d_transforms__avx2;
extern const fc1d_transforms fc1d_transforms__avx512;
#endif

#endif
