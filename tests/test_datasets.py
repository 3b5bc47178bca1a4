"""`load` and its sources: arguments, errors, and what may be downloaded."""

import socket
from pathlib import Path

import numpy as np
import pytest
from label_files import imm
from on_disk import both

from kpnb import datasets
from kpnb.core import DataError
from kpnb.datasets import SOURCES, imm_manifest, load
from kpnb.downloads import DownloadError


def test_nothing_left_is_an_error_even_when_skipping(tmp_path):
    folder = imm(tmp_path)
    for p in folder.glob("*.asf"):
        p.unlink()
    with pytest.raises(DataError, match="3 problems"):
        load("imm", tmp_path, on_error="skip")
    for p in folder.glob("*.jpg"):
        p.unlink()
    with pytest.raises(FileNotFoundError, match="found no samples in"):
        load("imm", tmp_path)


def test_the_warning_points_to_the_caller(tmp_path):
    (imm(tmp_path) / "01-1m.jpg").write_text("broken")
    with pytest.warns(UserWarning, match="imm: 1 left out: .*01-1m.jpg") as caught:
        assert len(load("imm", tmp_path, on_error="skip")) == 2
    assert caught[0].filename == __file__


def test_every_source_says_how():
    for name, s in SOURCES.items():
        assert (
            s.pixels
            and "http" in s.obtain + (s.fetch is not None) * "http"
            and s.splits
            and bool(s.keypoint_names) != bool(s.mask_names)
        ), name
    assert {n for n, s in SOURCES.items() if s.fetch} == {"imm", "pet-noses", "pets-trimap", "voc"}


@pytest.mark.parametrize("size", [-5, 0, True, (3, -1), (2.0, 3), (3,), (1, 2, 3)])
def test_sizes_that_are_none(tmp_path, size):
    imm(tmp_path, 1)
    with pytest.raises(ValueError, match="size is .*; expected"):
        load("imm", tmp_path, size=size)
    assert load("imm", tmp_path, size=np.int64(9)).size == (9, 9)


def test_load_downloads_only_what_is_missing(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "fetch_all", lambda files: asked.extend(files))
    (tmp_path / "imm_face_db").mkdir()
    (tmp_path / "imm_face_db/01-1m.jpg").write_bytes(b"my own version")
    with pytest.raises(DataError, match="01-1m"):
        load("imm", tmp_path, download=True)  # nothing came, and my file is no picture
    assert len(asked) == 479 and (tmp_path / "imm_face_db/01-1m.jpg").read_bytes() == b"my own version"
    url, path, size, sha = asked[0]
    assert (
        url.startswith("https://raw.githubusercontent.com/")
        and path.parent == tmp_path / "imm_face_db"
        and path.name == url.rsplit("/", 1)[1]
    )
    assert (path.name, size, sha) in imm_manifest()


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    def never(*args, **kw):
        raise AssertionError("a download")

    monkeypatch.setattr(socket, "create_connection", never)
    for source in datasets.SOURCES.values():
        monkeypatch.setattr(source, "fetch", never)
    for name in datasets.SOURCES:
        with pytest.raises(FileNotFoundError):
            load(name, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", [n for n, s in datasets.SOURCES.items() if s.fetch is None])
def test_what_may_not_be_downloaded(tmp_path, name):
    with pytest.raises(PermissionError, match="is not downloaded by kpnb") as e:
        load(name, tmp_path, download=True)
    assert "http" in str(e.value) and str(tmp_path) in str(e.value)


def fake_pets(to, download, half=False):
    """What torchvision does: folder by folder, so that a killed process leaves a half."""
    home = Path(to) / "oxford-iiit-pet"
    if (home / "images").is_dir() and (home / "annotations").is_dir():
        return  # all that torchvision looks at
    for part in ("images", "annotations"):
        (home / part).mkdir(parents=True, exist_ok=True)
    for part in ("images", "annotations"):
        (home / f"{part}.tar.gz").write_bytes(b"archive")
        (home / part / "1").write_bytes(b"1")
        if half:
            raise KeyboardInterrupt
        (home / part / "2").write_bytes(b"2")


def test_pets_that_were_half_unpacked_are_not_taken_for_whole(tmp_path, monkeypatch):
    get, home = datasets.SOURCES["pets-trimap"].fetch, tmp_path / "oxford-iiit-pet"
    monkeypatch.setattr(
        "torchvision.datasets.OxfordIIITPet", lambda to, download: fake_pets(to, download, half=True)
    )
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            get(tmp_path)
        assert not home.exists()
    (home / "annotations").mkdir(parents=True)
    (home / "annotations/mine").write_bytes(b"mine")
    monkeypatch.setattr("torchvision.datasets.OxfordIIITPet", fake_pets)
    get(tmp_path)
    assert both(home) == {
        "images": None,
        "images/1": b"1",
        "images/2": b"2",
        "annotations": None,
        "annotations/mine": b"mine",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["oxford-iiit-pet"]


@pytest.mark.parametrize("name, theirs", [("pets-trimap", "OxfordIIITPet"), ("voc", "VOCSegmentation")])
def test_an_error_of_torchvision_gets_a_name(tmp_path, monkeypatch, name, theirs):
    def broken(*args, **kw):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(f"torchvision.datasets.{theirs}", broken)
    with pytest.raises(
        DownloadError, match="could not be downloaded by torchvision: File not found or corrupted"
    ):
        datasets.SOURCES[name].fetch(tmp_path)


def test_an_archive_of_voc_that_is_there_is_used(tmp_path, monkeypatch):
    def theirs(to, year, image_set, download):
        assert (to / "VOCtrainval_11-May-2012.tar").read_bytes() == b"two gigabytes"
        (to / "VOCdevkit/VOC2012").mkdir(parents=True)

    (tmp_path / "VOCtrainval_11-May-2012.tar").write_bytes(b"two gigabytes")
    monkeypatch.setattr("torchvision.datasets.VOCSegmentation", theirs)
    datasets.SOURCES["voc"].fetch(tmp_path)
    assert (tmp_path / "VOCdevkit/VOC2012").is_dir()
    assert (tmp_path / "VOCtrainval_11-May-2012.tar").read_bytes() == b"two gigabytes"
