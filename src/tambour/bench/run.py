"""Run methods on cases and keep what they draw: resumable, one small JSON and one PNG a result.

A result belongs to (case, method, seed, weights, recipe); its file's name holds a hash of all of these, the pictures of
the case included, so that nothing stale is ever taken for a result. A method that fails is written down with its reason
and tried again by the next run; one that cannot run on the base is written down as such.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tambour.base import Base, load
from tambour.bench import cases, domains, metrics
from tambour.bench.cases import Pairing, Target
from tambour.bench.methods import VERSION, pick
from tambour.bench.methods.task import Method, Task, scaled, stitched
from tambour.config import Recipe, recipe_values, resolve_recipe
from tambour.drawing.conditions import controlnet_scales
from tambour.errors import InputError
from tambour.imaging.files import save_image
from tambour.imaging.geometry import flatten
from tambour.imaging.texture import texture_statistics
from tambour.progress import Progress
from tambour.workflows.jobs import write_json
from tambour.workflows.request import controlnets

PLAN = "plan.json"
LIBRARY_SEED, CEILING_SEED = 1007, 2007  # of the truths that name styles, and of the ceiling; not the truth's own


@dataclass(frozen=True)
class Plan:
    """What a run is asked to do.

    Attributes:
        split: "development" or "test" of TruthBench; "paper" for a user's folder.
        domain: "embroidery", or a name in `domains.DOMAINS`.
        styles, designs, methods: names; None: all.
        seeds: how many, counted from 0.
        base: name or folder of the base model.
        recipe: as for `learn`; None: the base's own.
        budget: times the recipe's training iterations.
        folder: the user's references/, designs/ and prompts.txt, for "paper".
        text: also the text task.
    """

    split: str = "test"
    styles: tuple[str, ...] | None = None
    designs: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    seeds: int = 1
    base: str = "mini"
    recipe: str | None = None
    budget: float = 1.0
    folder: str | None = None
    text: bool = False
    domain: str = domains.EMBROIDERY

    def pairings(self) -> tuple[tuple[Pairing, ...], tuple[str, ...]]:
        """The styles with their targets, and the prompts of the text task.

        Raises:
            InputError: a name is not known, or the folder cannot be used.
        """
        if self.seeds < 1:
            raise InputError(f"{self.seeds} seeds are not possible.", "Take at least one.")
        if self.folder is not None:
            found, prompts = cases.read_folder(self.folder)
            found = tuple(pair for pair in found if self.styles is None or pair.name in self.styles)
            wanted = self.designs
            found = tuple(
                replace(pair, targets=tuple(t for t in pair.targets if wanted is None or t.name in wanted))
                for pair in found
            )
            if not found or not found[0].targets:
                raise InputError("Nothing in the folder has these names.", "Name pictures by their file's stem.")
            return found, (prompts or cases.PROMPTS) if self.text else ()
        other = self.domain != domains.EMBROIDERY
        if other:
            styles = domains.cases_of(self.domain, self.split, self.styles)
        else:
            styles = cases.styles_of(self.split, self.styles)
            cases.check_renderer(styles)
        known = cases.DESIGNS[self.split]
        for name in self.designs or ():
            if name not in known:
                raise InputError(f"Split {self.split} has no design {name!r}.", f"Allowed: {', '.join(known)}.")
        found = []
        for style in styles:
            names = [n for n in cases.targets_of(style) if self.designs is None or n in self.designs]
            found.append((domains.pairing if other else cases.pairing)(style, names))
        return tuple(found), cases.PROMPTS if self.text else ()

    def methods_meant(self) -> tuple[Method, ...]:
        """The methods named, or all; in another domain those that need no stitches.

        Raises:
            InputError: one is not known, or makes no sense in the domain.
        """
        if self.domain == domains.EMBROIDERY:
            return pick(self.methods)
        for name in self.methods or ():
            if name not in domains.METHODS:
                allowed = ", ".join(domains.METHODS)
                raise InputError(f"Method {name!r} is not run in domain {self.domain}.", f"Allowed: {allowed}.")
        return pick(self.methods or domains.USUAL)

    def recipe_meant(self) -> Recipe:
        """The recipe named, or that of the base for the domain, with the budget in it; faults as `read_recipe`."""
        name = self.recipe
        if name is None and self.domain != domains.EMBROIDERY:
            name = f"{self.base}-{domains.DOMAINS[self.domain].recipe}"
        return scaled(resolve_recipe(name, self.base), self.budget)


REDUCED = Plan(
    split="test",
    styles=("chain-bold", "sequin-large", "cord-thick"),
    designs=("bird", "heart", "rose", "mushroom"),
    budget=0.5,
)
"""Three styles, three designs each: of these four, the one that a style is shown on is left out."""


@dataclass(frozen=True)
class Item:
    """One picture to be made: a target, or a prompt (then `target` is None)."""

    name: str
    target: Target | None


def run(out: str | Path, plan: Plan) -> Iterator[Progress]:
    """Make what is missing in the folder `out`. Yields progress; a stage is one method on one style.

    Raises:
        InputError: the plan names what is not there.
        BaseModelError: the base cannot be loaded.
    """
    out = Path(out)
    pairings, prompts = plan.pairings()
    methods, recipe = plan.methods_meant(), plan.recipe_meant()
    base: Base | None = None
    if any(method.needs_base for method in methods):
        yield Progress("base", 0, 1, "loading the base model")
        needed = dict.fromkeys((*controlnets(recipe, report=True), *controlnet_scales(recipe.sampling.free)))
        base = load(plan.base, dtype=recipe.precision, controlnets=tuple(needed))
        yield Progress("base", 1, 1)
    jobs = []
    for pairing in pairings:
        items = [Item(target.name, target) for target in pairing.targets] + [Item(p, None) for p in prompts]
        for seed in range(plan.seeds):
            for group in _groups(methods):
                numbers_of = _for(recipe, pairing)
                places = {
                    (method.name, item.name): place(out, pairing, item, method, base, numbers_of, seed)
                    for method in group
                    for item in items
                    if not (item.target is None and method.imagine is None)
                    and not (method.name == "truth" and pairing.case is None)
                }
                jobs.append((pairing, items, group, numbers_of, seed, places))
    _note(out, plan, recipe, base, [path for *_, places in jobs for path in places.values()])
    for pairing, items, group, numbers_of, seed, places in jobs:
        yield from _learn_and_draw(out, pairing, items, group, base, numbers_of, seed, places)


def _note(out: Path, plan: Plan, recipe: Recipe, base: Base | None, places: Sequence[Path]) -> None:
    """Write down what the folder's benchmark is and which results belong to it.

    Runs of the same cases, base and recipe add to each other; another base or recipe begins anew (what it made is kept,
    for when it comes back).
    """
    other = plan.domain != domains.EMBROIDERY
    setup = {
        "cases": domains.content_hash(plan.domain) if other else cases.content_hash(),
        "domain": plan.domain,
        "base": plan.base,
        "fingerprint": base.fingerprint if base else "",
        "budget": plan.budget,
        "recipe": recipe_values(recipe),
        "split": "paper" if plan.folder else plan.split,
        "folder": plan.folder,
    }
    setup = json.loads(json.dumps(setup))
    index = [str(path.relative_to(out)) for path in places]
    try:
        last = json.loads((out / PLAN).read_text())
    except FileNotFoundError:
        last = None
    if last is not None:
        last["setup"].setdefault("domain", domains.EMBROIDERY)  # folders older than the other domains
        if "" in (setup["fingerprint"], last["setup"]["fingerprint"]):  # a run without a base fits every one
            setup["fingerprint"] = setup["fingerprint"] or last["setup"]["fingerprint"]
            last["setup"]["fingerprint"] = setup["fingerprint"]
        if last["setup"] == setup:
            index = [*last["index"], *(path for path in index if path not in set(last["index"]))]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / PLAN, {"setup": setup, "index": index})


def _for(recipe: Recipe, pairing: Pairing) -> Recipe:
    """The recipe for one style: ours never generates pairs from designs that it is judged on."""
    if pairing.case is None:
        return recipe
    others = tuple(name for split, names in cases.DESIGNS.items() if split != pairing.split for name in names)
    return replace(recipe, complement=replace(recipe.complement, designs=others))


def _groups(methods: Sequence[Method]) -> list[list[Method]]:
    """Methods that learn the same, together."""
    groups: dict[str, list[Method]] = {}
    for method in methods:
        groups.setdefault(method.learns_as or method.name, []).append(method)
    return list(groups.values())


# -- one style, one seed, methods that learn the same -----------------------------------------------------------------


def _learn_and_draw(
    out: Path,
    pairing: Pairing,
    items: Sequence[Item],
    group: Sequence[Method],
    base: Base | None,
    recipe: Recipe,
    seed: int,
    places: Mapping[tuple[str, str], Path],
) -> Iterator[Progress]:
    name = group[0].learns_as or group[0].name
    wanted = [
        (method, item, path)
        for method in group
        for item in items
        if (path := places.get((method.name, item.name))) is not None and not done(path)
    ]
    stage = f"{pairing.name}: {', '.join(method.name for method in group)}"
    if not wanted:
        return
    yield Progress(stage, 0, len(wanted))
    missing = group[0].missing(base) if group[0].needs_base else ""
    if missing:
        for method, item, path in wanted:
            _write(path, pairing, item, method, seed, base, {"status": "n/a", "reason": missing})
        yield Progress(stage, len(wanted), len(wanted), f"n/a: {missing}")
        return
    work = out / "work" / f"{pairing.name}-{name}-{seed}"
    work.mkdir(parents=True, exist_ok=True)
    truth = None
    if pairing.case is not None:
        truth = lambda name, seed: domains.truth(pairing.case, name, CEILING_SEED + seed).image  # noqa: E731
    task = Task(pairing, base if group[0].needs_base else None, recipe, seed, work, truth)
    learnt, spent, failed = None, {"seconds": 0.0, "cpu_seconds": 0.0, "memory": 0.0}, ""
    if group[0].learn is not None:
        learnt, spent, failed = yield from _measured(group[0].learn(task), stage, 0, len(wanted))
    bad = 0
    for number, (method, item, path) in enumerate(wanted):
        record: dict = {"status": "failed", "reason": failed}
        if not failed:
            action = method.draw(task, learnt, item.target) if item.target else method.imagine(task, learnt, item.name)
            picture, drawing, fault = yield from _measured(action, stage, number, len(wanted))
            record["reason"] = fault
            if not fault:
                save_image(picture, path.with_suffix(".png"), overwrite=True)
                record = {"status": "done", "learn": spent, "draw": drawing, "size": list(picture.size)}
                record |= {"metrics": _metrics(picture, pairing, item), "metrics_version": metrics.VERSION}
        bad += record["status"] == "failed"
        _write(path, pairing, item, method, seed, base, record)
        last = record.get("reason", "")
        yield Progress(stage, number + 1, len(wanted), f"failed: {last}" if last else item.name)
    if not bad:
        shutil.rmtree(work, ignore_errors=True)


def _measured(action: Iterator[Progress], stage: str, done: int, total: int) -> Iterator[Progress]:
    """Run a method's part, telling its records under `stage`. Returns (what it gave, time and memory, its fault)."""
    begin, cpu = time.monotonic(), time.process_time()
    peak = Peak()
    result, fault = None, ""
    while True:
        try:
            record = next(action)
        except StopIteration as end:
            result = end.value
            break
        except Exception as error:  # whatever a method does wrong must not stop the others
            fault = f"{type(error).__name__}: {error}".strip()[:500]
            break
        message = " ".join(part for part in (record.stage, f"{record.step}/{record.total}", record.message) if part)
        yield Progress(stage, done, total, message)
    spent = {"seconds": time.monotonic() - begin, "cpu_seconds": time.process_time() - cpu}
    return result, {**{key: round(value, 2) for key, value in spent.items()}, "memory": peak.megabytes()}, fault


