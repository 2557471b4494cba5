"""Proofs: the kinds of statement, what proves each, and a loss with all that is said of it."""
