"""Losses, which some files have as outputs beside the predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..registry import Node, operator
from .attributes import delivered, integer, text
from .reductions import log_softmax
from .types import Array, check_same, computed_wide

_Run = Callable[..., Any]


def _loss(node: Node) -> Callable[[Array, Array, Array | None], Array]:
    """Return the loss of log probabilities (N, C, ...) and classes (N, ...)."""
    reduction = text(node, "reduction", "mean", ("none", "sum", "mean"))
    ignored = integer(node, "ignore_index", None)

    def run(logs: Array, target: Array, weight: Array | None) -> Array:
        check_same(logs, weight)
        if logs.ndim < 2 or target.shape != logs.shape[:1] + logs.shape[2:]:
            raise ValueError(
                f"target should have one class for each sample of {list(logs.shape)}, "
                f"got shape {list(target.shape)}"
            )
        if target.dtype.kind not in "iu":
            raise TypeError(f"target should be integers, got dtype {target.dtype}")
        n_classes = logs.shape[1]
        counted = np.ones(target.shape, bool) if ignored is None else target != ignored
        classes = np.where(counted, target, 0)
        if classes.size and not 0 <= classes.min() <= classes.max() < n_classes:
            raise ValueError(f"target should be in [0, {n_classes - 1}]")
        if weight is not None and weight.shape != (n_classes,):
            raise ValueError(f"weight should have shape [{n_classes}], got {list(weight.shape)}")
        factors = counted.astype(logs.dtype)
        if weight is not None:
            factors = factors * weight[classes]
        chosen = np.take_along_axis(logs, np.expand_dims(classes, 1), 1).squeeze(1)
        loss = -np.where(counted, chosen, logs.dtype.type(0)) * factors
        if reduction == "none":
            return np.asarray(loss)
        total = loss.sum()
        return np.asarray(total / factors.sum() if reduction == "mean" else total)

    return run


@operator("NegativeLogLikelihoodLoss", since=12)
def _negative_log_likelihood(node: Node) -> _Run:
    loss = _loss(node)
    return computed_wide(lambda logs, target, weight=None: loss(logs, target, weight))


@operator("SoftmaxCrossEntropyLoss", since=12)
def _softmax_cross_entropy(node: Node) -> _Run:
    loss = _loss(node)

    def run(scores: Array, target: Array, weight: Array | None = None) -> tuple[Array, Array]:
        if scores.ndim < 2:
            raise ValueError(f"scores should have shape (N, C, ...), got {list(scores.shape)}")
        logs = log_softmax(scores, 1)
        return loss(logs, target, weight), logs

    return delivered(node, computed_wide(run))
