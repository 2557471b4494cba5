"""Theorems with numbers: calculators, and means by drawing the noise."""
