"""Time and memory of the main job, as a user meets it, beside the goals for two cores and the bundled base.

    python benchmarks/main_job.py [--photo PHOTO] [--base BASE] [--recipe RECIPE]

Every command runs in a process of its own; its peak memory is what the system reports when it ends. A ratio above 1
misses its goal.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
DESIGN = ROOT / "src" / "tambour" / "designs" / "fox.svg"
GOALS = {"learn": 120.0, "apply, cold": 20.0, "apply, warm": 6.0, "--help": 0.3}  # s
MEMORY = 4.0  # GiB
MEASURED = "import sys; from tambour.cli import main; sys.exit(main())"
WARM = """
import sys, time, tambour
from tambour.base import load
style = tambour.inspect(sys.argv[1])
base = load(sys.argv[3] or style.base)
for seed in range(3):
    start = time.perf_counter()
    tambour.apply(style, [sys.argv[2]], size=512, seed=seed, base=base)
    print(time.perf_counter() - start)
"""


def run(*arguments: str, code: str = MEASURED) -> tuple[float, float, str, str]:
    """Run Python code on arguments: (seconds, peak GiB, standard output, standard error)."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = [(file.seek(0), file.read())[1] for file in (out, err)]
    if child.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {child.returncode}:\n{texts[1]}")
    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is bytes there, KiB here
    return seconds, usage.ru_maxrss / unit, *texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", default=str(ROOT / "examples" / "reference.jpg"))
    parser.add_argument("--base", default="mini")
    parser.add_argument("--recipe")
    options = parser.parse_args()
    rows = []

    def row(name: str, seconds: float, memory: float) -> None:
        goal = GOALS[name]
        rows.append(f"{name:12} {seconds:9.2f} {goal:8.1f} {seconds / goal:7.2f} {memory:10.2f} {memory / MEMORY:7.2f}")

    helped = [run("--help") for _ in range(7)]
    with tempfile.TemporaryDirectory() as folder:
        style, picture = f"{folder}/style.safetensors", f"{folder}/picture.png"
        more = ["--base", options.base, *(["--recipe", options.recipe] if options.recipe else [])]
        seconds, memory, _, stages = run("learn", options.photo, "-o", style, "--report", f"{folder}/report", *more)
        row("learn", seconds, memory)
        cold = run("apply", style, str(DESIGN), "-o", picture, "--size", "512")
        row("apply, cold", *cold[:2])
        warm = run(style, str(DESIGN), "", code=WARM)
        row("apply, warm", statistics.median([float(line) for line in warm[2].split()][1:]), warm[1])
    row("--help", statistics.median(one[0] for one in helped), max(one[1] for one in helped))

    import torch

    threads = torch.get_num_threads()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} with {threads} threads")
    print(f"base {options.base}, {Path(options.photo).name}, designs at 512 px\n")
    print(f"{'':12} {'seconds':>9} {'goal':>8} {'ratio':>7} {'peak GiB':>10} {'ratio':>7}")
    print("\n".join(rows))
    print("\nWhere learn spends its time:\n" + stages)


if __name__ == "__main__":
    main()
