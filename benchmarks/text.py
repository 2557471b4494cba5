"""Tables for the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

__all__ = ["name", "table"]


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [tuple(header), ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
