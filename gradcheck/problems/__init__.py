"""Problems: random tensors in every regime that a loss has."""
