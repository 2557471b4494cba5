"""At every update of a training run, the equivalent loss gives the parameters the same gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import Entry
from gradcheck.toy.equivalence import absolute_pull_back, equivalent, step_law, walk
from gradcheck.toy.network import velocity
from gradcheck.toy.training import METHODS, Settings, Trainer

SETTINGS = Settings(group=8, steps=5)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_update_obeys_the_law(name: str, base: list[Tensor]) -> None:
    """Over updates on and off the policy, with clips that bite."""
    walked = walk(METHODS[name].but(samples=16, clip=0.02), base, (1, 2), 3, SETTINGS)
    assert len(walked.laws) == 3 * SETTINGS.updates
    assert walked.holds
    assert all(law.judged > 0.99 for law in walked.laws)
    assert max(law.resolution for law in walked.laws) < 1e-9


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_slightly_wrong_loss_is_refused(name: str, base: list[Tensor]) -> None:
    """A relative error just above the resolution, in a gradient that trains as well as the right one."""

    def wrong(entry: Entry, case: Case) -> Tensor:
        return entry.loss(case) * (1 + 1e-8)

    trainer = Trainer(METHODS[name].but(samples=16), base, (1,), SETTINGS, wrong)
    trainer.iterate()
    law = step_law(trainer, trainer.batch(trainer.collect()))
    assert law.resolution < 1e-9
    assert not law.holds


def test_runs_begin_together(base: list[Tensor]) -> None:
    """After one update the two runs are apart by rounding alone; nothing is claimed of later ones."""
    walked = walk(METHODS["awm"].but(samples=16), base, (1,), 1, SETTINGS)
    assert 0 < walked.apart[0] < 1e-10


def test_absolute_pull_back_is_the_jacobian_s(base: list[Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, e = (torch.randn((1, 4, 2), generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.rand((1, 4), generator=generator, dtype=torch.float64)
    leaves = [p.clone().requires_grad_() for p in base]
    jacobian = torch.autograd.functional.jacobian(lambda *p: velocity(p, x, t), tuple(leaves))
    wanted = torch.cat(
        [(j.abs() * e.abs().reshape(1, 4, 2, 1, 1, 1)).sum((0, 1, 2)).flatten(1) for j in jacobian], dim=1
    )
    found = absolute_pull_back(leaves, x, t, e.abs())
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_the_equivalent_loss_trains(base: list[Tensor]) -> None:
    """It can stand in the original's place: the first gradients agree to many digits."""
    trainers = [
        Trainer(METHODS["diffusion_nft"].but(samples=16), base, (1,), SETTINGS, loss)
        for loss in (Entry.loss, equivalent)
    ]
    grads = []
    for trainer in trainers:
        loss = trainer.losses(trainer.case(trainer.batch(trainer.collect()))).sum()
        grads.append(torch.autograd.grad(loss, trainer.parameters)[0])
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-14)
