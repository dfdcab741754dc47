"""Folders and archives: the same list and bytes from each, and what is refused."""

import io
import os
import pathlib
import pickle
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib

import pytest
from image_files import write_folder, write_tar, write_zip

from data_prep.source_parts import containers
from data_prep.source_parts.archive_limits import ArchiveLimits
from data_prep.source_parts.containers import UnreadableFile, open_container
from data_prep.source_parts.image_layout import LayoutOptions, find_layout
from tl_distributed.errors import UserError

FILES = {"train/cat/1.png": b"one", "train/dog/2.png": b"two", "train/cat/big.png": bytes(5000), "note.txt": b""}
ENDINGS = ["", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"]


def write(tmp_path, files, ending):
    path = tmp_path / f"images{ending}"
    if not ending:
        return write_folder(path, files)
    return write_zip(path, files) if ending == ".zip" else write_tar(path, files)


@pytest.mark.parametrize("ending", ENDINGS)
def test_folder_and_archives_hold_the_same(tmp_path, ending):
    container = open_container(write(tmp_path, FILES, ending))
    assert container.files == sorted(FILES)
    read = {member.name: member.read() for member in container.members(["train/cat/1.png", "train/cat/big.png"])}
    assert read == {name: FILES[name] for name in ("train/cat/1.png", "train/cat/big.png")}


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".zip"])
def test_names_are_normalised(tmp_path, ending):
    container = open_container(write(tmp_path, {"./train//cat/1.png": b"one"}, ending))
    assert container.files == ["train/cat/1.png"]
    assert [member.read() for member in container.members(["train/cat/1.png"])] == [b"one"]


def test_empty_folders_are_listed(tmp_path):
    directory = tarfile.TarInfo("train/empty")
    directory.type = tarfile.DIRTYPE
    archive = write_tar(tmp_path / "a.tar", {"train/cat/1.png": b"x"}, (directory,))
    assert "train/empty" in open_container(archive).folders
    zipped = write_zip(tmp_path / "a.zip", {"train/cat/1.png": b"x", "train/empty/": b""})
    assert "train/empty" in open_container(zipped).folders
    (tmp_path / "folder/train/empty").mkdir(parents=True)
    assert "train/empty" in open_container(str(tmp_path / "folder")).folders


@pytest.mark.parametrize("packer", ["tar", "zip"])
def test_folder_that_was_packed_as_a_point_is_no_folder_of_the_archive(tmp_path, packer):
    """As `tar -C photos -cf a.tar .` has it, and `zip -r a.zip .` of some programs."""
    if packer == "tar":
        write_folder(tmp_path / "photos", {"cat/1.png": b"x", "dog/2.png": b"y"})
        path = str(tmp_path / "a.tar")
        subprocess.run(["tar", "-C", str(tmp_path / "photos"), "-cf", path, "."], check=True)
    else:
        path = write_zip(tmp_path / "a.zip", {"./": b"", "./cat/": b"", "cat/1.png": b"x", "./dog/2.png": b"y"})
    container = open_container(path)
    assert container.files == ["cat/1.png", "dog/2.png"]
    assert set(container.folders) <= {"cat", "dog"}
    assert find_layout(container, LayoutOptions()).class_names == ("cat", "dog")


