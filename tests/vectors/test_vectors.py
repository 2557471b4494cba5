"""Golden vectors as users meet them: right answers pass, each wrong one is refused by the case made for it."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import CATALOGUE, entry
from gradcheck.doors.cli import main
from gradcheck.losses import grpo_guard
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.vectors.checking import check
from gradcheck.vectors.export import export
from gradcheck.vectors.flags import FLAGS
from gradcheck.vectors.layout import as_dtype, read_manifest
from gradcheck.vectors.making import applies, expected, make
from gradcheck.vectors.recipes import RECIPES
from tests.vectors.answering import Loss, answer, manifest

SOME = ("flow_grpo[mean]", "grpo_guard[mean]", "diffusion_nft[adaptive]", "awm[mean]")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    export(folder, *SOME)
    return folder


def schema(name: str) -> jsonschema.Draft202012Validator:
    text = (files("gradcheck.vectors") / f"{name}.schema.json").read_text(encoding="utf-8")
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    return jsonschema.Draft202012Validator(json.loads(text))


def test_the_whole_catalogue(tmp_path: Path) -> None:
    """Every loss by hand meets its vectors, which are small and as the schema says."""
    out = export(tmp_path / "vectors")
    assert sum(file.stat().st_size for file in out) < 50_000 * len(CATALOGUE)
    answer(tmp_path / "vectors", tmp_path / "answers")
    read = manifest(tmp_path / "vectors")
    schema("manifest").validate(read)
    assert [v["label"] for v in read["vectors"]] == [e.label for e in CATALOGUE]
    for e, v in zip(CATALOGUE, read["vectors"], strict=True):
        assert [c["name"] for c in v["cases"]] == [r.name for r in RECIPES if applies(r, e.derivation)]
    answered = check(tmp_path / "vectors", tmp_path / "answers")
    assert len(answered) == 2 * len(CATALOGUE)
    wrong = [(a.label, a.dtype, a.problems, [c.case.name for c in a.failed]) for a in answered if not a.holds]
    assert not wrong


def test_tensors_are_where_the_manifest_says(vectors: Path) -> None:
    """Names, shapes, dtypes and axes of every tensor; and every row belongs to one case."""
    read = manifest(vectors)
    rows = {x["name"]: x for x in (*read["expected"], *read["inputs"])}
    for v in read["vectors"]:
        for dtype, file in v["files"].items():
            found = load_file(vectors / file["name"])
            assert set(found) == {f"{g['name']}/{name}" for g in v["groups"] for name in g["tensors"]}
            for g in v["groups"]:
                for name in g["tensors"]:
                    tensor, row = found[f"{g['name']}/{name}"], rows[name]
                    shape = [n for axis in row["axes"] for n in ([g["rows"]] if axis == "row" else g["latent"])]
                    assert list(tensor.shape) == shape
                    assert tensor.dtype == as_dtype(dtype if row["dtype"] == "as the file" else row["dtype"])
                covered = sorted(i for c in v["cases"] if c["group"] == g["name"] for i in range(*c["rows"]))
                assert covered == list(range(g["rows"]))
    assert {f for v in read["vectors"] for c in v["cases"] for f in c["flags"]} == set(read["flags"])


def test_every_flag_has_a_case() -> None:
    assert list(dict.fromkeys(r.flag for r in RECIPES)) == list(FLAGS)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, vectors: Path) -> None:
    """Whatever else is exported beside it, and another seed gives others."""
    again, other = export(tmp_path / "a", "awm[mean]"), export(tmp_path / "b", "awm[mean]", seed=1)
    assert all(file.read_bytes() == (vectors / file.name).read_bytes() for file in again[:-1])
    assert all(file.read_bytes() != (vectors / file.name).read_bytes() for file in other[:-1])


def test_a_weight_and_a_target_give_the_gradient(vectors: Path) -> None:
    """∇ = 2w(v_theta − target), up to what rounding explains."""
    for v in manifest(vectors)["vectors"]:
        file = load_file(vectors / v["files"]["float64"]["name"])
        for g in v["groups"]:
            x = {name: file[f"{g['name']}/{name}"] for name in g["tensors"]}
            w = 2 * x["weight"].reshape(-1, *(1,) * len(g["latent"]))
            reach = (
                8 * unit_roundoff(torch.float64) * (w * (x["v_theta"].abs() + x["target"].abs()) + x["gradient_scale"])
            )
            assert bool(((w * (x["v_theta"] - x["target"]) - x["gradient"]).abs() <= reach).all())


def test_the_rule_is_the_documents(vectors: Path, tmp_path: Path) -> None:
    """What the rule's plain reading accepts and refuses, ``check`` does."""
    answer(vectors, tmp_path / "answers", "awm[mean]", losses=False)
    name, key = "awm.mean.float64.safetensors", "axes2/gradient"
    demanded, given = load_file(vectors / name), load_file(tmp_path / "answers" / name)
    bound = THRESHOLD * unit_roundoff(torch.float64) * demanded[f"{key}_scale"]
    for factor, holds in ((0.9, True), (1.1, False)):
        given[key] = demanded[key] + factor * bound
        save_file(given, tmp_path / "answers" / name)
        (found,) = check(vectors, tmp_path / "answers", "awm[mean]", dtypes=["float64"])
        assert found.holds == holds
        assert all(c.loss is None for c in found.cases)


