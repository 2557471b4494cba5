"""Unveiling: what a loss that nobody has named really optimises."""