@pytest.mark.parametrize("name", ["/etc/cat.png", "../cat.png", "train/../../cat.png", "C:\\cat.png", "..\\cat.png"])
@pytest.mark.parametrize("ending", [".tar", ".zip"])
def test_member_outside_the_archive_is_refused(tmp_path, name, ending):
    with pytest.raises(UserError, match="lies outside the archive's folder"):
        open_container(write(tmp_path, {"train/cat/1.png": b"x", name: b"y"}, ending))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("train/cat/link.png")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(UserError, match=r"train/cat/link\.png.*is a link or device"):
        open_container(write_tar(tmp_path / "a.tar", {}, (info,)))


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_members_of_a_tar_come_in_its_order_and_a_part_has_its_own(tmp_path, ending):
    files = {f"cat/{i}.png": bytes([i]) * (100 * i) for i in (3, 1, 2, 0)}
    container = open_container(write(tmp_path, files, ending))
    assert container.is_random_access == (ending == ".tar")
    part = pickle.loads(pickle.dumps(container.only(["cat/2.png", "cat/3.png"])))
    assert part.files == ["cat/2.png", "cat/3.png"]
    for one, names in ((container, sorted(files)), (part, part.files)):
        read = {member.name: member.read() for member in one.members(names)}
        assert list(read) == [name for name in files if name in names]  # as they lie
        assert read == {name: files[name] for name in names}


def test_file_with_holes_is_whole(tmp_path):
    """GNU tar -S leaves out blocks of zeros, as of a BMP with a black background."""
    content = bytes(2**20) + b"end" + bytes(2**16)
    (tmp_path / "holes.bmp").write_bytes(b"")
    with open(tmp_path / "holes.bmp", "r+b") as file:
        file.truncate(len(content))
        file.seek(2**20)
        file.write(b"end")
    subprocess.run(["tar", "-S", "-cf", "a.tar", "holes.bmp"], cwd=tmp_path, check=True)
    assert (tmp_path / "a.tar").stat().st_size < 2**17
    (member,) = open_container(str(tmp_path / "a.tar")).members(["holes.bmp"])
    assert member.read() == content


def test_tar_that_was_cut_after_it_was_listed_is_named(tmp_path):
    path = write_tar(tmp_path / "a.tar", {f"cat/{i}.png": bytes(3000) for i in range(9)})
    container = open_container(path)
    os.truncate(path, 9000)
    with pytest.raises(UserError, match=r"a\.tar: not a tar or zip archive, or a damaged one \(unexpected end"):
        list(container.members(container.files))


def test_links_in_a_zip_are_refused(tmp_path):
    info = zipfile.ZipInfo("train/cat/link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match=r"train/cat/link\.png.*is a link"):
        open_container(str(tmp_path / "a.zip"))


def test_name_twice_is_refused(tmp_path):
    archive = write_tar(tmp_path / "a.tar", {"cat/1.png": b"x", "./cat/1.png": b"y"})
    with pytest.raises(UserError, match=r"holds 'cat/1\.png' twice"):
        open_container(archive)
    zipped = write_zip(tmp_path / "a.zip", {"cat/1.png": b"x", "./cat/1.png": b"y"})
    with pytest.raises(UserError, match=r"holds 'cat/1\.png' twice"):
        open_container(zipped)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".zip"])
