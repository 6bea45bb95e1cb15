/* The transforms for the instruction set of isa_avx2.c. */
#define TRANSFORMS
#include "isa_avx2.c"
