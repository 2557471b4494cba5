"""The oracle: judges somebody else's implementation of a loss, and says in words and formulas what is wrong."""
