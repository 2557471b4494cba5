"""How people come in: the command line, the decorators, and what loads their files."""
