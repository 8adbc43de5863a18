"""How many parameters a head has, and where: the same counts in records, lists and diagrams."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def parameter_counts(head: nn.Module, trunk: str) -> dict[str, int]:
    """Parameters of the head, of the part that its tasks share, and of the rest of it.

    Args:
        trunk: attribute of the head, as in `HeadSpec.trunk`; counts as 0 where the head has no such module.
    """
    total = count(head)
    module = dict(head.named_modules(remove_duplicate=False)).get(trunk) if trunk else None
    shared = count(module) if module is not None else 0
    return {"head": total, "trunk": shared, "branches": total - shared}
