"""A derivation as torch functions, and derivations that a declaration or a line makes."""
