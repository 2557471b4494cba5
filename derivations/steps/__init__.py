"""Steps: the reverse steps of samplers, noising paths, and what a network may predict on them."""
