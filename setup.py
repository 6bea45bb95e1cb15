"""Build the extensions: plain C flags, no -march, no -ffast-math.

Debug information is most of an extension, so it is left out unless CFLAGS asks for it (-g).
FASTCONV1D_DEBUG=1 builds without optimisation and with Cython's bounds checks.
FASTCONV1D_SANITIZE=address,undefined builds with those sanitizers; .ci/sanitize runs such a build.
FASTCONV1D_EMULATE_AVX512=1 compiles the AVX-512 kernels for AVX2, to test them without such a CPU.

The threading layer "openmp" is an extension of its own, left out where a small program shows that
the compiler has no OpenMP. GCC only compiles it with OpenMP: it is linked to no runtime, and binds
to the one that a process has (kernels/openmp.h).
"""

import os
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import scipy.linalg
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

DEBUG = os.environ.get("FASTCONV1D_DEBUG", "0") == "1"
EMULATE_AVX512 = os.environ.get("FASTCONV1D_EMULATE_AVX512", "0") == "1"
MSVC_FLAGS = ["/std:c11", "/wd4068", *(["/Od", "/Zi"] if DEBUG else ["/O2"])]  # pragmas of GCC
UNIX_FLAGS = ["-O0", "-g"] if DEBUG else ["-O3", "-fno-math-errno", "-fno-trapping-math"]
if not DEBUG and not re.search(r"(^|\s)-g", os.environ.get("CFLAGS", "")):
    UNIX_FLAGS.append("-g0")
LINK_FLAGS = []
if SANITIZE := os.environ.get("FASTCONV1D_SANITIZE", ""):
    UNIX_FLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZE}"]
    LINK_FLAGS = [f"-fsanitize={SANITIZE}"]
if sys.platform == "win32":
    OPENMP_FLAGS, OPENMP_LINK_FLAGS = ["/openmp"], []
elif sys.platform == "darwin":  # Apple's Clang; libomp's symbols are those of the process
    OPENMP_FLAGS, OPENMP_LINK_FLAGS = (
        ["-Xpreprocessor", "-fopenmp"],
        ["-undefined", "dynamic_lookup"],
    )
else:
    OPENMP_FLAGS, OPENMP_LINK_FLAGS = ["-fopenmp"], []
OPENMP_PROBE = """
#include <omp.h>
#if defined(__clang__) && !defined(__APPLE__)
#error Clang's calls of its runtime have no way to GCC's, which most processes have
#endif
int twice(int n) {
    int i, sum = 0;
    #pragma omp parallel for reduction(+ : sum)
    for (i = 0; i < n; i++) sum += 2;
    return sum;
}
"""
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
    "freethreading_compatible": True,
}
MACROS = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
if EMULATE_AVX512:
    MACROS.append(("FC1D_EMULATE_AVX512", "1"))
    UNIX_FLAGS.append("-Wno-psabi")  # 64-byte vectors in two halves: no function passes any on


class BuildExt(build_ext):
    """build_ext that adds the compiler's flags and compiles on all CPUs."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        compile_in_turn = self.compiler.compile
        jobs = ThreadPoolExecutor(self.parallel)

        def compile_side_by_side(sources, *args, **options):
            parts = [jobs.submit(compile_in_turn, [s], *args, **options) for s in sources]
            return [name for part in parts for name in part.result()]

        for extension in self.extensions:
            extension.extra_compile_args += MSVC_FLAGS if msvc else UNIX_FLAGS
            extension.extra_link_args += LINK_FLAGS
        if not self.has_openmp():
            print(
                "warning: this compiler has no OpenMP that fastconv1d can use: built without the "
                "threading layer 'openmp'; calls share work among the library's own threads",
                file=sys.stderr,
            )
            self.extensions = [e for e in self.extensions if e.name != OPENMP.name]
        self.compiler.compile = compile_side_by_side
        with jobs:
            super().build_extensions()

    def has_openmp(self):
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.c")
            probe.write_text(OPENMP_PROBE)
            try:
                self.compiler.compile([str(probe)], folder, extra_postargs=OPENMP_FLAGS)
            except CompileError:
                return False
        return True


SIMD = "fastconv1d/kernels/simd"
SIMD_HEADERS = [
    f"{SIMD}/{name}.h"
    for name in (
        "across",
        "bytes",
        "chain",
        "fc1d",
        "fourier",
        "gradient",
        "half",
        "network",
        "pointwise",
        "product",
        "rows",
        "spectral",
        "step",
        "template",
        "totals",
        "transforms",
        "types",
        "vectors",
    )
]
HEADERS = ("atomics", "loaded", "mapped", "openmp")
SIMD_SOURCES = [f"{SIMD}/{name}.c" for name in ("dispatch", "isa_base", "isa_avx2", "isa_avx512")]
TRANSFORM_SOURCES = [f"{SIMD}/transforms_{name}.c" for name in ("base", "avx2", "avx512")]


def kernel(name, c_sources=(), compile_flags=(), link_flags=(), macros=()):
    return Extension(
        f"fastconv1d.kernels.{name}",
        [f"fastconv1d/kernels/{name}.pyx", *c_sources],
        include_dirs=[numpy.get_include()],
        define_macros=[*MACROS, *macros],
        extra_compile_args=[*compile_flags],
        extra_link_args=[*link_flags],
        depends=[*SIMD_HEADERS, *(f"fastconv1d/kernels/{h}.h" for h in HEADERS)],
    )


def write_blas_int(folder="fastconv1d/kernels"):
    """Write blas_int.pxd: SciPy's own integer where it names one (1.18 on), a C int before."""
    declarations = Path(scipy.linalg.__file__).with_name("cython_blas.pxd").read_text()
    named = "blas_int" in declarations
    line = "from scipy.linalg.cython_blas cimport blas_int" if named else "ctypedef int blas_int"
    target = Path(folder, "blas_int.pxd")
    if not target.exists() or target.read_text() != line + "\n":  # else all would be rebuilt
        target.write_text(line + "\n")


write_blas_int()
NAMES = (
    "workers",
    "pages",
    "unfold",
    "gemm",
    "blas_engine",
    "network",
    "product",
    "spectral",
    "chain",
    "operands",
)
# Those with most to compile first, so that no CPU waits for them in the end.
extensions = [kernel("direct_engine", SIMD_SOURCES), kernel("fourier", TRANSFORM_SOURCES)]
extensions += [kernel(name) for name in NAMES]
# NumPy's allocator hook is in all versions that run the package, not in its default API.
extensions.append(kernel("memory", macros=[("NPY_TARGET_VERSION", "NPY_1_22_API_VERSION")]))
OPENMP = kernel("openmp", (), OPENMP_FLAGS, OPENMP_LINK_FLAGS)
extensions.append(OPENMP)

setup(
    ext_modules=cythonize(extensions, compiler_directives=DIRECTIVES),
    cmdclass={"build_ext": BuildExt},
)
