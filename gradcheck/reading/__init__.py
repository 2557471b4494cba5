"""Reading: a gradient on the field's directions, and numbers recognised as formulas."""
