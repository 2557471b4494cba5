"""Proofs: what must hold before a claim says anything, where symbols may lie, and how fast differences vanish."""