def test_file_of_absurd_size_is_not_read(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(containers, "MAX_FILE_BYTES", 1000)
    (member,) = open_container(write(tmp_path, {"cat/bomb.png": bytes(2000)}, ending)).members(["cat/bomb.png"])
    with pytest.raises(UnreadableFile, match="2,000 bytes"):
        member.read()


def test_damaged_member_of_a_zip_is_unreadable_and_the_rest_is_not(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("cat/1.png", b"AAAAAAAA")
        archive.writestr("cat/2.png", b"BBBBBBBB")
    path.write_bytes(path.read_bytes().replace(b"AAAAAAAA", b"AAAACAAA"))
    first, second = open_container(str(path)).members(["cat/1.png", "cat/2.png"])
    with pytest.raises(UnreadableFile, match="CRC"):
        first.read()
    assert second.read() == b"BBBBBBBB"


def test_encrypted_zip_is_unreadable(tmp_path):
    path = tmp_path / "a.zip"
    write_zip(path, {"cat/1.png": b"x" * 50})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag "encrypted", in the local header and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    (member,) = open_container(str(path)).members(["cat/1.png"])
    with pytest.raises(UnreadableFile, match="encrypted"):
        member.read()


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.xz", ".zip"])
def test_truncated_archive_is_named(tmp_path, ending):
    files = {f"cat/{i}.png": bytes([i]) * 3000 for i in range(50)}
    path = tmp_path / f"images{ending}"
    write(tmp_path, files, ending)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=f"images{ending}: not a tar or zip archive, or a damaged one"):
        open_container(str(path))


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(UserError, match="not a tar or zip archive"):
        open_container(str(tmp_path / "a.txt"))
    with pytest.raises(UserError, match="no such file or folder"):
        open_container(str(tmp_path / "missing"))


def test_links_of_a_folder_are_followed(tmp_path):
    """A folder is the user's own; class folders that are links to a store elsewhere are common."""
    write_folder(tmp_path / "store", {"1.png": b"x"})
    (tmp_path / "train").mkdir()
    (tmp_path / "train/cat").symlink_to(tmp_path / "store")
    container = open_container(str(tmp_path / "train"))
    assert [member.read() for member in container.members(container.files)] == [b"x"]


def test_list_of_a_large_tar_is_not_kept(tmp_path, monkeypatch):
    """tarfile remembers every member it passes; a million of them would fill the memory."""
    archive = write_tar(tmp_path / "a.tar", {f"cat/{i}.png": b"" for i in range(50)})
    kept = []
    true_next = tarfile.TarFile.next
    monkeypatch.setattr(tarfile.TarFile, "next", lambda tar: kept.append(len(tar.members)) or true_next(tar))
    assert len(open_container(archive).files) == 50
    assert max(kept) <= 1


def test_reads_through_tensorflows_file_systems():
    import tensorflow as tf

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cat/1.png", b"one")
    with tf.io.gfile.GFile("ram://containers/a.zip", "wb") as file:
        file.write(buffer.getvalue())
    (member,) = open_container("ram://containers/a.zip").members(["cat/1.png"])
    assert member.read() == b"one"


def write_raw_zip(path, raw_name, flags=0, extra=b""):
    """A zip with one stored member whose name is `raw_name`, bytes of any encoding."""
    info = zipfile.ZipInfo("x" * len(raw_name))
    info.extra = extra
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(info, b"one")
    data = bytearray(path.read_bytes().replace(b"x" * len(raw_name), raw_name))
    data[7], data[data.index(b"PK\x01\x02") + 9] = flags >> 8, flags >> 8
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    ("raw_name", "flags", "name"),
    [
        ("cat/é.png".encode(), 0x800, "cat/é.png"),
        ("cat/é.png".encode(), 0, "cat/é.png"),  # as many programs write it
        (b"cat\\1.png", 0, "cat/1.png"),
        ("lisez-moi é.txt".encode("cp437"), 0, "lisez-moi é.txt"),  # no picture: nobody asks how it is called
    ],
)
def test_names_of_a_zip_are_read_as_they_were_meant(tmp_path, raw_name, flags, name):
    container = open_container(write_raw_zip(tmp_path / "a.zip", raw_name, flags))
    assert container.files == [name]
    assert [member.read() for member in container.members([name])] == [b"one"]


def test_backslash_at_the_end_of_a_zips_name_is_a_folder(tmp_path):
    write_raw_zip(tmp_path / "a.zip", b"train\\empty\\")
    container = open_container(str(tmp_path / "a.zip"))
    assert (container.files, container.folders) == ([], ["train/empty"])


def write_raw_tar(path, name, encoding, kind=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", encoding=encoding, format=kind) as tar:
        info = tarfile.TarInfo(name)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"one"))
    return str(path)


def write_in(encoding, ending, tmp_path, name):
    path = tmp_path / f"a{ending}"
    return write_raw_zip(path, name.encode(encoding)) if ending == ".zip" else write_raw_tar(path, name, encoding)


