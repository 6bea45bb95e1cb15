"""Attributes of a node, of the type and within the values that its operator allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..registry import Node


def integer(node: Node, name: str, default: int | None, least: int | None = None) -> Any:
    value = node.attributes.get(name, default)
    if value is None:
        return None
    if not isinstance(value, int):
        raise node.error(f"{name} should be an integer, got {value!r:.100}")
    if least is not None and value < least:
        raise node.error(f"{name} should be at least {least}, got {value}")
    return int(value)


def required_integer(node: Node, name: str, least: int | None = None) -> int:
    if name not in node.attributes:
        raise node.error(f"it should have the attribute {name!r}")
    return integer(node, name, None, least)


def flag(node: Node, name: str, default: bool = False) -> bool:
    value = integer(node, name, int(default))
    if value not in (0, 1):
        raise node.error(f"{name} should be 0 or 1, got {value}")
    return bool(value)


def number(node: Node, name: str, default: float | None) -> Any:
    value = node.attributes.get(name, default)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or math.isnan(value):
        raise node.error(f"{name} should be a number, got {value!r:.100}")
    return float(value)


def text(node: Node, name: str, default: str, allowed: tuple[str, ...] = ()) -> str:
    value = node.attributes.get(name, default)
    if isinstance(value, bytes):
        value = value.decode()
    if not isinstance(value, str) or (allowed and value not in allowed):
        raise node.error(f"{name} should be one of {', '.join(allowed)}, got {value!r:.100}")
    return value


def integers(node: Node, name: str, least: int | None = None) -> list[int] | None:
    """Return a list of integers, None where the attribute is absent."""
    value = node.attributes.get(name)
    if value is None:
        return None
    value = [int(v) for v in value]
    if least is not None and any(v < least for v in value):
        raise node.error(f"{name} should be at least {least}, got {value}")
    return value


def delivered(node: Node, run: Callable[..., tuple[Any, ...]]) -> Callable[..., Any]:
    """Return `run` with as many of its results as the node has outputs."""
    count = len(node.outputs)
    if count == 1:
        return lambda *arrays: run(*arrays)[0]
    return lambda *arrays: run(*arrays)[:count]
