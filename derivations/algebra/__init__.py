"""Algebra: what expressions over a symbolic dimension D are made of, and when two are equal."""
