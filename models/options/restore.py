"""Settings of restoring; ``restore/`` does it."""

from __future__ import annotations

from dataclasses import dataclass

from .ranges import check_range


@dataclass(frozen=True)
class RestoreSettings:
    """How crops are restored.

    amount: how much of the restored crop is mixed in, 0..1. fidelity: for networks that can choose; 0 makes the most detail, 1 stays
    closest to the crop.
    """

    amount: float = 1.0
    fidelity: float = 0.5

    def check(self) -> None:
        """Raises where a value is out of its range."""
        check_range("amount", self.amount)
        check_range("fidelity", self.fidelity)
