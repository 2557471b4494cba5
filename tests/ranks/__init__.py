"""The fifteen ranks of what public code does beside the papers: right code of each, and wrong code with its name."""
