from .base import Correct
CORRECT: tuple[Correct, ...] = ()
