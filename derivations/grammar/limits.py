"""How large an expression may be.  Expressions come from strangers; every limit has an error that names the place.

The catalogue's largest loss, written out, stays below a third of each.
"""

from __future__ import annotations

__all__ = [
    "DEFINITIONS",
    "DEPTH",
    "DIGITS",
    "EXPONENT",
    "NAME_LENGTH",
    "NODES",
    "NUMBER_BITS",
    "TEN_EXPONENT",
    "TERMS",
    "TEXT_LENGTH",
    "TOKENS",
]

TEXT_LENGTH = 4000  #: characters of one text
TOKENS = 1500  #: of one text
NAME_LENGTH = 40  #: characters
DIGITS = 30  #: characters of a number
TEN_EXPONENT = 30  #: of a number such as 1e-5
DEPTH = 40  #: parentheses, functions, signs and powers inside one another
DEFINITIONS = 40  #: statements before the loss
NODES = 2000  #: of an expression once its definitions are put in
EXPONENT = 12  #: numerator and denominator of a power
NUMBER_BITS = 256  #: numerator and denominator of a constant that comes out
TERMS = 20_000  #: of an expression multiplied out
