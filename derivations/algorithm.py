r"""An algorithm: what papers and code give one name to, in all its forms.

Each file of ``derivations/losses`` exposes one :class:`Algorithm`.  Its head (names, source, process, policy,
options, variants) is data; its one function states a form as a :class:`Stated`, from a value for every option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import get_args

import sympy as sp

from derivations.derivation import Derivation, PathName, Policy, Process, Step
from derivations.variant import Variant, choose

__all__ = ["Algorithm", "AlgorithmError", "Options", "Pull", "Stated"]

Options = Mapping[str, str]
"""A value for each of an algorithm's options."""


class AlgorithmError(ValueError):
    """An algorithm's data is inconsistent; the message lists every mistake."""


@dataclass(frozen=True)
class Pull:
    """A loss and what it does to the network's output; fields of :class:`~derivations.derivation.Derivation`."""

    loss: sp.Expr
    gradient: sp.Expr
    weight: sp.Expr
    target: sp.Expr


@dataclass(frozen=True)
class Stated:
    """One form of an algorithm: a derivation without its head.

    Attributes:
        pull: the loss, its gradient, weight and target.
        policy: where this form's is another than the algorithm's.

    The others are :class:`~derivations.derivation.Derivation`'s.
    """

    pull: Pull
    definitions: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    coefficients: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    brief_gradient: sp.Expr | None = None
    brief_target: sp.Expr | None = None
    domain: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    path: PathName = "rectified"
    within: Mapping[sp.Symbol, sp.Interval] = field(default_factory=dict)
    policy: Policy | None = None


@dataclass(frozen=True, eq=False)
class Algorithm:
    """One algorithm of the catalogue.

    Attributes:
        name: in code; that of its file, too.
        title: in prose.
        reference: BibTeX.
        process: ``"forward"`` (noised data) or ``"backward"`` (the sampling path).
        policy: ``"on"`` or ``"off"``.
        options: what an implementation may declare: each option with its values, the default first.
        variants: the forms that have names, the paper's first; each with its options and its line.
        assemble: states the form that a value for each option makes.

    Raises:
        AlgorithmError: a name stands twice, or a variant lacks its line, or its options are none of the algorithm's.
    """

    name: str
    title: str
    reference: str
    process: Process
    policy: Policy
    options: Mapping[str, tuple[str, ...]]
    variants: tuple[Variant, ...]
    assemble: Callable[[Options], Stated]

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise AlgorithmError(f"{self.name}: {'; '.join(problems)}")

    def _problems(self) -> Iterator[str]:
        if not self.name.isidentifier():
            yield f"name must be an identifier, as its file's is, but is {self.name!r}"
        if not self.title:
            yield "title must be the algorithm's name in prose, but is empty"
        if not self.reference.startswith("@"):
            yield f"reference must be BibTeX, but begins {self.reference[:20]!r}"
        for what, given, allowed in (
            ("process", self.process, get_args(Process)),
            ("policy", self.policy, get_args(Policy)),
        ):
            if given not in allowed:
                yield f"{what} must be {' or '.join(map(repr, allowed))}, but is {given!r}"
        for option, values in self.options.items():
            if not values or len(set(values)) < len(values):
                yield f"the option {option} must have values that differ, but has {values!r}"
        names = [v.name for v in self.variants]
        if not names or names[0] != "paper" or self.variants[0].options:
            yield "variants must begin with 'paper', the form with every option at its default"
        yield from (f"two variants have the name {n!r}" for n in sorted({n for n in names if names.count(n) > 1}))
        for variant in self.variants:
            if not variant.summary:
                yield f"the variant {variant.name} has no summary"
            if not variant.line:
                yield f"the variant {variant.name} has no line"
            if all(self.options.values()):
                try:
                    self.chosen(variant.options)
                except ValueError as error:
                    yield f"the variant {variant.name}: {error}"

    @property
    def lines(self) -> Mapping[str, str]:
        """Each variant in one line, as ``gradcheck derive`` reads it."""
        return {v.name: v.line for v in self.variants}

    def chosen(self, options: Options) -> dict[str, str]:
        """A value for every option: the given one, or its default.

        Raises:
            ValueError: an option is none of the algorithm's, or a value is not allowed.
        """
        unknown = [name for name in options if name not in self.options]
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is no option of {self.name}, which has {', '.join(self.options)}")
        return {name: choose(name, options.get(name, allowed[0]), *allowed) for name, allowed in self.options.items()}

    def derive(self, variant: Variant | str = "paper") -> Derivation:
        """State and derive one variant, of the algorithm's own (by name, too) or of other options.

        Raises:
            ValueError: there is no variant of that name, or its options are none of the algorithm's.
            DerivationError: what is stated is inconsistent.
        """
        if isinstance(variant, str):
            named = {v.name: v for v in self.variants}
            variant = named[choose("variant", variant, *named)]
        stated = self.assemble(self.chosen(variant.options))
        pull = stated.pull
        return Derivation(
            name=self.name,
            variant=variant,
            title=self.title,
            process=self.process,
            policy=stated.policy or self.policy,
            reference=self.reference,
            loss=pull.loss,
            gradient=pull.gradient,
            weight=pull.weight,
            target=pull.target,
            definitions=stated.definitions,
            coefficients=stated.coefficients,
            steps=stated.steps,
            after=stated.after,
            brief_gradient=stated.brief_gradient,
            brief_target=stated.brief_target,
            domain=stated.domain,
            path=stated.path,
            within=stated.within,
        )
