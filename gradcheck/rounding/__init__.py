"""How far rounding may carry a gradient, and the comparison that uses it."""
