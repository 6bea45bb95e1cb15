/* The transforms for the instruction set of isa_avx512.c. */
#define TRANSFORMS
#include "isa_avx512.c"
