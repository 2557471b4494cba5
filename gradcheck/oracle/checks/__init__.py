"""The checks behind the obligations: does it behave like a function, is its gradient the derived one, where not."""
