/* What the process has loaded: how many objects so far, and which OpenMP runtimes are among them. */
#ifndef FC1D_LOADED_H
#define FC1D_LOADED_H

#include <string.h>

enum { FC1D_RUNTIMES = 8, FC1D_PATH = 4096 };

typedef struct {
    int n;
    char paths[FC1D_RUNTIMES][FC1D_PATH];
} fc1d_runtimes;

#if defined(__linux__) || defined(__FreeBSD__)
#include <link.h>
#include <stddef.h>

static int fc1d_note_loads(struct dl_phdr_info *info, size_t size, void *loads) {
    if (size >= offsetof(struct dl_phdr_info, dlpi_adds) + sizeof(info->dlpi_adds))
        *(long long *)loads = (long long)info->dlpi_adds;
    return 1; /* every object knows it, the first as well */
}

/* Grows whenever an object is loaded: 15 ns, where a look at the names of all takes 1 to 3 us. */
static long long fc1d_count_loads(void) {
    long long loads = 0;
    dl_iterate_phdr(fc1d_note_loads, &loads);
    return loads;
}

/* Also runtimes whose file a wheel has given another name: libgomp-e985bcbb.so.1.0.0. */
static int fc1d_note_runtime(struct dl_phdr_info *info, size_t size, void *found) {
    fc1d_runtimes *runtimes = (fc1d_runtimes *)found;
    const char *path = info->dlpi_name ? info->dlpi_name : "", *name = strrchr(path, '/');
    (void)size;
    name = name ? name + 1 : path;
    if (strncmp(name, "libgomp", 7) && strncmp(name, "libomp", 6) && strncmp(name, "libiomp", 7))
        return 0;
    if (runtimes->n < FC1D_RUNTIMES && strlen(path) < FC1D_PATH)
        strcpy(runtimes->paths[runtimes->n++], path);
    return 0;
}

static int fc1d_find_runtimes(fc1d_runtimes *found) {
    found->n = 0;
    dl_iterate_phdr(fc1d_note_runtime, found);
    return 1;
}
#else
#ifdef __APPLE__
#include <mach-o/dyld.h>
#define fc1d_count_loads() ((long long)_dyld_image_count())
#else
#define fc1d_count_loads() 0LL /* no cheap way: the process is looked at once */
#endif
/* Returns whether the system can tell. */
static int fc1d_find_runtimes(fc1d_runtimes *found) {
    found->n = 0;
    return 0;
}
#endif

#endif
