"""Laws of the picture: what its words say about each panel holds for the arrows, and the arrows are the gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.patches import FancyArrowPatch
from PIL import Image
from torch import Tensor

from gradcheck.catalogue import ALGORITHMS, entry
from gradcheck.plots import directions as picture
from gradcheck.problems.building import complete

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def sine(a: Tensor, b: Tensor) -> Tensor:
    """Of the angle between two-dimensional vectors: 0 where they are parallel."""
    cross = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return cross / (a.norm(dim=-1) * b.norm(dim=-1))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def arrows(name: str) -> tuple[picture.Panel, Tensor, Tensor]:
    shown = picture.panel(name)
    return shown, shown.good - shown.starts, shown.bad - shown.starts


def test_diffusion_nft_pulls_every_velocity_to_one_point_for_each_sign() -> None:
    shown, _, _ = arrows("diffusion_nft")
    for ends in (shown.good, shown.bad):
        torch.testing.assert_close(ends, ends[:1].expand_as(ends), **TIGHT)
    v_old, v_gt = picture.point("v_old"), picture.point("v_gt")
    torch.testing.assert_close((shown.good + shown.bad) / 2, v_old.expand_as(shown.good), **TIGHT)
    assert (cosine(shown.good - v_old, v_gt - v_old) > 1 - 1e-12).all()


def test_awm_pulls_to_v_gt_or_straight_away_from_it() -> None:
    shown, good, bad = arrows("awm")
    v_gt = picture.point("v_gt")
    torch.testing.assert_close(shown.good, v_gt.expand_as(shown.good), **TIGHT)
    torch.testing.assert_close(bad, -good, **TIGHT)
    assert (cosine(bad, v_gt - shown.starts) < -1 + 1e-12).all()


def test_grpo_guard_pulls_along_the_noise_everywhere() -> None:
    _, good, bad = arrows("grpo_guard")
    noise = picture.point("noise")
    assert (cosine(good, -noise) > 1 - 1e-12).all()
    assert (cosine(bad, noise) > 1 - 1e-12).all()


@pytest.mark.parametrize("name", ["rwr", "awr"])
def test_exponential_weights_pull_to_v_gt_whatever_the_signal(name: str) -> None:
    shown, _, _ = arrows(name)
    assert shown.together
    torch.testing.assert_close(shown.good, picture.point("v_gt").expand_as(shown.good), **TIGHT)


@pytest.mark.parametrize("name", ["fpo", "diffusion_dpo", "dgpo"])
def test_relatives_of_awm_pull_along_its_line(name: str) -> None:
    shown, good, bad = arrows(name)
    towards = picture.point("v_gt") - shown.starts
    assert (cosine(good, towards) > 1 - 1e-12).all()
    assert (cosine(bad, towards) < -1 + 1e-12).all()


@pytest.mark.parametrize("name", ["flow_grpo", "flow_dppo", "ddpo"])
def test_plain_ratios_pull_along_the_noise_at_v_old_alone(name: str) -> None:
    shown, good, bad = arrows(name)
    noise, v_old = picture.point("noise"), picture.point("v_old")
    torch.testing.assert_close(bad, -good, **TIGHT)
    assert (sine(good, noise).abs() > 0.05).all(), "every velocity that is shown is seen to be bent"
    at_v_old = picture.pull(shown.derivation, v_old[None], 1.0) - v_old
    assert cosine(at_v_old, -noise) > 1 - 1e-12
    beside = picture.pull(shown.derivation, v_old[None] + 1e-3 * noise.flip(0), 1.0) - v_old - 1e-3 * noise.flip(0)
    assert sine(beside, noise).abs() > 1e-5


@pytest.mark.parametrize("name", picture.IN_WORDS)
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_arrows_are_the_original_loss_s_gradient(name: str, advantage: float) -> None:
    """Lemma L1, from the hand-written loss: an arrow is −gradient/(2·weight)."""
    shown = picture.panel(name)
    d = shown.derivation
    one = torch.tensor([advantage], dtype=torch.float64)
    scene = {**picture.SCENE, **dict.fromkeys(("advantage", "reward", "preference"), one), "reward_prob": (1 + one) / 2}
    for start, end in zip(shown.starts, shown.good if advantage > 0 else shown.bad, strict=True):
        case = complete(d, {n: scene[n] if n != "v_theta" else start[None] for n in d.given})
        (gradient,) = torch.autograd.grad(entry(name).loss(case).sum(), case.v_theta)
        weight = float(picture.target(d, case)[0])
        torch.testing.assert_close(start - gradient[0] / (2 * weight), end, rtol=1e-9, atol=1e-9)


def test_faint_points_are_those_that_no_target_rests_on() -> None:
    used = {name: set(picture.panel(name).used) for name in picture.METHODS}
    assert used == {
        "flow_grpo": {"v_old", "noise"},
        "grpo_guard": {"v_old", "noise"},
        "awm": {"v_gt"},
        "diffusion_nft": {"v_old", "v_gt"},
    }


def test_the_figure_shows_the_computed_arrows() -> None:
    left, right, bottom, top = picture.FRAME
    for axes, name in zip(picture.draw().axes, picture.METHODS, strict=True):
        assert axes.get_title(loc="left") == entry(name).derivation.title
        assert axes.get_aspect() == 1
        assert (*axes.get_xlim(), *axes.get_ylim()) == (left, right, bottom, top)
        shown = picture.panel(name)
        heads = [patch._posA_posB for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
        wanted = [(s, e) for s, g, b in zip(shown.starts, shown.good, shown.bad, strict=True) for e in (g, b)]
        assert {(*map(float, a), *map(float, b)) for a, b in heads} == {(*s.tolist(), *e.tolist()) for s, e in wanted}
        for end in (shown.good[-1], shown.bad[-1]):
            assert left < end[0] < right
            assert bottom < end[1] < top


@pytest.mark.parametrize("name", picture.IN_WORDS)
def test_every_algorithm_has_a_picture_of_its_own(name: str) -> None:
    figure, shown = picture.single(name), picture.panel(name)
    (axes,) = figure.axes
    heads = {tuple(map(float, p._posA_posB[1])) for p in axes.patches if isinstance(p, FancyArrowPatch)}
    assert heads == {tuple(end) for ends in (shown.good, shown.bad) for end in ends.tolist()}
    assert "pulls" in figure.get_label()


def test_the_pictures_are_of_the_catalogue() -> None:
    assert set(picture.IN_WORDS) == {a.name for a in ALGORITHMS}


def test_the_file_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    assert picture.main([str(first)]) == 0
    picture.save(second)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 300_000
    with Image.open(first) as image:
        assert image.width >= 1200
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255), "opaque, so that dark pages do not swallow it"


@pytest.mark.parametrize("arguments", [[], ["a.png", "b.png"], ["--help"]])
def test_the_command_says_how_to_use_it(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert picture.main(arguments) == 2
    assert "usage" in capsys.readouterr().err
