"""Losses of one line: derived, checked on random tensors, and written as text, JSON and torch."""