def test_the_edge_accepts_either_branch_and_their_means(vectors: Path, tmp_path: Path) -> None:
    label, name, key = "flow_grpo[mean]", "flow_grpo.mean.{}.safetensors", "axes2/gradient"
    for dtype in ("float64", "float32"):
        answers = tmp_path / dtype
        answer(vectors, answers, label)
        file = name.format(dtype)
        demanded, given = load_file(vectors / file), load_file(answers / file)
        (edge,) = (c for v in read_manifest(vectors) if v.label == label for c in v.cases if c.name == "clip-edge")
        rows, open_rows = slice(*edge.rows), demanded["axes2/undecided"]
        assert open_rows[rows].all()
        assert open_rows.sum() == edge.rows[1] - edge.rows[0]
        for share, holds in ((0.0, True), (0.5, True), (1.0, True), (0.75, True), (0.9, False)):
            mixed = (1 - share) * demanded[key][rows] + share * demanded["axes2/other_gradient"][rows]
            given[key][rows] = mixed.to(as_dtype(dtype))
            save_file(given, answers / file)
            (found,) = check(vectors, answers, label, dtypes=[dtype])
            assert [c.case.name for c in found.failed] == ([] if holds else ["clip-edge"])


def test_the_bound_at_the_edge_is_that_of_the_wider_branch() -> None:
    """Just beyond the edge the gradient vanishes exactly; an answer on the other branch is rounded nevertheless."""
    derivation = entry("flow_grpo", "mean").derivation
    (recipe,) = (r for r in RECIPES if r.at_edge)
    case, _ = make(derivation, recipe)["float64"]
    e = expected(derivation, case.replace(clip_high=case.clip_high - 3e-15))
    assert e.undecided.all()
    assert not e.gradient[0].any()
    assert bool((e.gradient_scale >= e.other_gradient.abs()).all())


# ------------------------------------------------------------------------------------------------ wrong answers


def times(factor: float) -> Callable[[Loss], Loss]:
    return lambda loss: lambda case: factor * loss(case)


def batch_mean(loss: Loss) -> Loss:
    return lambda case: loss(case) / case.v_theta.shape[0]


def one_time_for_all(loss: Loss) -> Loss:
    """σ_t and √Δt of the batch's first sample."""
    return lambda case: loss(case.replace(t=case.t[:1].expand_as(case.t), dt=case.dt[:1].expand_as(case.dt)))


def averaged_length(loss: Loss) -> Loss:
    """GRPO-Guard's 1/Δt, averaged over the batch."""
    return lambda case: loss(case) * case.dt * (1 / case.dt).mean()


def averaged_bias(loss: Loss) -> Loss:
    """GRPO-Guard's bias, averaged over the batch: the latent's axes taken from a tensor that has lost them."""

    def wrong(case: Case) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grpo_guard, "latent_reduce", lambda x, _: x.mean().expand(x.shape[0]))
            return loss(case)

    return wrong


def unclipped(loss: Loss) -> Loss:
    return lambda case: loss(case.replace(clip_low=1.0, clip_high=1e3))


def unclipped_above(loss: Loss) -> Loss:
    return lambda case: loss(case.replace(clip_high=1e3))


def clamped(loss: Loss) -> Loss:
    return lambda case: loss(case.replace(advantage=case.advantage.clamp(-5, 5)))


def absolute(loss: Loss) -> Loss:
    return lambda case: loss(case.replace(advantage=case.advantage.abs()))


