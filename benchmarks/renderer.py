"""Time of the stitch renderer and of the fit, on one core: `python benchmarks/renderer.py [--size 256 512 1024]`.

Prints the fastest of several runs in CPU milliseconds for every family at every size, and ("all") for tatami with all
that stitch, fabric and light can add; the ratio to the slowest that is allowed (60 ms at 256 px, 600 ms at 1024 px, in
proportion to the area between), and the same for `fit_stitch` (8 s). Ratios below 1 are within the bound.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from tambour.stitch import FAMILIES, Fabric, Light, default_stitch, render  # noqa: E402
from tambour.stitch.fit import fit_stitch  # noqa: E402


def drawing(size: int) -> Image.Image:
    """A filled flat design: discs, bars and outlines in seven colours on a plain ground."""
    big = np.full((2 * size, 2 * size, 3), 255, np.uint8)
    unit = 2 * size / 16
    rng = np.random.default_rng(1)
    for index, (x, y) in enumerate([(4, 4), (11, 4), (4, 11), (11, 11), (8, 8)]):
        colours = [tuple(int(c) for c in rng.integers(30, 230, 3)) for _ in range(2)]
        centre = (round((x + 0.5) * unit), round((y + 0.5) * unit))
        cv2.circle(big, centre, round((3.4 - 0.2 * index) * unit), colours[0], -1)
        cv2.circle(big, centre, round((3.4 - 0.2 * index) * unit), (20, 20, 30), max(1, size // 64))
        corner = (centre[0] - round(1.6 * unit), centre[1])
        cv2.rectangle(big, corner, (centre[0] + round(unit), centre[1] + round(1.5 * unit)), colours[1], -1)
    return Image.fromarray(cv2.resize(big, (size, size), interpolation=cv2.INTER_AREA))


def fastest(work: Callable[[], object], runs: int) -> float:
    """Smallest CPU time of `runs` calls, seconds."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs="+", default=[256, 512, 1024])
    sizes = parser.parse_args().size
    cv2.setNumThreads(1)
    print(f"{'':10}" + "".join(f"{f'{size} px':>20}" for size in sizes))
    worst = 0.0
    extras = dict.fromkeys(("variegation", "metallic", "wear", "fuzz", "unevenness"), 0.5)
    plain = {family: (default_stitch(family), Fabric(), None) for family in FAMILIES}
    full = replace(default_stitch("tatami"), **extras), Fabric("jersey", pucker=0.5), (Light(), Light(20, 30))
    for family, (stitch, fabric, light) in {**plain, "all": full}.items():
        cells = []
        for size in sizes:
            design = drawing(size)
            seconds = fastest(partial(render, design, stitch, fabric, light=light), 7 if size < 600 else 3)
            bound = np.interp(size * size, (256**2, 1024**2), (0.06, 0.6))
            worst = max(worst, seconds / bound)
            cells.append(f"{seconds * 1e3:8.0f} ms ({seconds / bound:4.2f})")
        print(f"{family:10}" + "".join(f"{cell:>20}" for cell in cells))
    picture = render(drawing(512), default_stitch("tatami"))
    first = fastest(lambda: fit_stitch(picture.image, picture.mask), 1)
    print(f"{'fit':10}{first:8.1f} s, first call ({first / 8:4.2f})")
    print(f"slowest against its bound: {max(worst, first / 8):.2f}")


if __name__ == "__main__":
    main()
