"""The oracle judged: wrong implementations that it must catch by name, and right ones that it must leave alone."""
