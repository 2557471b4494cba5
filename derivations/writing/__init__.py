"""Writing: formulas for people, for terminals, and as torch source."""
