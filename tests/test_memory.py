"""Nothing grows with the number of derivations that a process has seen."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import torch

from gradcheck import compiled
from gradcheck.catalogue import entry
from gradcheck.compiled import evaluate
from gradcheck.problems import Spec, build


def test_compiled_formulas_do_not_keep_every_derivation() -> None:
    one = entry("awm").derivation
    case = build(one, Spec(2, (3,), 0), torch.float64)
    most = compiled._compiled.cache_info().maxsize
    assert most is not None
    kept = []
    for _ in range(most + 20):
        copy = replace(one)
        evaluate(copy, case, copy.gradient)
        kept.append(weakref.ref(copy))
    del copy
    gc.collect()
    assert sum(ref() is not None for ref in kept) <= most
