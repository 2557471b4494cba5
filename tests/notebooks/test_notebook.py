"""What a notebook shows of a derivation is what the derivation says, also where it is wrong."""

from __future__ import annotations

import dataclasses

import pytest

from derivations.derivation import Theorem
from derivations.identities import IDENTITIES
from derivations.lemmas import LEMMAS
from derivations.writing.render import claim_latex, latex, text
from gradcheck import notebook
from gradcheck.catalogue import CATALOGUE, entry
from gradcheck.errors import InputError

L1 = LEMMAS[0]


def spoiled() -> Theorem:
    """L1 with its first step's gradient doubled."""
    first, *rest = L1.steps
    wrong = dataclasses.replace(first, claim=dataclasses.replace(first.claim, gradient=2 * first.claim.gradient))  # type: ignore[union-attr,call-arg]
    return dataclasses.replace(L1, steps=(wrong, *rest))


def test_steps_are_proved_when_they_are_shown() -> None:
    good, bad = notebook.steps(L1), notebook.steps(spoiled())
    assert good.markdown.count("✓ *proved*") == 3
    assert bad.markdown.count("✓ *proved*") == 2
    assert "✗ *refused; left over:*" in bad.markdown
    assert "[refused]" in repr(bad)


def test_steps_can_be_chosen_by_name_only() -> None:
    chosen = notebook.steps(L1, "unit-weight")
    assert "unit-weight" in chosen.markdown
    assert "half-weight" not in chosen.markdown
    with pytest.raises(InputError, match="one of sg-mse, half-weight, unit-weight"):
        notebook.steps(L1, "third-weight")


def log_density() -> Theorem:
    return next(identity for identity in IDENTITIES if identity.name == "log-density")


def test_a_chain_is_its_steps() -> None:
    theorem = log_density()
    chain = notebook.chain(theorem, "written-out", "abbreviated")
    for step in theorem.steps:
        for side in (step.claim.lhs, step.claim.rhs):  # type: ignore[union-attr]
            assert chain.markdown.count(latex(side)) == 1
            assert text(side) in repr(chain)
    assert chain.markdown.count("&=") == 2
    assert "✓ *proved*" in chain.markdown


def test_a_chain_shows_which_of_its_steps_is_refused() -> None:
    theorem = log_density()
    first, second = theorem.steps
    wrong = dataclasses.replace(second, claim=dataclasses.replace(second.claim, rhs=2 * second.claim.rhs))  # type: ignore[union-attr,call-arg]
    shown = notebook.chain(dataclasses.replace(theorem, steps=(first, wrong)), "written-out", "abbreviated")
    assert "proved" not in shown.markdown + repr(shown)
    assert "✗ *abbreviated refused; left over:*" in shown.markdown
    assert "written-out" not in shown.markdown


@pytest.mark.parametrize("names", [("abbreviated", "written-out"), ("written-out", "written-out"), ()])
def test_what_does_not_follow_is_no_chain(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="equalities that each begin where one ends"):
        notebook.chain(log_density(), *names)


def test_a_condition_does_not_get_lost_in_a_chain() -> None:
    with pytest.raises(InputError, match="equalities that each begin where one ends"):
        notebook.chain(L1, "half-weight")


def test_refusals_are_the_prover_s() -> None:
    claim = L1.steps[0].claim
    assert "**refused**" in notebook.refused(L1, "sg-mse", gradient=2 * claim.gradient).markdown  # type: ignore[union-attr]
    assert "**proved**" in notebook.refused(L1, "sg-mse").markdown


@pytest.mark.parametrize("label", ["flow_grpo", "awm", "diffusion_nft"])
def test_statements_define_every_symbol_of_the_loss(label: str) -> None:
    derivation = entry(label).derivation
    shown = notebook.statement(derivation).markdown
    used = derivation.inputs(derivation.loss)
    formulas = {**derivation.definitions, **derivation.coefficients}
    for symbol in derivation.loss.free_symbols - used:
        assert symbol in formulas
        assert claim_latex_of(symbol, derivation) in shown


def claim_latex_of(symbol: object, derivation: object) -> str:
    from derivations.writing.render import latex

    return f"{latex(symbol, of=derivation)} ="  # type: ignore[arg-type]


def test_proofs_count_what_is_refused() -> None:
    assert "| 3 of 3 | 9 of 9 |" in notebook.proofs(L1).markdown
    assert "| 2 of 3 | 6 of 9 |" in notebook.proofs(spoiled()).markdown


@pytest.mark.parametrize("chosen", CATALOGUE, ids=lambda e: e.label)
def test_one_problem_shows_the_same_digits_twice(chosen: object) -> None:
    shown = notebook.one_problem(chosen)  # type: ignore[arg-type]
    rows = [row.strip("| ").split("|") for row in shown.markdown.splitlines()[2:5]]
    for _, observed, required, _ in rows:
        assert float(observed) == float(required)
    assert "below 1" in shown.markdown


def test_random_problems_show_a_failure() -> None:
    class Wrong:
        label = "wrong"
        derivation = entry("awm").derivation

        def loss(self, case: object) -> object:
            return entry("awm").loss(case) * 1.001  # type: ignore[arg-type]

    assert "holds" in notebook.random_problems(entry("awm"), examples=3).markdown
    assert "**fails**" in notebook.random_problems(Wrong(), examples=3).markdown  # type: ignore[arg-type]


def test_tables_keep_bars_inside_cells() -> None:
    assert notebook.table(("a", "b"), [("|x|", "y")]).markdown.splitlines()[2] == r"| \|x\| | y |"


def test_claims_are_the_renderer_s() -> None:
    for lemma in LEMMAS:
        for step in lemma.steps:
            assert claim_latex(step.claim) in notebook.steps(lemma, step.name).markdown