class Peak:
    """The highest memory use since it was made: of the GPU where there is one, else of this process (Linux)."""

    def __init__(self) -> None:
        self.gpu = torch.cuda.is_available()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the process's own high-water mark starts anew

    def megabytes(self) -> float:
        if self.gpu:
            return round(torch.cuda.max_memory_allocated() / 2**20, 1)
        try:
            status = Path("/proc/self/status").read_text()
            return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)
        except (OSError, IndexError):  # not Linux: the highest ever
            unit = 2**20 if sys.platform == "darwin" else 2**10
            return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


# -- what is kept -----------------------------------------------------------------------------------------------------


def place(
    out: Path, pairing: Pairing, item: Item, method: Method, base: Base | None, recipe: Recipe, seed: int
) -> Path:
    """The JSON of a result; its picture lies beside it."""
    identity = {
        "case": _case_hash(pairing, item),
        "method": [method.name, VERSION],
        "seed": seed,
        "weights": base.fingerprint if base and method.needs_base else "",
        "recipe": recipe_values(recipe) if method.needs_base else "",
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in item.name)
    return out / "results" / pairing.split / pairing.name / name / f"{method.name}-{seed}-{key}.json"


def _case_hash(pairing: Pairing, item: Item) -> str:
    """sha256 of the pictures that a case is made of."""
    digest = hashlib.sha256(f"{pairing.words} {pairing.edges} {item.name}".encode())
    pictures = [pairing.design, pairing.embroidery]
    if item.target is not None:
        pictures += [item.target.design, item.target.truth]
    for picture in pictures:
        digest.update(b"-" if picture is None else np.asarray(picture).tobytes())
    return digest.hexdigest()


