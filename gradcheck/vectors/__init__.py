"""Golden vectors: problems and the gradients that they demand, as files that any language can read."""
