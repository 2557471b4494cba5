"""Reverse steps and noising paths, and the variables that a network may predict on them."""