def done(path: Path) -> bool:
    """Whether a result needs no more work."""
    try:
        return json.loads(path.read_text())["status"] in ("done", "n/a")
    except (OSError, ValueError, KeyError):
        return False


def _write(
    path: Path, pairing: Pairing, item: Item, method: Method, seed: int, base: Base | None, record: dict
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = dict(split=pairing.split, style=pairing.name, item=item.name, text=item.target is None, method=method.name)
    weights = base.fingerprint if base and method.needs_base else ""
    write_json(path, facts | {"seed": seed, "weights": weights} | record)


# -- measuring --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def library(name: str) -> dict[str, np.ndarray]:
    """Style -> texture statistics of its truth on a design, with a seed of its own: what `identify` looks through."""
    found = {}
    for style in cases.STYLES:
        drawn = cases.truth(style, name, LIBRARY_SEED)
        found[style.name] = texture_statistics(np.asarray(drawn.image), drawn.mask)
    return found


def known(pairing: Pairing, target: Target) -> metrics.Known:
    """What a result on this target is measured against."""
    reference = np.asarray(pairing.embroidery.convert("RGB"))
    truth = None if target.truth is None else np.asarray(target.truth.convert("RGB"))
    mask = stitched(target) if target.mask is None else target.mask
    return metrics.Known(
        design=np.asarray(flatten(target.design, pairing.fabric)),
        mask=mask,
        reference=reference,
        reference_design=np.asarray(flatten(pairing.design, pairing.fabric)),
        reference_mask=pairing.mask,
        reference_texture=texture_statistics(reference, pairing.mask),
        fabric=pairing.fabric,
        truth=truth,
        truth_texture=None if truth is None else texture_statistics(truth, mask),
        style=pairing.name,
        library=library(target.name) if truth is not None and pairing.domain == domains.EMBROIDERY else {},
    )


def _metrics(picture: Image.Image, pairing: Pairing, item: Item) -> dict[str, float]:
    result = np.asarray(picture.convert("RGB"))
    if item.target is None:
        reference = np.asarray(pairing.embroidery.convert("RGB"))
        leaked = metrics.histogram_loss(result, reference)
        return {"histogram_reference": leaked, "hfrd_text": metrics.hfrd(result, reference)}
    expected = known(pairing, item.target)
    if pairing.domain != domains.EMBROIDERY:
        return metrics.measure_look(result, expected, domains.DOMAINS[pairing.domain].metrics)
    return metrics.measure(result, expected)


def setup_of(out: Path) -> dict:
    """What the folder's benchmark is: cases, base, budget, recipe, split.

    Raises:
        InputError: nothing was run there.
    """
    try:
        return json.loads((out / PLAN).read_text())["setup"]
    except FileNotFoundError:
        raise InputError(f"{out} holds no benchmark.", "`tambour bench run FOLDER` makes one.") from None


def results(out: Path) -> list[tuple[Path, dict]]:
    """Every result of the folder's benchmark that is there, with the path of its JSON.

    Raises:
        InputError: nothing was run there, or a file is broken.
    """
    setup_of(out)
    found = []
    for name in json.loads((out / PLAN).read_text())["index"]:
        try:
            found.append((out / name, json.loads((out / name).read_text())))
        except FileNotFoundError:
            continue  # not run yet
        except ValueError as fault:
            raise InputError(f"{out / name} is not JSON ({fault}).", "Delete it and run again.") from None
    return found


def pairings_of(out: Path) -> dict[str, Pairing]:
    """The styles of the folder's benchmark by name."""
    setup = setup_of(out)
    domain = setup.get("domain", domains.EMBROIDERY)
    plan = Plan(folder=setup["folder"]) if setup["folder"] else Plan(split=setup["split"], domain=domain)
    return {pairing.name: pairing for pairing in plan.pairings()[0]}


def measure_again(out: Path, pairings: Mapping[str, Pairing]) -> Iterator[Progress]:
    """Measure results anew that were measured by another version of the metrics."""
    stale = [
        (path, record)
        for path, record in results(out)
        if record["status"] == "done" and record["metrics_version"] != metrics.VERSION
    ]
    for number, (path, record) in enumerate(stale):
        pairing = pairings[record["style"]]
        targets = {target.name: target for target in pairing.targets}
        with Image.open(path.with_suffix(".png")) as picture:
            values = _metrics(
                picture, pairing, Item(record["item"], None if record["text"] else targets[record["item"]])
            )
        write_json(path, record | {"metrics": values, "metrics_version": metrics.VERSION})
        yield Progress("metrics", number + 1, len(stale))