@pytest.mark.parametrize("ending", [".zip", ".tar"])
@pytest.mark.parametrize(
    ("encoding", "name"),
    [("gbk", "猫狗/1.png"), ("cp932", "予定表/1.png"), ("cp437", "cat/café.png"), ("latin-1", "café/1.png")],
)  # 表 ends by a backslash in Japan
def test_name_in_an_encoding_that_is_not_told_is_refused_until_it_is(encoding, name, ending, tmp_path):
    """What guesses it calls a class by letters that nobody wrote."""
    path = write_in(encoding, ending, tmp_path, name)
    with pytest.raises(UserError, match=rf"a\{ending}: the name of member '.*\.png' is not UTF-8 .*--archive_encoding"):
        open_container(path)
    limits = ArchiveLimits(archive_encoding=encoding)
    container = open_container(path, limits)
    assert container.files == [name]
    part = pickle.loads(pickle.dumps(container.only([name]))) if ending == ".tar" else container.only([name])
    assert [member.read() for member in part.members([name])] == [b"one"]
    if encoding != "latin-1":  # which every name is
        with pytest.raises(UserError, match="is not in --archive_encoding=ascii; name another one"):
            open_container(path, ArchiveLimits(archive_encoding="ascii"))


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_tars_that_were_joined_are_refused(tmp_path, ending):
    """Whose first alone is listed by tar and tarfile, without a word."""
    parts = [write_tar(tmp_path / f"{name}{ending}", {f"{name}/1.png": b"x"}) for name in ("ant", "bee")]
    (tmp_path / f"both{ending}").write_bytes(b"".join(pathlib.Path(part).read_bytes() for part in parts))
    with pytest.raises(UserError, match=rf"both\{ending}: goes on after the mark of its end .*--ignore-zeros"):
        open_container(str(tmp_path / f"both{ending}"))


def test_names_of_a_zip_are_judged_together(tmp_path):
    """The one letter of the class could be UTF-8, that of the file beside it could not."""
    raw = "猫/1.png".encode("gbk")
    assert raw.decode("utf-8") == "è/1.png"
    path, added = tmp_path / "a.zip", "狗.txt".encode("gbk")
    with zipfile.ZipFile(path, "w") as archive:
        for name in (raw, added):
            archive.writestr("x" * len(name), b"one")
    path.write_bytes(path.read_bytes().replace(b"x" * len(raw), raw).replace(b"x" * len(added), added))
    with pytest.raises(UserError, match=r"lies beside names that are not UTF-8 and may .*--archive_encoding"):
        open_container(str(path))
    assert open_container(str(path), ArchiveLimits(archive_encoding="gbk")).files == ["狗.txt", "猫/1.png"]


def test_name_that_says_its_encoding_is_read_by_it_whatever_the_flag(tmp_path):
    name, gbk = "猫/1.png", ArchiveLimits(archive_encoding="gbk")
    raw = name.encode("gbk")
    field = b"\1" + struct.pack("<I", zlib.crc32(raw)) + name.encode()  # Info-ZIP's, of WinRAR and 7-Zip too
    extra = struct.pack("<HH", 0x7075, len(field)) + field
    for limits in (None, gbk):
        assert open_container(write_raw_zip(tmp_path / "a.zip", raw, extra=extra), limits).files == [name]
        assert open_container(write_raw_zip(tmp_path / "a.zip", name.encode(), 0x800), limits).files == [name]
        assert open_container(write_raw_tar(tmp_path / "a.tar", name, "utf-8", tarfile.PAX_FORMAT), limits).files == [
            name
        ]
    of_another = extra.replace(struct.pack("<I", zlib.crc32(raw)), bytes(4))  # renamed by who does not know the field
    assert open_container(write_raw_zip(tmp_path / "a.zip", raw, extra=of_another), gbk).files == [name]


def test_name_of_a_zip_that_breaks_its_own_encoding_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.zip: .*a damaged one"):
        open_container(write_raw_zip(tmp_path / "a.zip", b"cat/caf\xe9.png", 0x800))
