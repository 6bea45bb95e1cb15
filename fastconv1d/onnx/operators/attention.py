"""Attention, its rotary positions, and the linear kind that keeps a state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..registry import Node, operator
from .attributes import delivered, flag, integer, number, required_integer, text
from .reductions import softmax
from .types import Array, check_float, check_same, computed_wide, element_dtype, widened

_Run = Callable[..., Any]


def _split_heads(x: Array, count: int | None, what: str) -> Array:
    """Return (N, L, heads * D) as (N, heads, L, D)."""
    if count is None or x.ndim != 3 or x.shape[2] % count:
        raise ValueError(f"{what} of shape {list(x.shape)} does not split into {count} heads")
    return x.reshape(*x.shape[:2], count, x.shape[2] // count).transpose(0, 2, 1, 3)


def _joined_heads(x: Array) -> Array:
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], x.shape[1] * x.shape[3])


class _Mask:
    """The attributes that say which keys a query attends."""

    def __init__(self, node: Node) -> None:
        self.causal = flag(node, "is_causal")
        self.left = integer(node, "left_window_size", -1, least=-1)
        self.right = integer(node, "right_window_size", -1, least=-1)

    def bias(
        self, mask: Array | None, scores: Array, n_past: int | None, lengths: Array | None
    ) -> Array | None:
        """Return what is added to the scores, -inf where a query does not look; None for nothing.

        `n_past` is the number of keys before the first query where there are past ones,
        `lengths` that of valid keys of each row of the batch.
        """
        batch, _, n_queries, n_keys = scores.shape
        parts = [] if mask is None else [_additive(mask, n_keys, scores.dtype)]
        offset: Any = 0 if n_past is None else n_past
        keys = np.arange(n_keys)
        if lengths is not None:
            if lengths.shape != (batch,):
                raise ValueError(f"nonpad_kv_seqlen should have shape [{batch}]")
            rows = lengths.reshape(-1, 1, 1, 1)
            parts.append(_hidden(keys >= rows, scores.dtype))
            if n_past is None:
                offset = rows - n_queries
        ahead = keys - (np.arange(n_queries)[:, None] + offset)
        if self.causal:
            parts.append(_hidden(ahead > 0, scores.dtype))
        if self.left >= 0:
            parts.append(_hidden(-ahead > self.left, scores.dtype))
        if self.right >= 0:
            parts.append(_hidden(ahead > self.right, scores.dtype))
        total = None
        for part in parts:
            total = part if total is None else total + part
        return total


def _hidden(where: Array, dtype: np.dtype[Any]) -> Array:
    return np.where(where, dtype.type(-math.inf), dtype.type(0))


def _additive(mask: Array, n_keys: int, dtype: np.dtype[Any]) -> Array:
    """Return a mask of bools or numbers as numbers, one for each key."""
    bias = _hidden(~mask, dtype) if mask.dtype == bool else mask.astype(dtype)
    less = n_keys - (bias.shape[-1] if bias.ndim else n_keys)
    if less > 0:
        behind = np.full((*bias.shape[:-1], less), -math.inf, dtype)
        bias = np.concatenate([bias, behind], axis=-1)
    return bias


@operator("Attention", since=23)
def _attention(node: Node) -> _Run:
    n_heads, n_shared = (
        integer(node, name, None, least=1) for name in ("q_num_heads", "kv_num_heads")
    )
    given_scale, cap = number(node, "scale", None), number(node, "softcap", 0.0)
    shown = integer(node, "qk_matmul_output_mode", 0)
    if shown not in (0, 1, 2, 3) or cap < 0 or (given_scale is not None and given_scale < 0):
        raise node.error("qk_matmul_output_mode should be 0 to 3, softcap and scale not negative")
    precision = integer(node, "softmax_precision", None)
    inner = None if precision in (None, 1, 10, 16) else element_dtype(node, precision)
    masking = _Mask(node)

    def run(
        q: Array,
        k: Array,
        v: Array,
        mask: Array | None = None,
        past_k: Array | None = None,
        past_v: Array | None = None,
        lengths: Array | None = None,
    ) -> tuple[Array, ...]:
        check_same(q, k, past_k)
        check_same(v, past_v)
        check_float(q)
        joined = q.ndim == 3
        if joined:
            q = _split_heads(q, n_heads, "Q")
            k, v = _split_heads(k, n_shared, "K"), _split_heads(v, n_shared, "V")
        if (past_k is None) != (past_v is None):
            raise ValueError("past_key and past_value should be given together")
        if past_k is not None and past_v is not None:
            k, v = np.concatenate([past_k, k], axis=2), np.concatenate([past_v, v], axis=2)
        n_past = None if past_k is None else past_k.shape[2]
        factor = math.sqrt(1 / math.sqrt(q.shape[-1]) if given_scale is None else given_scale)
        scores = _scores(widened(q) * factor, widened(k) * factor)
        seen = [scores]
        if cap:
            scores = np.tanh(scores / cap) * cap
        seen.append(scores)
        bias = masking.bias(mask, scores, n_past, lengths)
        scores = scores if bias is None else scores + bias
        seen.append(scores)
        wide = scores if inner is None else scores.astype(np.result_type(inner, scores.dtype))
        weights = _weights(wide, bias).astype(scores.dtype, copy=False)
        seen.append(weights)
        y = _by_shared_heads(weights, widened(v))
        y = _joined_heads(y) if joined else y
        return y.astype(q.dtype, copy=False), k, v, seen[shown].astype(q.dtype, copy=False)

    return delivered(node, run)


def _by_shared_heads(left: Array, right: Array) -> Array:
    """Return left @ right, where some neighbouring heads of the left share one of the right."""
    if left.ndim != 4 or right.ndim != 4 or left.shape[1] % max(right.shape[1], 1):
        raise ValueError(
            f"shapes {list(left.shape)} and {list(right.shape)} should have four dimensions, and "
            "heads of which one divides the other"
        )
    if left.shape[1] == right.shape[1]:
        return np.matmul(left, right)
    batch, n_heads, rows, width = left.shape
    each = n_heads // max(right.shape[1], 1) * rows
    grouped = left.reshape(batch, right.shape[1], each, width)
    return np.matmul(grouped, right).reshape(batch, n_heads, rows, right.shape[-1])


def _scores(q: Array, k: Array) -> Array:
    return _by_shared_heads(q, k.swapaxes(-1, -2))


def _weights(scores: Array, bias: Array | None) -> Array:
    """Return the softmax of the keys; 0 for a query that the bias lets see none."""
    weights = softmax(scores, -1)
    if bias is None or bias.size == 0:
        return weights
    blind = np.isneginf(bias.max(axis=-1, keepdims=True))
    return np.where(blind, weights.dtype.type(0), weights) if blind.any() else weights


@operator("RotaryEmbedding", since=23)
def _rotary_embedding(node: Node) -> _Run:
    interleaved, n_heads = flag(node, "interleaved"), integer(node, "num_heads", None, least=0)
    given = integer(node, "rotary_embedding_dim", 0, least=0)

    def run(x: Array, cos: Array, sin: Array, positions: Array | None = None) -> Array:
        check_same(x, cos, sin)
        heads = x.transpose(0, 2, 1, 3) if x.ndim == 4 else x
        if x.ndim == 3:
            if not n_heads or x.shape[2] % n_heads:
                raise ValueError(f"num_heads={n_heads} does not divide the size {x.shape[2]}")
            heads = x.reshape(*x.shape[:2], n_heads, x.shape[2] // n_heads)
        if heads.ndim != 4:
            raise ValueError(f"X should have three or four dimensions, got {list(x.shape)}")
        size = given or heads.shape[3]
        if cos.shape != sin.shape or cos.ndim != (3 if positions is None else 2):
            raise ValueError(
                f"the caches should have one shape, got {list(cos.shape)} and {list(sin.shape)}"
            )
        if positions is not None:
            if positions.dtype.kind not in "iu":
                raise TypeError(f"position_ids should be integers, got dtype {positions.dtype}")
            if positions.size and not 0 <= positions.min() <= positions.max() < len(cos):
                raise ValueError(f"position_ids should be in [0, {len(cos) - 1}]")
            cos, sin = cos[positions], sin[positions]
        if size > heads.shape[3] or size % 2 or cos.shape[-1] != size // 2:
            raise ValueError(
                f"the caches should have {size // 2} values a position, got {list(cos.shape)}"
            )
        cos, sin = cos[:, :, None], sin[:, :, None]
        y = heads.copy()
        if interleaved:
            parts = (slice(0, size, 2), slice(1, size, 2))
        else:
            parts = (slice(0, size // 2), slice(size // 2, size))
        first, second = (heads[..., part] for part in parts)
        y[..., parts[0]] = cos * first - sin * second
        y[..., parts[1]] = sin * first + cos * second
        return y.reshape(x.shape) if x.ndim == 3 else y.transpose(0, 2, 1, 3)

    return computed_wide(run)


_RULES = ("linear", "gated", "delta", "gated_delta")


@operator("LinearAttention", since=27)
def _linear_attention(node: Node) -> _Run:
    rule = text(node, "update_rule", "gated_delta", _RULES)
    gated, corrected = "gated" in rule, "delta" in rule
    n_heads, n_shared = (
        required_integer(node, name, least=1) for name in ("q_num_heads", "kv_num_heads")
    )
    if n_heads % n_shared:
        raise node.error(f"q_num_heads={n_heads} should be a multiple of {n_shared}")
    given_scale = number(node, "scale", 0.0)

    def run(
        q: Array,
        k: Array,
        v: Array,
        past: Array | None = None,
        decay: Array | None = None,
        beta: Array | None = None,
    ) -> tuple[Array, Array]:
        if gated != (decay is not None) or corrected != (beta is not None):
            raise ValueError(f"update_rule {rule!r} should have what it needs of decay and beta")
        heads = [
            _split_heads(widened(a), count, what)
            for a, count, what in (
                (q, n_heads, "query"),
                (k, n_shared, "key"),
                (v, n_shared, "value"),
            )
        ]
        state_shape = (q.shape[0], n_shared, heads[1].shape[3], heads[2].shape[3])
        if past is None:
            state = np.zeros(state_shape, heads[0].dtype)
        elif past.shape == state_shape:
            state = widened(past).copy()
        else:
            raise ValueError(f"past_state should have shape {list(state_shape)}")
        kept = (
            None if decay is None else np.exp(_of_heads(widened(decay), n_shared, state_shape[2]))
        )
        share = None if beta is None else _of_heads(widened(beta), n_shared, 1)
        y = np.empty((*heads[0].shape[:3], state_shape[3]), heads[0].dtype)
        for t in range(q.shape[1]):
            key, value = heads[1][:, :, t], heads[2][:, :, t]
            if kept is not None:
                state *= kept[:, :, t, :, None]
            if share is not None:
                value = share[:, :, t] * (value - np.matmul(key[:, :, None], state)[:, :, 0])
            state += key[..., :, None] * value[..., None, :]
            y[:, :, t] = _by_shared_heads(heads[0][:, :, t, None], state)[:, :, 0]
        y *= given_scale or 1 / math.sqrt(state_shape[2])
        end = state.astype(q.dtype if past is None else past.dtype, copy=False)
        return _joined_heads(y).astype(q.dtype, copy=False), end

    return delivered(node, run)


def _of_heads(x: Array, n_heads: int, width: int) -> Array:
    """Return (N, L, heads), (N, L, heads * width) or (N, L, 1) as (N, heads or 1, L, ...)."""
    if x.ndim == 3 and x.shape[2] in (1, n_heads):
        return x.transpose(0, 2, 1)[..., None]
    if x.ndim != 3 or x.shape[2] != n_heads * width:
        raise ValueError(
            f"decay and beta should have a last size of {n_heads} or {n_heads * width}, "
            f"got shape {list(x.shape)}"
        )
    return _split_heads(x, n_heads, "decay")
