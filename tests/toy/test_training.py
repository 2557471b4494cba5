"""The trainer: what it hands to the losses, what it makes of rewards, and that seeds do not touch one another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradcheck import make_case
from gradcheck.errors import InputError
from gradcheck.parts import judge_advantage, judge_ema, judge_reward_map
from gradcheck.reports.text import judgement_text
from gradcheck.rounding.compare import compare_entry
from gradcheck.toy.network import flat, velocity
from gradcheck.toy.rewards import advantages, reward_prob
from gradcheck.toy.training import METHODS, Settings, Trainer, moving_average

SETTINGS = Settings(group=8, steps=5)
NAMES = sorted(METHODS)


def trainer(name: str, base: list[Tensor], seeds: tuple[int, ...] = (1, 2)) -> Trainer:
    return Trainer(METHODS[name].but(samples=16), base, seeds, SETTINGS)


def trained(name: str, base: list[Tensor], iterations: int, seeds: tuple[int, ...] = (1, 2)) -> Trainer:
    made = trainer(name, base, seeds)
    for _ in range(iterations):
        made.iterate()
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_case_is_the_catalogue_s(name: str, base: list[Tensor]) -> None:
    """make_case takes the trainer's tensors, derives the same x_prev, and gives the same loss.

    In the middle of an iteration, so that v_theta, v_old and the ratio are at their typical places.
    """
    made = trained(name, base, 2)
    experience = made.collect()
    made.update(made.batch(experience))
    case = made.case(made.batch(experience))
    method = made.method
    again = make_case(method.algorithm, method.variant, **{n: getattr(case, n) for n in method.entry.derivation.given})
    loss = method.entry.loss(again).unflatten(0, (2, -1)).mean(1)
    torch.testing.assert_close(made.losses(case), loss, rtol=1e-12, atol=1e-14)
    if made.backward:
        torch.testing.assert_close(case.x_prev, again.x_prev, rtol=0, atol=1e-14)
    assert compare_entry(method.entry, again).holds
    assert (again.v_theta - case.v_old).abs().max() > 1e-4 if "v_old" in case.names else True


@pytest.mark.parametrize("name", NAMES)
def test_an_iteration_begins_on_policy(name: str, base: list[Tensor]) -> None:
    """With η = 0 the rollout's velocity is the trained model's own; so no row is clipped before the first update."""
    made = Trainer(METHODS[name].but(samples=16, ema=0.0, clip=1e-9), base, (1, 2), SETTINGS)
    made.iterate()
    batch = made.batch(made.collect())
    case = made.case(batch)
    v_old = velocity(made.old, batch.rows["x_t"], batch.rows["t"])
    torch.testing.assert_close(case.v_theta, v_old.flatten(0, 1), rtol=0, atol=1e-12)
    if "v_old" in batch.rows:
        torch.testing.assert_close(batch.rows["v_old"], v_old, rtol=0, atol=1e-12)
    assert (made.clipped(batch) == 0).all()
    made.update(batch)
    if "clip_low" in case.names:
        assert (made.clipped(batch) > 0.2).all()
        made.iterate()
        assert made.last is not None
        assert (made.clipped(made.last) > 0.2).all()


@pytest.mark.parametrize("name", NAMES)
def test_seeds_together_are_seeds_alone(name: str, base: list[Tensor]) -> None:
    """Up to the rounding of batched products, which eight updates do not amplify far beyond 1e-16 · P."""
    together = flat(trained(name, base, 2, (1, 2, 3)).parameters)
    for i, seed in enumerate((1, 2, 3)):
        alone = flat(trained(name, base, 2, (seed,)).parameters)
        moved = (alone - flat(base)).norm()
        assert (together[i] - alone[0]).norm() < 1e-9 * moved
    assert (together[0] - together[1]).norm() > 0.1 * moved


def test_every_sample_s_advantage_goes_to_its_own_rows(base: list[Tensor]) -> None:
    for name in ("flow_grpo", "awm"):
        made = trainer(name, base)
        experience = made.collect()
        rows = made.batch(experience).rows
        k = SETTINGS.rows
        for n in (0, 5, 15):
            assert (rows["advantage"][:, n * k : (n + 1) * k] == experience.advantages[:, n, None]).all()
        if name == "awm":
            assert torch.equal(rows["x_0"][:, 5 * k], experience.x_0[:, 5])
            t, v_gt = rows["t"][..., None], rows["noise"] - rows["x_0"]
            torch.testing.assert_close(rows["x_t"] - t * v_gt, rows["x_0"])  # going back along the true velocity
        groups = experience.advantages.unflatten(1, (-1, SETTINGS.group))
        assert groups.mean(-1).abs().max() < 1e-12
        assert torch.allclose(groups.std(-1, correction=0), torch.ones(()).double(), atol=0.02)


def by_group(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def whole(rewards: Tensor, ids: Tensor) -> Tensor:
        out = torch.empty_like(rewards)
        for i in ids.unique():
            out[ids == i] = function(rewards[ids == i])
        return out

    return whole


def test_parts_conform() -> None:
    """The oracle's own judgement of this trainer's advantage, map to r and moving average."""

    def ema(shadow: list[Tensor], live: list[Tensor], step: int) -> None:
        moving_average(shadow, live, 0.5)

    for judgement in (
        judge_advantage(by_group(advantages), std="group", eps=1e-4),
        judge_reward_map(reward_prob, clip=1.0),
        judge_ema(ema, decay=0.5),
    ):
        assert judgement.holds, judgement_text(judgement)


@pytest.mark.parametrize("name", ["flow_grpo", "diffusion_nft"])
def test_the_behaviour_model_samples(name: str, base: list[Tensor]) -> None:
    """Moving the trained parameters changes nothing of a rollout; moving the behaviour model's does."""
    usual, moved, other = (trainer(name, base) for _ in range(3))
    for parameter, old in zip(moved.parameters, other.old, strict=True):
        parameter.data.mul_(1.5)
        old.mul_(1.5)
    found = [made.collect() for made in (usual, moved, other)]
    assert torch.equal(found[0].x_0, found[1].x_0)
    assert not torch.equal(found[0].x_0, found[2].x_0)
    if usual.backward:
        assert torch.equal(found[0].rows["v_old"], found[1].rows["v_old"])


def test_diffusion_nft_keeps_a_moving_average(base: list[Tensor]) -> None:
    made = trainer("diffusion_nft", base)
    before = flat(made.old)
    made.iterate()
    torch.testing.assert_close(flat(made.old), 0.5 * before + 0.5 * flat(made.parameters).detach())
    assert not torch.equal(flat(made.old), before)


def test_mistakes_come_together(base: list[Tensor]) -> None:
    with pytest.raises(InputError) as caught:
        Trainer(METHODS["awm"].but(samples=15, ema=1.0), [p.repeat(2, 1, 1) for p in base], (1,), SETTINGS)
    assert {name for name, _, _ in caught.value.problems} == {"samples", "ema", "base"}
