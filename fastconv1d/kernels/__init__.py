"""Everything compiled: unfold and fold, BLAS, and the engines built on them."""
