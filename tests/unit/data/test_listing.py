import os

import pytest
from PIL import Image

from ddpm_from_scratch.data.images import DataError
from ddpm_from_scratch.data.listing import Listing, choose_pictures, list_folder, some


def test_the_order_is_that_of_the_names_and_not_of_the_disk(tmp_path, monkeypatch):
    for name in ("b.png", "a/10.png", "a/2.png", "a-b/1.png", "Z.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [file.name for file in list_folder(str(tmp_path)).files]
    # As datasets' imagefolder orders them, so that runs that began with it go on.
    assert names == ["Z.png", "a-b/1.png", "a/10.png", "a/2.png", "b.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match=r"locked' cannot be read: Permission denied"):
        list_folder(str(tmp_path))


def test_many_links_between_folders_end(tmp_path):
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
        for other in "abcdefgh":
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    listing = list_folder(str(tmp_path))
    assert len(listing.files) == 8 and listing.num_left_out == 64


def test_a_link_out_of_the_folder_is_followed_once(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "1.png").write_bytes(b"")
    (tmp_path / "here").mkdir()
    for name in ("x", "y"):
        (tmp_path / "here" / name).symlink_to("../far")
    listing = list_folder(str(tmp_path / "here"))
    assert [file.name for file in listing.files] == ["x/1.png"]
    assert listing.left_out == {"a link to what is listed already": ["y/"]}


def test_a_large_picture_without_an_ending_is_a_picture(tmp_path, monkeypatch):
    Image.new("L", (40, 40)).save(tmp_path / "large", "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    listing = list_folder(str(tmp_path))
    choose_pictures(listing)
    assert len(listing.files) == 1


def test_the_summary_is_one_line_with_a_few_names():
    listing = Listing("p", left_out={"no picture": [f"{n}\n.txt" for n in range(5)]}, empty=["eel"])
    assert listing.summary({}) == (
        "5 found in p, 0 used (0 classes: ), 5 left out: 0 .txt, 1 .txt, 2 .txt and 2 more (no picture); "
        "nothing in eel/"
    )
    assert some(["a", "b"], 2) == "a, b"
