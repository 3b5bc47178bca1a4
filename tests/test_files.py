"""Pictures and label files of strangers: they load as they should, or are refused by name."""

import os
import random
import warnings

import numpy as np
import pytest
import torch
from label_files import KAGGLE_NAMES, asf, kaggle, mutated, noses, picture, png, pts, xml
from PIL import Image

from kpnb import files, formats
from kpnb.core import DataError
from kpnb.files import read_image, read_json, read_lines, read_mask, read_table, read_xml
from kpnb.formats import read_asf, read_dlib_xml, read_kaggle, read_noses, read_pts


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_damaged_pictures_are_refused_and_never_crash(tmp_path, form):
    picture(60, 40).save(tmp_path / "good", form)
    good, rng, path = (tmp_path / "good").read_bytes(), random.Random(1), tmp_path / "x.jpg"
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(min(len(data), 400))] = rng.randrange(256)
        path.write_bytes(bytes(data[: rng.choice([len(data), rng.randrange(len(data))])]))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read_image(path)
        except DataError as e:
            assert "x.jpg" in str(e)
        else:
            assert found.dtype == torch.uint8 and found.shape[0] == 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("gray", [False, True])
def test_modes(tmp_path, mode, gray):
    form = {"CMYK": "JPEG", "YCbCr": "JPEG", "PA": "PNG"}.get(mode, "PNG")
    im = Image.new("RGB", (9, 7), (120, 120, 120)) if mode != "1" else Image.new("RGB", (9, 7), "white")
    im = im.quantize(4) if mode in ("P", "PA") else im.convert(mode)
    im.save(tmp_path / "x.jpg", form, **({"transparency": 255} if mode == "PA" else {}))
    out = read_image(tmp_path / "x.jpg", gray)
    assert out.shape == (1 if gray else 3, 7, 9)
    assert (out.float() - (255 if mode == "1" else 120)).abs().max() <= 4


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_exif_orientation(tmp_path, turn):
    upright = picture(16, 8)
    back = {1: [], 2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}[
        turn
    ]  # how a camera held that way stores it
    stored = upright
    for t in back:
        stored = stored.transpose(t)
    exif = Image.Exif()
    exif[0x0112] = turn
    stored.save(tmp_path / "x.png", exif=exif)
    assert (read_image(tmp_path / "x.png").permute(1, 2, 0).numpy() == np.array(upright)).all()


