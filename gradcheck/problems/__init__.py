"""Random problems in every regime that a loss has."""
