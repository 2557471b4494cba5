"""Bad input raises one kind of error that names the argument, what was given and what is wanted."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import gradcheck
from gradcheck.catalogue import CATALOGUE, Entry
from gradcheck.errors import InputError
from gradcheck.problems.building import Spec, build

SHAPE = (3, 2, 5)


def good(name: str, variant: str = "paper") -> dict[str, Any]:
    """Valid arguments of make_case."""
    case = build(gradcheck.entry(name, variant).derivation, Spec(3, (2, 5), seed=1, time="middle", policy="off"))
    given = gradcheck.entry(name, variant).derivation.given
    return {
        q: getattr(case, q).detach() if isinstance(getattr(case, q), torch.Tensor) else getattr(case, q) for q in given
    }


def with_value(tensor: torch.Tensor, value: float) -> torch.Tensor:
    out = tensor.clone()
    out.view(-1)[1] = value
    return out


# name, the argument, what it is changed into, what the message says was given, and what it says is wanted
BAD = [
    ("flow_grpo", "v_theta", lambda q: None, "None", "a tensor of shape (B, *latent)"),
    ("flow_grpo", "v_theta", lambda q: q[:, 0, 0], "shape (3,)", "at least two axes"),
    ("flow_grpo", "v_theta", lambda q: q[:0], "shape (0, 2, 5)", "no empty one"),
    ("flow_grpo", "v_theta", lambda q: q.to(torch.int64), "dtype int64", "floating-point"),
    ("flow_grpo", "v_theta", lambda q: q.to(torch.complex128), "dtype complex128", "real floating-point"),
    ("flow_grpo", "v_theta", lambda q: with_value(q, float("nan")), "nan at (0, 0, 1)", "finite"),
    ("flow_grpo", "v_old", lambda q: q[:1], "shape (1, 2, 5)", "(3, 2, 5), like v_theta"),
    ("flow_grpo", "v_old", lambda q: q.float(), "float32", "float64, like v_theta"),
    ("flow_grpo", "x_t", lambda q: with_value(q, float("inf")), "inf at (0, 0, 1)", "finite"),
    ("flow_grpo", "x_t", lambda q: q.numpy(), "ndarray", "a tensor of shape (3, 2, 5)"),
    ("flow_grpo", "t", lambda q: with_value(q, 0.0), "0.0 for sample 1", "(0, 1)"),
    ("flow_grpo", "t", lambda q: with_value(q, 1.0), "1.0 for sample 1", "(0, 1)"),
    ("flow_grpo", "t", lambda q: q[:, None], "shape (3, 1)", "shape (3,)"),
    ("flow_grpo", "t", lambda q: 0.5, "0.5 (float)", "shape (3,)"),
    ("flow_grpo", "dt", lambda q: with_value(q, -0.1), "-0.1 for sample 1", "(0, 1)"),
    ("flow_grpo", "dt", lambda q: with_value(q, 0.99), "0.99 for sample 1", "ends at a time t − dt > 0"),
    ("flow_grpo", "noise_level", lambda q: -0.7, "-0.7", "(0, ∞)"),
    ("flow_grpo", "noise_level", lambda q: 0.0, "0.0", "(0, ∞)"),
    ("flow_grpo", "noise_level", lambda q: float("nan"), "nan", "(0, ∞)"),
    ("flow_grpo", "noise_level", lambda q: "0.7", "'0.7' (str)", "a Python number"),
    ("flow_grpo", "clip_low", lambda q: 1.5, "1.5", "(0, 1]"),
    ("flow_grpo", "clip_high", lambda q: True, "True (bool)", "a Python number"),
    ("flow_grpo", "advantage", lambda q: q[:2], "shape (2,)", "shape (3,)"),
    ("diffusion_nft", "reward_prob", lambda q: with_value(q, 1.5), "1.5 for sample 1", "[0, 1]"),
    ("diffusion_nft", "reward_prob", lambda q: with_value(q, -0.1), "-0.1 for sample 1", "[0, 1]"),
    ("diffusion_nft", "beta", lambda q: 0, "0", "(0, ∞)"),
    ("awm", "noise", lambda q: q[:, :1], "shape (3, 1, 5)", "shape (3, 2, 5), like v_theta"),
    ("ddpo", "alpha_bar_prev", lambda q: 1e-9 * q, "for sample 0 with alpha_bar = 0.", "alpha_bar_prev > alpha_bar"),
    ("ddpo", "alpha_bar", lambda q: with_value(q, 1.0), "1.0 for sample 1", "(0, 1)"),
    ("flow_dppo", "divergence_max", lambda q: 0.0, "0.0", "(0, ∞)"),
]


@pytest.mark.parametrize(("name", "argument", "change", "got", "wanted"), BAD, ids=[f"{b[1]}-{b[3]}" for b in BAD])
def test_bad_values(name: str, argument: str, change: Any, got: str, wanted: str) -> None:
    quantities = good(name)
    quantities[argument] = change(quantities[argument])
    with pytest.raises(InputError) as raised:
        gradcheck.make_case(name, **quantities)
    line = next(line for line in str(raised.value).splitlines() if line.startswith(f"[gradcheck] {argument}: "))
    assert got in line.partition("; wanted ")[0]
    assert wanted in line.partition("; wanted ")[2]


def test_all_mistakes_come_together() -> None:
    quantities = good("flow_grpo") | {"noise_level": -1.0, "beta": 1.0}
    del quantities["x_t"]
    with pytest.raises(InputError) as raised:
        gradcheck.make_case("flow_grpo", **quantities)
    assert {p[0] for p in raised.value.problems} == {"noise_level", "beta", "x_t"}
    assert len(str(raised.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: gradcheck.make_case("flow_grop"), "name"),
        (lambda: gradcheck.make_case("flow_grpo", "official"), "variant"),
        (lambda: gradcheck.entries("awm", "nft"), "name"),
        (lambda: gradcheck.original_loss("awm", gradcheck.make_case("diffusion_nft", **good("diffusion_nft"))), "case"),
        (lambda: gradcheck.equivalent_loss("awm", None), "case"),
        (lambda: gradcheck.target("awm", gradcheck.make_case("awm", **good("awm")), "mean"), "case"),
        (lambda: gradcheck.verify("awm", device="tpu"), "device"),
        (lambda: gradcheck.verify("awm", dtypes=["float8"]), "dtype"),
        (lambda: gradcheck.verify("awm", max_examples=0), "max_examples"),
    ],
)
def test_bad_names(call: Any, argument: str) -> None:
    with pytest.raises(InputError, match=rf"^\[gradcheck\] {argument}: got .+; wanted .+"):
        call()


def test_a_case_says_what_it_has() -> None:
    case = gradcheck.make_case("awm", **good("awm"))
    with pytest.raises(AttributeError, match=r"awm has no quantity 'v_old'; it has .*v_theta.*v_gt"):
        _ = case.v_old


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda e: e.label)
def test_a_users_own_tensors_are_taken(entry: Entry) -> None:
    """make_case takes what the notation table asks for, and D may be left out."""
    name, quantities = entry.algorithm.name, good(entry.algorithm.name, entry.variant)
    quantities.pop("D", None)
    case = gradcheck.make_case(name, entry.variant, **quantities)
    loss = gradcheck.original_loss(name, case, entry.variant)
    assert loss.shape == (3,)
    assert gradcheck.equivalent_loss(name, case, entry.variant).shape == (3,)
    weight, point = gradcheck.target(name, case, entry.variant)
    assert weight.shape == (3, 1, 1)
    assert point.shape == case.v_theta.shape
    assert re.fullmatch(r"Case\(.+, latent \(3, 2, 5\), torch\.float64, cpu\)", repr(case))
