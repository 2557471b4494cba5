r"""Isolation: strangers' code is judged so that it can spoil nothing but its own verdict.

Three rings, from the inside out:

* :mod:`.limits` bounds the time of one call, and :mod:`.state` compares and restores what a call can change in the
  process.  They work wherever an adapter is called, under pytest too.
* :mod:`.child` runs one job in a process of its own, from the import of the user's file to the verdict; :mod:`.parent`
  watches it from outside: its time, its memory, its end.
* :mod:`.words` says what happened: an exception that may not even be printable, the user's own file and line, and
  text from strangers without what would disturb a terminal.
"""