def test_an_impossible_orientation_counts_as_none(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    picture().save(tmp_path / "x.png", exif=exif)
    assert (read_image(tmp_path / "x.png").permute(1, 2, 0).numpy() == np.array(picture())).all()


@pytest.mark.parametrize(
    "data",
    [
        png(2, 2, 16, 0, bytes(10)),
        png(2, 2, 16, 2, bytes(26)),
        png(2, 2, 16, 4, bytes(18)),
        png(2, 2, 16, 6, bytes(34)),
        b"P6 2 2 65535\n" + bytes(24),
        b"P6 2 2 300\n" + bytes(24),
        b"P5 2 2 300\n" + bytes(8),
        b"P3 1 1 300\n1 2 299",
    ],
    ids=["grey", "colour", "grey and alpha", "colour and alpha", "PPM", "PPM of 300", "PGM", "plain PPM"],
)
def test_more_than_8_bits_are_refused_in_grey_and_in_colour(tmp_path, data):
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(DataError, match="x.png: found (PNG|PPM) with more than 8 bits in a channel"):
        read_image(tmp_path / "x.png")


def objects():
    return (
        '{"images": [{"id": 1, "file_name": "a.jpg", "width": 64}], '
        '"annotations": [{"keypoints": [1.5, 2, 2], "ok": true, "box": null}]}'
    )


def jpeg(folder):
    picture(60, 40).save(folder / "picture", "JPEG")
    return (folder / "picture").read_bytes()


def mask(folder):
    picture(60, 40).convert("L").save(folder / "picture", "PNG")
    return (folder / "picture").read_bytes()


STRANGERS = {
    "read_json": ("x.json", lambda p: objects().encode(), read_json),
    "read_table": ("x.csv", lambda p: b'a,b\n1,"2\n3"\n', lambda p: list(read_table(p))),
    "read_lines": ("x.txt", lambda p: b"a\r\nb\n", read_lines),
    "read_mask": ("x.png", mask, lambda p: read_mask(p)[0]),
    "read_xml": ("x.xml", lambda p: xml().encode(), lambda p: list(read_xml(p))),
    "read_asf": ("x.asf", lambda p: asf().encode(), read_asf),
    "read_pts": ("x.pts", lambda p: pts().encode(), read_pts),
    "read_noses": ("x.txt", lambda p: noses().encode(), read_noses),
    "read_dlib_xml": ("x.xml", lambda p: xml().encode(), read_dlib_xml),
    "read_image": ("x.jpg", jpeg, read_image),
    "read_kaggle": ("x.csv", lambda p: kaggle().encode(), lambda p: read_kaggle(p, KAGGLE_NAMES)),
}


def test_every_public_reader_meets_strangers_below():
    public = {n for module in (files, formats) for n in module.__all__ if n.startswith("read_")}
    assert public == set(STRANGERS)


@pytest.mark.parametrize("name", STRANGERS)
def test_only_data_errors_come_out_whatever_a_file_holds(tmp_path, name):
    file, make, read = STRANGERS[name]
    rng, path, good = random.Random(name), tmp_path / file, make(tmp_path)
    hostile = [
        b"",
        b"\0" * 9,
        b"\xff" * 50,
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"9" * 400,
        b'{"id": ' + b"9" * 400 + b"}",
        rb'["\ud800"]',
        b'["\0"]',
        b"<a>" * 5000,
        b"x" * 200_000,
        b'"' + b"x" * 200_000 + b'"',
        b"<?xml version='1.0' encoding='rot13'?><a/>",
        b"<?xml version='1.0' encoding='idna'?><a/>",
        b"<?xml version='1.0' encoding='unicode_escape'?><a/>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        b"<a>&b;</a>",
        b"9" * 5000 + b"\n",
        good,
    ]
    random_bytes = [rng.randbytes(rng.randrange(1, 400)) for _ in range(40)]
    for data in [*hostile, *random_bytes, *(mutated(good, rng) for _ in range(60))]:
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
        except DataError as e:
            assert file in str(e) and str(e).encode()


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_file_is_a_data_error_too(tmp_path, name):
    file, _, read = STRANGERS[name]
    with pytest.raises(DataError, match=f"{file}: there is no such file"):
        read(tmp_path / file)
    (tmp_path / "folder" / file).mkdir(parents=True)
    with pytest.raises(DataError, match=f"{file}: .*a folder"):
        read(tmp_path / "folder" / file)
    with pytest.raises(DataError):
        read(str(tmp_path / "a\0b"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / file)
        with pytest.raises(DataError, match=f"{file}: .*a device"):
            read(tmp_path / file)


@pytest.mark.parametrize(
    "text, said",
    [
        ("[" * 200_000, "levels of brackets"),
        ("[" * 150 + "]" * 150, "levels of brackets"),
        ('{"id": ' + "9" * 400 + "}", "a whole number of 400 digits"),
        ('{"a": 1, "b": {"c": 2, "c": 3}}', "the key 'c' twice"),
        (
            r'{"images": [{"file_name": "\ud800.jpg"}]}',
            r"entry images[0].file_name: found the text '\\ud800.jpg'",
        ),
        (r'{"a\u0000": 1}', "a key in entry (all)"),
        ('{"a": 1', "line 1 column 8"),
        (b"\xff\xfe{}", "expected JSON in UTF-8"),
        ("", "expected JSON in UTF-8"),
    ],
    ids=["deep", "too deep", "giant", "twice", "half a character", "NUL", "cut", "UTF-16", "empty"],
)
def test_json_that_is_refused(tmp_path, text, said):
    (tmp_path / "x.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as e:
        read_json(tmp_path / "x.json")
    assert "x.json" in str(e.value) and said in str(e.value)


def test_json_tables_and_xml_that_are_read(tmp_path):
    (tmp_path / "x.json").write_bytes(
        b"\xef\xbb\xbf"
        + r'{"é": [1, 2.5, null, true, "\ud83d\ude00", {}], "id": 9223372036854775807}'.encode()
    )
    assert read_json(tmp_path / "x.json") == {"é": [1, 2.5, None, True, "\U0001f600", {}], "id": 2**63 - 1}
    (tmp_path / "x.csv").write_bytes('\ufeffa,"b, ""c"""\r\n\r\n"two\nlines",é\r\n'.encode())
    assert list(read_table(tmp_path / "x.csv")) == [(1, ["a", 'b, "c"']), (4, ["two\nlines", "é"])]
    (tmp_path / "x.xml").write_bytes(
        "<?xml version='1.0' encoding='ISO-8859-1'?>\n<a><b n='é'/>\n x &lt; y </a>".encode("latin-1")
    )
    assert list(read_xml(tmp_path / "x.xml")) == [
        (2, "start", "a", {}),
        (2, "start", "b", {"n": "é"}),
        (2, "end", "b", ""),
        (3, "end", "a", "x < y"),
    ]


def test_a_table_says_on_which_line_it_is_broken(tmp_path):
    for text, said in [
        (b"a,b\n1," + b"x" * 140_000, "line 2 or after: this is no table (field larger"),
        (b'a\n"b', "this is no table"),
        (b"a\nb\n\xff\n", "this is no table ('utf-8' codec"),
        (b"a\nb\0\n", "line 2: found the text"),
    ]:
        (tmp_path / "x.csv").write_bytes(text)
        with pytest.raises(DataError) as e:
            list(read_table(tmp_path / "x.csv"))
        assert "x.csv, line" in str(e.value) and said in str(e.value)
