"""Judging: a stranger's code called safely, and what was found."""
