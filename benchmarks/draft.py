"""What a draft costs: texture and time at fewer steps, beside the recipe's own, in one run.

    python benchmarks/draft.py

A style is learnt from the example with a tenth of the iterations where none is given. Every design is drawn with each
number of steps, from the same seed. `style` is the texture's likeness to the reference (0 to 1),
`apart` the texture's distance from the picture with all steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from pathlib import Path

import numpy as np

import tambour
from tambour.base import load
from tambour.config import read_recipe, recipe_from
from tambour.imaging.designs import bundled_designs, draw_svg
from tambour.imaging.texture import texture_distance, texture_statistics
from tambour.workflows.apply import Result, apply

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", help="style file; default: one learnt in short from the example")
    parser.add_argument("--steps", default="3,5,8")
    parser.add_argument("--designs", type=int, default=4)
    parser.add_argument("--size", type=int)
    options = parser.parse_args()
    if options.style:
        style = tambour.inspect(options.style)
    else:
        short = read_recipe("mini")
        one, two = (dataclasses.replace(s, iterations=s.iterations // 10) for s in (short.stage_one, short.stage_two))
        style = tambour.learn(
            ROOT / "examples" / "reference.jpg", recipe=dataclasses.replace(short, stage_one=one, stage_two=two)
        )
    recipe = recipe_from(style.recipe)
    base = load(style.base, dtype=recipe.precision)
    size = options.size or recipe.sampling.size
    designs = [draw_svg(svg, size) for svg in list(bundled_designs().values())[: options.designs]]

    def drawn(steps: int) -> tuple[list[Result], float]:
        sampling = dataclasses.replace(recipe.sampling, steps=steps)
        began = time.process_time()
        records = apply(style, designs, base=base, size=size, recipe=dataclasses.replace(recipe, sampling=sampling))
        return [record for record in records if isinstance(record, Result)], time.process_time() - began

    full = recipe.sampling.steps
    whole, seconds = drawn(full)
    textures = [texture_statistics(np.asarray(result.image)) for result in whole]
    print(f"base {base.name}, {len(designs)} designs at {size} px; seconds of processor time a picture\n")
    print(f"{'steps':>6} {'style':>7} {'design':>7} {'apart':>7} {'seconds':>8} {'ratio':>6}")
    asked = [int(steps) for steps in options.steps.split(",")]
    for steps in [full, *asked]:
        results, took = (whole, seconds) if steps == full else drawn(steps)
        apart = statistics.mean(
            texture_distance(texture_statistics(np.asarray(result.image)), texture)
            for result, texture in zip(results, textures, strict=True)
        )
        style_score, design = (statistics.mean(getattr(r.scores, k) for r in results) for k in ("style", "design"))
        cells = f"{steps:6} {style_score:7.3f} {design:7.3f} {apart:7.3f}"
        print(f"{cells} {took / len(designs):8.2f} {took / seconds:6.2f}", flush=True)


if __name__ == "__main__":
    main()