def floored(loss: Loss) -> Loss:
    """A floor under the noise level, as code has it that fears to divide by it."""
    return lambda case: loss(case.replace(noise_level=max(case.noise_level, 0.05)))


SEVERAL = {"batch", "mixed-times", "extreme-advantage", "one-coordinate", "three-axes", "four-axes", "five-axes"}
PAIRS = {"advantage-signs", "clip-inside-high", "clip-inside-low", "clip-outside-high", "clip-outside-low"}

WRONG: dict[str, tuple[str, Callable[[Loss], Loss], set[str]]] = {
    "batch mean": ("awm[mean]", batch_mean, (SEVERAL | {"advantage-signs"}) - {"mixed-times"}),
    "one time for all": ("flow_grpo[mean]", one_time_for_all, {"mixed-times"}),
    "averaged 1/Δt": ("grpo_guard[mean]", averaged_length, {"mixed-times"}),
    "averaged bias": ("grpo_guard[mean]", averaged_bias, SEVERAL | PAIRS | {"clip-edge"}),
    "no clip": ("flow_grpo[mean]", unclipped, {"clip-outside-high", "clip-outside-low"}),
    "no clip above": ("grpo_guard[mean]", unclipped_above, {"clip-outside-high"}),
    "A clamped": ("awm[mean]", clamped, {"extreme-advantage"}),
    "|A|": ("awm[mean]", absolute, {"advantage-signs", "extreme-advantage"}),
    "σ_t with a floor": ("flow_grpo[mean]", floored, {"tiny-noise"}),
}
"""Each mistake: in which loss, and exactly the cases that refuse it in float64; the first one's note is its own."""


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_answer_is_refused_by_its_cases(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    label, wrong, cases = WRONG[mistake]
    answer(vectors, tmp_path / "answers", label, wrong=wrong)
    double, single = check(vectors, tmp_path / "answers", label)
    assert {c.case.name for c in double.failed} == cases
    assert {c.case.name for c in single.failed} <= cases
    assert main(["vectors", "check", str(vectors), str(tmp_path / "answers"), label]) == 1
    out = " ".join(capsys.readouterr().out.split())  # a line that is wider than the terminal is broken
    shown = {flag for c in double.failed for flag in c.case.flags}
    assert {name for name, flag in FLAGS.items() if flag.effect in out} == shown


@pytest.mark.parametrize(("factor", "told"), [(-1.0, "−1"), (2.0, "2"), (1 / 3, "1/3")])
@pytest.mark.parametrize("label", SOME)
def test_a_wrong_formula_is_refused_by_the_plainest_case(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], label: str, factor: float, told: str
) -> None:
    """Nearly everything fails; what is told is the factor and one note."""
    answer(vectors, tmp_path / "answers", label, wrong=times(factor))
    assert main(["vectors", "check", str(vectors), str(tmp_path / "answers"), label]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert out.count(f"every gradient is {told} times what is demanded") == 2
    assert [name for name, flag in FLAGS.items() if flag.effect in out] == ["typical"]
    assert "the others, to be read once typical passes:" in out


def test_a_wrong_value_is_refused_where_it_is_given(awm: Path, tmp_path: Path) -> None:
    """A constant has no gradient."""
    for losses in (True, False):
        answers = tmp_path / str(losses)
        answer(awm, answers, wrong=lambda loss: lambda case: loss(case) + 0.01, losses=losses)
        for a in check(awm, answers):
            assert a.holds != losses
            assert all(c.gradient.holds for c in a.cases)


# ------------------------------------------------------------------------------------- answers that are no answers


def edited(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def act(file: Path) -> None:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return act


def with_nan(tensors: dict[str, Tensor]) -> None:
    tensors["axes3/gradient"][1, 2, 3] = math.nan


BAD: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "file missing": (Path.unlink, ["awm.mean.float32.safetensors", "No such file"]),
    "tensor missing": (edited(lambda x: x.pop("axes3/gradient")), ["axes3/gradient", "got nothing", "(2, 3, 4)"]),
    "loss missing": (edited(lambda x: x.pop("axes3/loss")), ["axes3/loss", "got nothing", "(2,)"]),
    "tensor too many": (edited(lambda x: x.update(mine=torch.zeros(1))), ["mine", "nothing asks for"]),
    "shape": (edited(lambda x: x.update({"axes2/gradient": x["axes2/gradient"].T.contiguous()})), ["axes2/gradient"]),
    "dtype": (edited(lambda x: x.update({"axes2/loss": x["axes2/loss"].double()})), ["axes2/loss", "got float64"]),
    "NaN": (edited(with_nan), ["axes3/gradient", "nan at (1, 2, 3), in the case three-axes", "a finite number"]),
    "no safetensors": (lambda f: torch.save({"axes2/gradient": torch.zeros(1)}, f), ["safetensors format"]),
    "file too many": (lambda f: save_file({}, f.with_name("mine.safetensors")), ["mine.safetensors", "no vectors"]),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_answer_is_one_clear_error(
    tmp_path: Path, awm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """And the other file is judged nevertheless."""
    monkeypatch.setenv("COLUMNS", "1000")
    act, words = BAD[what]
    answer(awm, tmp_path / "answers")
    act(tmp_path / "answers" / "awm.mean.float32.safetensors")
    report = tmp_path / "report.json"
    assert main(["vectors", "check", str(awm), str(tmp_path / "answers"), "--json", str(report)]) == 2
    out = capsys.readouterr().out
    (line,) = (line for line in out.splitlines() if "; wanted " in line)
    assert all(word in line for word in words), line
    data = json.loads(report.read_text(encoding="utf-8"))
    schema("report").validate(data)
    assert data["results"][0]["holds"]
    assert [len(r["problems"]) for r in data["results"] if not r["holds"]] == [1]


@pytest.fixture(scope="module")
def awm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("awm")
    export(folder, "awm[mean]")
    return folder


def test_a_nan_that_the_precision_explains_is_no_error(awm: Path, tmp_path: Path) -> None:
    """Where the bound is infinite nothing is judged, and the verdict says so."""
    folder = tmp_path / "vectors"
    shutil.copytree(awm, folder)
    name = "awm.mean.float64.safetensors"
    tensors = load_file(folder / name)
    tensors["axes2/gradient_scale"][0, 0] = math.inf
    save_file(tensors, folder / name)
    text, old = (folder / "manifest.json").read_text(), hashlib.sha256((awm / name).read_bytes()).hexdigest()
    new = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(text.replace(old, new))
    answer(folder, tmp_path / "answers")
    given = load_file(tmp_path / "answers" / name)
    given["axes2/gradient"][0, 0] = math.nan
    save_file(given, tmp_path / "answers" / name)
    (found,) = check(folder, tmp_path / "answers", dtypes=["float64"])
    assert found.holds
    assert [c.gradient.judged for c in found.cases[:2]] == [0.75, 1.0]


def test_vectors_that_were_changed_are_refused(awm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vectors"
    shutil.copytree(awm, folder)
    file = folder / "awm.mean.float64.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    answer(awm, tmp_path / "answers")
    (found,) = check(folder, tmp_path / "answers", dtypes=["float64"])
    assert "checksum" in found.problems[0][1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["format"].update(version=2), "gradcheck-vectors 2"),
        (lambda m: m["vectors"][0]["cases"][0].update(rows=[0, 99]), "rows 0 to 99"),
        (lambda m: m["vectors"][0]["files"]["float64"].update(name="../x"), "'../x'"),
        (lambda m: m["vectors"][0].pop("groups"), "groups"),
    ],
)
def test_a_manifest_that_is_none_exits_with_2(
    awm: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], object],
    words: str,
) -> None:
    data = manifest(awm)
    change(data)
    (tmp_path / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    assert main(["vectors", "check", str(tmp_path), str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["check", "{awm}", "{awm}/none"], "ANSWERS"),
        (["check", "{awm}/none", "{awm}"], "DIR"),
        (["check", "{awm}", "{awm}", "flow_grpo[mean]"], "NAME: got flow_grpo[mean]"),
        (["check", "{awm}", "{awm}", "awm[nope]"], "awm[nope]"),
        (["check", "{awm}", "{awm}", "--dtype", "half"], "--dtype: got half; wanted of float64, float32"),
        (["check", "{awm}", "{awm}", "--json", "{awm}/none/x.json"], "a folder that exists"),
        (["export", "--out", "{awm}", "nope"], "'nope'"),
        (["export", "--out", "{awm}/manifest.json", "awm"], "--out"),
    ],
)
def test_what_is_not_understood_exits_with_2(
    awm: Path, capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    assert main(["vectors", *(a.format(awm=awm) for a in argv)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert words in err


def test_the_guide_lists_every_flag() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "vectors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z-]+) \| (.*) \|$", guide, re.MULTILINE)
    assert rows == [(name, flag.bug_type, flag.description) for name, flag in FLAGS.items()]
