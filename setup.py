"""Build the extensions: plain C flags, no -march, no -ffast-math.

Debug information is most of an extension, so it is left out unless CFLAGS asks for it (-g).
FASTCONV1D_DEBUG=1 builds without optimisation and with Cython's bounds checks.
FASTCONV1D_SANITIZE=address,undefined builds with those sanitizers; .ci/sanitize runs such a build.
FASTCONV1D_OPENMP=1 shares work by OpenMP instead of by worker threads of the library's own.
FASTCONV1D_EMULATE_AVX512=1 compiles the AVX-512 kernels for AVX2, to test them without such a CPU.
"""

import os
import re
from pathlib import Path

import numpy
import scipy.linalg
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

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
OPENMP = os.environ.get("FASTCONV1D_OPENMP", "0") == "1"
if OPENMP:
    MSVC_FLAGS.append("/openmp")
    UNIX_FLAGS.append("-fopenmp")
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
    """build_ext that adds the compiler's flags."""

    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        for extension in self.extensions:
            extension.extra_compile_args += MSVC_FLAGS if msvc else UNIX_FLAGS
            extension.extra_link_args += LINK_FLAGS + (["-fopenmp"] if OPENMP and not msvc else [])
        super().build_extensions()


SIMD = "fastconv1d/kernels/simd"
SIMD_HEADERS = [
    f"{SIMD}/{name}.h"
    for name in (
        "across",
        "fc1d",
        "gradient",
        "half",
        "minimal",
        "pointwise",
        "rows",
        "step",
        "template",
        "vectors",
    )
]
SIMD_SOURCES = [f"{SIMD}/{name}.c" for name in ("dispatch", "isa_base", "isa_avx2", "isa_avx512")]


def kernel(name, c_sources=()):
    return Extension(
        f"fastconv1d.kernels.{name}",
        [f"fastconv1d/kernels/{name}.pyx", *c_sources],
        include_dirs=[numpy.get_include()],
        define_macros=MACROS,
        depends=[*SIMD_HEADERS, "fastconv1d/kernels/atomics.h"],
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
extensions = [kernel(name) for name in ("pool", "unfold", "gemm", "blas_engine", "operands")]
extensions.append(kernel("direct_engine", SIMD_SOURCES))

setup(
    ext_modules=cythonize(extensions, compiler_directives=DIRECTIVES),
    cmdclass={"build_ext": BuildExt},
)
