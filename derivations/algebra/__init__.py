"""Expressions over a symbolic dimension D: nodes, vectors, canonical forms, the zero test, derivatives."""
