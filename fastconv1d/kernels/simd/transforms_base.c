/* The transforms for the instruction set of isa_base.c. */
#define TRANSFORMS
#include "isa_base.c"
