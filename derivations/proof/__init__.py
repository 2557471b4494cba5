"""Claims and what proves them; a derivation is a loss with its claims."""
