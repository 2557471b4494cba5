"""Two algorithms that the catalogue lacks, added by the recipe of docs/adding.md: a file a side, and a line."""
