"""Learn every real photo and show designs in its style: a row a photo, flat design, blocks, results.

    python benchmarks/real.py -o OUT [--photos NAME ...] [--base BASE] [--recipe RECIPE]

Photos and designs are read from the folder TAMBOUR_REAL, or ../shared/real beside the repository: `photos/`,
`designs/` and `pairs/*/photo.*`. Styles are kept in OUT, so that the command, given again, only draws.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
SHOWN = ("gopher_standing", "motif_anchor", "motif_dragonfly", "motif_squirrel")
CELL = 320  # px


def block_chart(blocks: dict[str, float], every: tuple[str, ...]) -> Image.Image:
    """The base's blocks under each other, the style's with their similarity."""
    chart = Image.new("RGB", (CELL, CELL), "white")
    draw = ImageDraw.Draw(chart)
    font = ImageFont.load_default(size=CELL // 20)
    step = CELL / (len(every) + 1)
    for number, name in enumerate(every):
        y, chosen = step * (number + 0.5), name in blocks
        draw.rectangle((8, y + 3, 8 + step * 0.6, y + 3 + step * 0.6), fill="#b4233f" if chosen else "#dddddd")
        short = name.replace("_blocks", "").replace("attentions.", "").replace("_block", "")
        text = f"{short}  {blocks[name]:.3f}" if chosen else short
        draw.text((step + 8, y), text, "black" if chosen else "#999999", font)
    return chart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--photos", nargs="*", help="names without suffix; all if absent")
    parser.add_argument("--base", default="mini")
    parser.add_argument("--recipe")
    parser.add_argument("--guide", choices=("none", "stitches", "photo"), help="the recipe's if absent")
    parser.add_argument("--stitch", help="stitch family of all the photos, in place of the fitted one")
    parser.add_argument("--designs", nargs="*", default=SHOWN, help="names without suffix; all if none is given")
    parser.add_argument("--size", type=int, help="longer side of the results, px")
    parser.add_argument("--edges", choices=("firm", "free"), default="firm")
    options = parser.parse_args()
    real = Path(os.environ.get("TAMBOUR_REAL", ROOT.parent / "shared" / "real"))
    photos = {path.stem: path for path in sorted((real / "photos").glob("*"))}
    photos |= {path.parent.name: path for path in sorted((real / "pairs").glob("*/photo.*"))}
    if not photos:
        sys.exit(f"There are no real photos in {real}. Set TAMBOUR_REAL.")
    named = options.designs or sorted(path.stem for path in (real / "designs").glob("*.svg"))
    designs = [real / "designs" / f"{name}.svg" for name in named]

    import tambour
    from tambour.base import load
    from tambour.imaging.files import open_image, save_image
    from tambour.imaging.sheet import contact_sheet

    base = load(options.base)
    rows, labels = [], []
    for name, photo in photos.items():
        if options.photos and name not in options.photos:
            continue
        file = options.output / f"{name}.safetensors"
        start = time.perf_counter()
        if file.exists():
            style = tambour.inspect(file)
        else:
            how = dict(base=options.base, recipe=options.recipe, stitch=options.stitch)
            style = tambour.learn(photo, file, **how, report=options.output / name)
        learnt = time.perf_counter()
        how = dict(size=options.size, guide=options.guide, edges=options.edges)
        results = tambour.apply(style, designs, base=base, **how)
        drawn = time.perf_counter()
        for design, result in zip(designs, results, strict=True):
            save_image(result.image, options.output / name / f"{design.stem}.png", overwrite=True)
        scores = [result.scores.total for result in results if result.scores is not None]
        made = tambour.pair(open_image(photo))
        rows.append([made.embroidery, made.design, block_chart(dict(style.blocks), base.attention_blocks)])
        rows[-1] += [result.image for result in results]
        guide = options.guide or style.recipe["sampling"]["guide"]
        summary = f"mean score {sum(scores) / max(1, len(scores)):.2f}, edges {options.edges}, guide {guide}"
        labels.append(f"{name}: {style.description}; {summary}")
        family = (style.stitch or {}).get("family")
        seconds = f"learn {learnt - start:6.1f} s, {len(designs)} designs {drawn - learnt:6.1f} s"
        print(f"{name:28} {seconds}, stitch {family}, {summary}", flush=True)
    sheet = contact_sheet(rows, ["photo", "our flat design", "style blocks", *named], labels, cell=CELL)
    print(save_image(sheet, options.output / "sheet.jpg", overwrite=True))


if __name__ == "__main__":
    main()
