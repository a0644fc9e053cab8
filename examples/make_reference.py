"""Make examples/reference.jpg: a tulip in chain stitch on felt, drawn by our own renderer.

The bundled base model never saw chain stitch, so learning it from this one picture is a fair example.

    python examples/make_reference.py
"""

from pathlib import Path

from PIL import Image

from tambour.imaging.files import open_image, save_image
from tambour.stitch import Fabric, Stitch, render

HERE = Path(__file__).parent
SIDE = 768  # px


def main() -> None:
    tulip = open_image(HERE / "reference.svg", SIDE - 40)
    design = Image.new("RGBA", (SIDE, SIDE))
    design.paste(tulip, ((SIDE - tulip.width) // 2, (SIDE - tulip.height) // 2))
    chain = Stitch("chain", thread_width=0.42, stitch_length=1.55, angle_field="contour", sheen=0.4, twist=0.5)
    drawn = render(design, chain, Fabric("felt", (236, 228, 210)), seed=1, px_per_mm=30)
    print(save_image(drawn.image, HERE / "reference.jpg", overwrite=True))


if __name__ == "__main__":
    main()
