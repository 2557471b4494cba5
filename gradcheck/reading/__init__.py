"""A gradient decomposed on the field's directions, and numbers recognised as formulas."""
