"""A judged step on disk: tensors in safetensors, the rest in JSON; and judged again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradcheck.errors import InputError
from gradcheck.extras import need
from gradcheck.watching.declared import declare_watch
from gradcheck.watching.given import Given, version_of
from gradcheck.watching.lines import StepLine
from gradcheck.watching.step import Context, judge_call

__all__ = ["Kept", "replayed", "write_step"]

_VERSION = 1
_TENSORS, _REST = "step.safetensors", "step.json"


@dataclass(frozen=True)
class Kept:
    """A judged step's tensors, not copied.

    Attributes:
        given: the call.
        gradient: what arrived.
        version: of the gradient, to see whether somebody changed it in place.
    """

    given: Given
    gradient: Tensor
    version: int

    @classmethod
    def of(cls, given: Given, gradient: Tensor) -> Kept:
        return cls(given, gradient.detach(), version_of(gradient))

    def changed(self) -> bool:
        return bool(self.given.changed_in_place()) or version_of(self.gradient) != self.version

    def copy(self) -> Kept:
        """On the CPU, to be kept as long as one likes."""
        output = self.given.output.detach().cpu().clone()
        latents = {name: x.cpu().clone() for name, x in self.given.latents.items()}
        versions = {name: version_of(x) for name, x in {self.given.output_name: output, **latents}.items()}
        own = replace(self.given, output=output, latents=latents, versions=versions, live={})
        gradient = self.gradient.cpu().clone()
        return Kept(own, gradient, version_of(gradient))


def write_step(folder: Path, kept: Kept, context: Context) -> None:
    """Write a step into a folder, which is made.

    Raises:
        InputError: safetensors is not installed.
    """
    need("safetensors", "watch.save")
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    given = kept.given
    sigmas = given.extra.get("sigmas")
    tensors = {
        given.output_name: given.output,
        **given.latents,
        **{f"sample.{name}": x for name, x in given.samples.items()},
        "gradient": kept.gradient,
        **({} if sigmas is None else {"sigmas": torch.as_tensor(sigmas)}),
    }
    save_file({name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}, folder / _TENSORS)
    extra = {name: x for name, x in given.extra.items() if name != "sigmas" and _is_json(x)}
    rest = {
        "schema": {"name": "gradcheck-watch-step", "version": _VERSION},
        "declaration": context.declared.written,
        "constants": dict(context.constants_of(given).given),
        "output": given.output_name,
        "numbers": given.numbers,
        "extra": extra,
    }
    (folder / _REST).write_text(json.dumps(rest, indent=2, ensure_ascii=False) + "\n")


def _is_json(x: Any) -> bool:
    return (
        x is None
        or isinstance(x, (bool, int, float, str))
        or (isinstance(x, (list, tuple)) and all(isinstance(y, (int, float)) for y in x))
    )


def replayed(folder: Path) -> tuple[StepLine, Context, Given, Tensor]:
    """Judge a written step.

    Raises:
        InputError: the folder holds none.
    """
    need("safetensors", "gradcheck replay")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        rest = json.loads((folder / _REST).read_text())
        tensors = load_file(folder / _TENSORS)
        if rest["schema"] != {"name": "gradcheck-watch-step", "version": _VERSION}:
            raise KeyError("schema")
        return _judged(rest, tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise InputError(("FOLDER", f"{folder} ({reason:.100})", "a folder that watch.save wrote")) from None


def _judged(rest: Mapping[str, Any], tensors: dict[str, Tensor]) -> tuple[StepLine, Context, Given, Tensor]:
    written = rest["declaration"]
    declared = dict(written["declared"])
    if isinstance(declared.get("clip_range"), list):
        declared["clip_range"] = tuple(declared["clip_range"])
    context = Context(
        declare_watch(written["algorithm"], written["loss"], written["preset"], declared),
        rest["constants"],
        tensors.pop("sigmas", None),
    )
    gradient = tensors.pop("gradient")
    name = rest["output"]
    samples = {k.removeprefix("sample."): x for k, x in tensors.items() if k.startswith("sample.")}
    latents = {k: x for k, x in tensors.items() if not k.startswith("sample.") and k != name}
    given = Given(name, tensors[name], latents, samples, dict(rest["numbers"]), {}, dict(rest["extra"]))
    given.extra.pop("step", None)
    problems = context.also(given)
    if problems:
        raise InputError(*problems)
    with torch.no_grad():
        found = judge_call(
            context, int(rest["extra"].get("step") or 0), given, gradient, None, lambda: "", explain=True
        )
    return found.line, context, given, gradient
