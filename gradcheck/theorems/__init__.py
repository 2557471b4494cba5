"""The theorems with numbers: calculators, and means by drawing noise."""
