/* Preloaded before the C library: every byte of new memory is 0xFF, a NaN in every floating-point dtype. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

void* malloc(size_t size) {
    static void* (*next)(size_t);
    if (!next) next = (void* (*)(size_t)) dlsym(RTLD_NEXT, "malloc");
    void* memory = next(size);
    return memory ? memset(memory, 0xFF, size) : NULL;
}
