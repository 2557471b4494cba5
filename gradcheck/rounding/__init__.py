"""Rounding: how far it may carry a gradient, and the comparison that uses it."""
