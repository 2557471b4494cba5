"""Doors: the command line, the decorators, and what loads people's files."""
