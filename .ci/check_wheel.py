"""Install the wheel into an environment that has nothing of this checkout, and draw a design there.

    python .ci/check_wheel.py DIST ENVIRONMENT

The environment is a bare venv. It borrows the libraries of the one that runs this script, all but the project itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

NEEDED = ("recipes/mini.toml", "designs/fox.svg", "base/mini/unet/diffusion_pytorch_model.safetensors", "py.typed")
FOREIGN = ("tests/", "pretraining/", "benchmarks/", "docs/")
CIRCLE = '<circle cx="32" cy="32" r="24" fill="#c03050"/>'
DESIGN = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">{CIRCLE}</svg>'
LEARN = """
import sys, tambour
from dataclasses import replace
from tambour.config import read_recipe
recipe = read_recipe("mini")
one, training = replace(recipe.stage_one, iterations=2), replace(recipe.training, palettes=0)
recipe = replace(recipe, stage_one=one, training=training)
style = tambour.learn(sys.argv[1], sys.argv[2], recipe=recipe)
tambour.apply(style, [sys.argv[3]], size=128)[0].image.save(sys.argv[4])
"""


def main() -> None:
    dist, environment = (Path(argument).resolve() for argument in sys.argv[1:])
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    missing = [name for name in NEEDED if f"tambour/{name}" not in names]
    foreign = [name for name in names if name.startswith(FOREIGN)]
    if missing or foreign:
        sys.exit(f"the wheel lacks {missing}, and holds {foreign[:3]}")

    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    (purelib / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    with tempfile.TemporaryDirectory() as folder:
        design, photo, style, picture = (Path(folder) / name for name in ("a.svg", "a.png", "a.safetensors", "b.png"))
        design.write_text(DESIGN, encoding="utf-8")
        tambour = python.with_name("tambour")
        commands = (
            [tambour, "--help"],
            [tambour, "stitch", design, "--as", "chain", "--size", "256", "-o", photo],
            [python, "-c", LEARN, photo, style, design, picture],
            [tambour, "inspect", style],
        )
        for command in commands:
            subprocess.run([str(part) for part in command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        where = [python, "-c", "import tambour; print(tambour.__file__)"]
        home = subprocess.run(where, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
        if not Path(home).is_relative_to(environment):
            sys.exit(f"not the wheel was tried, but {home}")
        print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MB; installed alone, it stitches, learns and applies")


if __name__ == "__main__":
    main()
