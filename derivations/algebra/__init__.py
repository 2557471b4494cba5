"""Algebra: expressions over a symbolic dimension D, when two are equal, and their derivatives."""
