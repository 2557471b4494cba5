"""The project's plots: one style, and functions that return figures."""
