"""Derivations as functions: a derivation's formulas in torch, and derivations that a declaration or a line makes."""
