/* What fourier.h and spectral.h need, written once over a vector type as template.h. */
#if defined(__GNUC__) || defined(__clang__)
#pragma GCC diagnostic ignored "-Wunused-function" /* of what the headers have for others */
#endif

#include "types.h"

#include "half.h"

#include "rows.h"

#include "pointwise.h"

#include "fourier.h"

#include "spectral.h"

/* An enumerator, for the table that vectors.h makes of both dtypes: LANES is gone by then. */
enum { NAME(lanes) = LANES };

#undef V
