import tarfile
import zipfile

import pytest

from ddpm_from_scratch.data.archives import Archive, opened_archive, read_file


@pytest.fixture
def archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
        file.writestr("cat/a::b [1]*.png", b"one")
        file.writestr("dog\\2.png", b"two")
    return tmp_path / "p.zip"


def test_a_member_is_read_by_its_literal_path(archive):
    assert read_file(f"{archive}/cat/a::b [1]*.png") == b"one"
    assert read_file(f"{archive}/dog/2.png") == b"two"


def test_a_path_of_the_disk_is_literal(tmp_path):
    (tmp_path / "a[1]*::.png").write_bytes(b"x")
    assert read_file(str(tmp_path / "a[1]*::.png")) == b"x"


def test_what_is_not_there_is_no_such_file(archive, tmp_path):
    for path in (f"{archive}/cat/none.png", str(tmp_path / "none.png")):
        with pytest.raises(FileNotFoundError):
            read_file(path)


def test_a_tar_has_the_members_of_its_files_and_names_its_links(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b.png").symlink_to("a.png")
    with tarfile.open(tmp_path / "p.tar", "w") as file:
        file.add(tmp_path / "a.png", "./in/a.png")
        file.add(tmp_path / "b.png", "./in/b.png")
    found = Archive(str(tmp_path / "p.tar"))
    assert (list(found.members), found.others) == (["in/a.png"], ["in/b.png"])
    assert found.read("in/a.png") == b"x"


def test_a_damaged_member_is_an_error_of_reading(tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
        file.writestr("a.png", b"content")
    content = (tmp_path / "p.zip").read_bytes()
    (tmp_path / "p.zip").write_bytes(content.replace(b"content", b"damaged"))
    with pytest.raises(OSError, match="CRC"):
        read_file(f"{tmp_path}/p.zip/a.png")


def test_an_archive_is_opened_once_in_a_process_and_again_when_it_changes(archive):
    first = opened_archive(str(archive))
    assert opened_archive(str(archive)) is first
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("new.png", b"three")
    assert read_file(f"{archive}/new.png") == b"three"


@pytest.mark.parametrize("header_bytes", [0, 100, 511])
def test_a_tar_that_is_cut_off_between_two_files_is_refused(tmp_path, header_bytes):
    """At the end of a file or within the header of the next, where tarfile takes it for whole."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x" * 700)
    with tarfile.open(tmp_path / "p.tar", "w", format=tarfile.GNU_FORMAT) as file:
        file.add(tmp_path / "a.png", "a.png")
        file.add(tmp_path / "b.png", "b.png")
    assert len(Archive(str(tmp_path / "p.tar")).members) == 2
    content = (tmp_path / "p.tar").read_bytes()
    (tmp_path / "p.tar").write_bytes(content[: 3 * 512 + header_bytes])
    with pytest.raises(OSError, match="it is cut off"):
        Archive(str(tmp_path / "p.tar"))
    (tmp_path / "p.tar").write_bytes(content[:1536] + b"\xff" * 512 + content[2048:])
    with pytest.raises(OSError, match="or damaged after"):
        Archive(str(tmp_path / "p.tar"))


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_member_damaged_in_any_way_is_an_error_of_reading(tmp_path, method):
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("a.png", bytes(range(256)) * 8)
        start = file.getinfo("a.png").header_offset + 30 + len("a.png")
    content = path.read_bytes()
    for damage in range(12):
        path.write_bytes(content[: start + damage] + b"\xff" * 8 + content[start + damage + 8 :])
        with pytest.raises(OSError):
            Archive(str(path)).read("a.png")


def test_a_way_of_packing_that_is_not_known_is_said_and_is_no_password(archive):
    content = bytearray(archive.read_bytes())
    central = content.index(b"PK\x01\x02")
    content[8], content[central + 10] = 9, 9  # Deflate64
    archive.write_bytes(content)
    with pytest.raises(OSError, match="packed in a way that cannot be read here .*compression"):
        Archive(str(archive)).read("cat/a::b [1]*.png")
