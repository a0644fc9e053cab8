"""Opening whatever users have, refusing what cannot be used, and the small picture operations."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tambour.errors import InputError, OutputExists, TambourError
from tambour.imaging.colour import correct_colours, lab_to_rgb, rgb_to_lab
from tambour.imaging.conditions import canny_condition, tile_condition
from tambour.imaging.files import open_image, save_image
from tambour.imaging.geometry import fit, flatten, pad
from tambour.imaging.sheet import contact_sheet
from tambour.imaging.tensors import to_image, to_tensor

SVG = '<svg xmlns="http://www.w3.org/2000/svg" {attributes}>{body}</svg>'
HALF = '<rect width="20" height="20" fill="#f00"/>'


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a PNG that claims to be width x height px."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"\0" * 100)
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, idat, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# --- open: what must work -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "LA", "YCbCr", "RGBA"])
def test_every_mode_opens_as_rgb(tmp_path, mode):
    path = tmp_path / "a.tif"
    picture().convert("RGB").convert(mode).save(path)
    image = open_image(path)
    assert image.mode == "RGB"  # opaque alpha is dropped
    assert image.size == (40, 30)


def test_rgb_png_is_read_exactly(tmp_path):
    picture().save(tmp_path / "a.png")
    assert np.array_equal(open_image(str(tmp_path / "a.png")), picture())


def test_16_bit_grey_keeps_its_range(tmp_path):
    ramp = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    grey = np.asarray(open_image(tmp_path / "a.png"))[..., 0]
    assert np.abs(grey - ramp / 257.0).max() <= 1


def test_float_tiff(tmp_path):
    Image.fromarray(np.linspace(0, 1, 1200, dtype=np.float32).reshape(30, 40)).save(tmp_path / "a.tif")
    assert np.asarray(open_image(tmp_path / "a.tif")).max() == 255


def test_cmyk_jpeg_has_the_right_colour(tmp_path):
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert np.abs(np.asarray(open_image(tmp_path / "a.jpg"))[5, 5].astype(int) - (255, 0, 0)).max() < 12


def test_transparency_is_kept_only_where_there_is_some(tmp_path):
    image = picture().convert("RGBA")
    image.putpixel((3, 3), (1, 2, 3, 0))
    image.save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").mode == "RGBA"
    palette = Image.new("P", (20, 20))
    palette.save(tmp_path / "p.png", transparency=0)
    assert open_image(tmp_path / "p.png").getextrema()[3] == (0, 0)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees clockwise
    image = Image.new("RGB", (40, 30), "black")
    image.paste("white", (0, 0, 40, 15))  # stored top -> shown on the right
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    shown = np.asarray(open_image(tmp_path / "a.jpg"))
    assert shown.shape == (40, 30, 3)
    assert shown[:, 20:].mean() > 240 and shown[:, :10].mean() < 15


def test_colour_profile_is_applied(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    picture().save(tmp_path / "a.png", icc_profile=lab.tobytes())
    assert np.abs(np.asarray(open_image(tmp_path / "a.png"), int) - np.asarray(picture(), int)).max() <= 2
    picture().save(tmp_path / "b.png", icc_profile=b"nonsense")
    assert np.array_equal(open_image(tmp_path / "b.png"), picture())


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "a.gif").getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ('viewBox="0 0 40 20"', (64, 32)),
        ('width="40" height="20"', (64, 32)),
        ('width="40mm" height="20mm" viewBox="0 0 40 20"', (64, 32)),
        ('width="100%" height="100%" viewBox="0,0,20,40"', (32, 64)),
        ('width="4e1" height="80.0px"', (32, 64)),
    ],
)
def test_svg_is_rendered_at_the_asked_size(tmp_path, attributes, size):
    (tmp_path / "a.svg").write_text(SVG.format(attributes=attributes, body=HALF))
    image = open_image(tmp_path / "a.svg", size=64)
    assert image.mode == "RGBA" and image.size == size
    assert image.getpixel((5, 5)) == (255, 0, 0, 255)


def test_svg_is_known_by_its_content_and_may_be_zipped(tmp_path):
    data = SVG.format(attributes='viewBox="0 0 40 40"', body=HALF).encode()
    (tmp_path / "drawing").write_bytes(b'<?xml version="1.0"?>\n' + data)
    (tmp_path / "a.svgz").write_bytes(gzip.compress(data))
    assert open_image(tmp_path / "drawing").size == open_image(tmp_path / "a.svgz").size == (1024, 1024)


def test_svg_with_an_embedded_picture_and_a_link(tmp_path):
    import base64

    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (0, 255, 0)).save(buffer, "PNG")
    body = (
        f'<image width="40" height="40" href="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"/>'
    )
    body = f'<a href="https://example.org">{body}</a>'
    (tmp_path / "a.svg").write_text(SVG.format(attributes='viewBox="0 0 40 40"', body=body))
    assert open_image(tmp_path / "a.svg", size=32).getpixel((16, 16)) == (0, 255, 0, 255)


# --- open: what must be refused -----------------------------------------------------------------------------------


def refused(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match):
        open_image(path)


def test_missing_folder_empty_and_foreign_files_are_refused(tmp_path):
    refused(tmp_path / "none.png", "no file")
    refused(tmp_path, "folder")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "empty")
    (tmp_path / "text.jpg").write_text("not a picture at all")
    refused(tmp_path / "text.jpg", "not a picture")
    (tmp_path / "page.html").write_text("<html><svg></svg></html>")
    refused(tmp_path / "page.html", "not an SVG")
    refused(Path("a\0b.png"), "no file")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    picture(200, 150).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError):
        open_image(path)


@pytest.mark.parametrize("size", [(1, 1), (15, 100), (100, 15)])
def test_tiny_pictures_are_refused(tmp_path, size):
    picture(*size).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "at least 16 px")


@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 10_000), (8_001, 8_000)])
def test_huge_pictures_are_refused_before_decoding(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png_header(*size))
    refused(tmp_path / "bomb.png", "megapixels")


@pytest.mark.parametrize(
    "body",
    [
        '<image width="9" height="9" href="file:///etc/passwd"/>',
        '<image width="9" height="9" xmlns:x="http://www.w3.org/1999/xlink" x:href="../secret.png"/>',
        '<use href="https://example.org/a.svg#b"/>',
        '<image width="9" height="9" href="data:image/svg+xml;base64,PHN2Zy8+"/>',
    ],
)
def test_svg_that_refers_outside_is_refused(tmp_path, body):
    (tmp_path / "a.svg").write_text(SVG.format(attributes='viewBox="0 0 40 40"', body=body))
    refused(tmp_path / "a.svg", "outside itself")


def test_broken_svgs_are_refused(tmp_path):
    path = tmp_path / "a.svg"
    for text, match in [
        ("<svg", "not a valid SVG"),
        ("GIF89a", "not a valid SVG"),
        (SVG.format(attributes="", body=HALF), "how large"),
        (SVG.format(attributes='viewBox="0 0 1 nan"', body=HALF), "how large"),
        (SVG.format(attributes='viewBox="0 0 1 1000000"', body=HALF), "at least 16 px"),
        ('<!DOCTYPE svg [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg viewBox="0 0 9 9">&e;</svg>', "not a valid SVG"),
    ]:
        path.write_text(text)
        refused(path, match)
    lol = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    path.write_text(f'<!DOCTYPE svg [<!ENTITY l0 "lol">{lol}]><svg viewBox="0 0 9 9"><text>&l9;</text></svg>')
    refused(path, "not a valid SVG")


# --- shape --------------------------------------------------------------------------------------------------------


def test_flatten_composites_on_the_background():
    assert flatten(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), (1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)
    assert flatten(Image.new("L", (4, 4), 7)).getpixel((0, 0)) == (7, 7, 7)


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 300), st.integers(16, 300), st.sampled_from([64, 128, 200]), st.sampled_from([1, 8, 16, 32]))
def test_fit_lands_on_the_grid_and_never_stretches(width, height, longer, multiple):
    ramp = np.zeros((height, width, 3), np.uint8)
    out = fit(Image.fromarray(ramp), longer, multiple)
    assert out.width % multiple == 0 and out.height % multiple == 0
    assert max(out.size) >= longer - multiple and min(out.size) >= multiple


def test_fit_keeps_circles_round():
    y, x = np.mgrid[:210, :333]
    disc = (((x - 166) ** 2 + (y - 105) ** 2 < 80**2) * 255).astype(np.uint8)
    out = np.asarray(fit(Image.fromarray(disc), 256, 32).convert("L")) > 127
    assert abs(out.any(0).sum() / out.any(1).sum() - 1) < 0.02


def test_fit_refuses_absurd_requests():
    with pytest.raises(InputError, match="narrow"):
        fit(Image.new("RGB", (50_000, 16)), 64, 32)
    with pytest.raises(InputError):
        fit(picture(), 0, 32)


# --- tensors, colour, conditions ----------------------------------------------------------------------------------


def test_tensor_round_trip_is_exact():
    tensor = to_tensor(picture())
    assert tensor.shape == (1, 3, 30, 40) and tensor.min() >= -1 and tensor.max() <= 1
    assert np.array_equal(to_image(tensor), picture())
    assert np.asarray(to_image(tensor * 9)).max() == 255
    with pytest.raises(TambourError, match="NaN"):
        to_image(tensor * float("nan"))


def test_lab_round_trip():
    rgb = np.asarray(picture())
    assert np.abs(lab_to_rgb(rgb_to_lab(rgb)).astype(int) - rgb).max() <= 1


def test_correct_colours_keeps_lightness_and_takes_the_design_s_hue():
    grey = Image.fromarray(np.linspace(90, 160, 1200).reshape(30, 40).astype(np.uint8)).convert("RGB")
    out = correct_colours(grey, Image.new("RGB", (10, 10), (200, 120, 110)))
    lab, wanted = rgb_to_lab(np.asarray(out)), rgb_to_lab(np.full((1, 1, 3), (200, 120, 110), np.uint8))
    assert np.abs(lab[..., 0] - rgb_to_lab(np.asarray(grey))[..., 0]).max() < 1
    assert np.abs(lab[..., 1:] - wanted[..., 1:]).max() < 2.5


def test_conditions():
    image = picture(64, 64)
    assert np.asarray(tile_condition(image, 14)).std() < 0.4 * np.asarray(image).std()
    assert np.array_equal(tile_condition(image, 0), image)
    half = Image.new("RGB", (64, 64))
    half.paste("white", (32, 0, 64, 64))
    edges = np.asarray(canny_condition(half, 100, 200))
    assert edges.shape == (64, 64, 3) and set(np.unique(edges)) == {0, 255}
    assert (edges[..., 0].argmax(1) // 2 == 15).all()


# --- save ---------------------------------------------------------------------------------------------------------


def test_save_is_atomic_and_asks_before_overwriting(tmp_path):
    path = tmp_path / "new" / "a.png"
    save_image(picture(), path)
    with pytest.raises(OutputExists, match="--overwrite"):
        save_image(picture(seed=1), path)
    save_image(picture(seed=1), path, overwrite=True)
    assert np.array_equal(Image.open(path), picture(seed=1))
    save_image(picture().convert("RGBA"), path.with_suffix(".jpg"))
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.jpg", "a.png"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_image(picture(), tmp_path / "a.png")

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="disk full"):
        save_image(picture(seed=1), path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert np.array_equal(Image.open(path), picture())


def test_save_refuses_unknown_suffixes_and_files_as_folders(tmp_path):
    with pytest.raises(InputError, match=r"\.png"):
        save_image(picture(), tmp_path / "a.xyz")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        save_image(picture(), tmp_path / "file" / "a.png")


def test_contact_sheet():
    rows = [[picture(), None, picture(10, 90)], [picture().convert("RGBA")]]
    sheet = contact_sheet(rows, ["photo", "a very long heading " * 9], ["first", "second"], cell=64)
    assert sheet.mode == "RGB" and sheet.width == 8 + 3 * 72
    assert np.asarray(sheet).std() > 10
    with pytest.raises(InputError):
        contact_sheet([[]])


def test_padding_repeats_the_rim_and_can_be_undone():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (21, 50, 4), np.uint8))
    padded, frame = pad(picture, 16)
    assert padded.size == (64, 32) and padded.crop(frame).tobytes() == picture.tobytes()
    assert padded.getpixel((0, 0)) == picture.getpixel((0, 0))
    assert pad(padded, 16) == (padded, (0, 0, 64, 32))
