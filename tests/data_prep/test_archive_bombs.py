"""Archives that attack: whatever their headers claim, memory stays small and one line says why they are not read."""

import gzip
import io
import lzma
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import pytest
from image_files import write_tar, write_zip
from paths import REPO

from data_prep.source_parts.archive_limits import ArchiveLimits
from data_prep.source_parts.containers import UnreadableFile, open_container
from tl_distributed.errors import UserError

_BOMB_MIB = 200
_MOST_MIB = 100  # of a process that opens a bomb: Python with the archive's code takes 30

# Without TensorFlow, whose size would hide the bomb's. VmHWM, since a process's maximum as resource has it counts the
# process that forked it.
_CHILD = """
import re, sys
from data_prep.source_parts import zip_archive
from data_prep.source_parts.archive_limits import ArchiveLimits, RefusedArchive, UnreadableFile
from data_prep.source_parts.tar_archive import TarReader
try:
    with open(sys.argv[1], "rb") as file:
        if sys.argv[1].endswith(".zip"):
            archive = zip_archive.open_zip(file, ArchiveLimits())
            for info in archive.infolist():
                zip_archive.read_member(archive, info, max_bytes=2**29)
        else:
            for name, info in TarReader(file, ArchiveLimits()).walk():
                pass
    print("read")
except (RefusedArchive, UnreadableFile, Exception) as error:
    print(f"{type(error).__name__}: {error}")
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def read_in_child(path):
    """Returns (what came of it, peak memory in MiB)."""
    command = [sys.executable, "-c", _CHILD, str(path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True, timeout=60)
    outcome, peak = done.stdout.splitlines()
    return outcome, int(peak) / 1024


def header(name, kind, num_bytes):
    """One block of a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, num_bytes
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])
    return bytes(block)


def write_gzip(path, *parts):
    """Writes parts, of which (bytes, count) is repeated."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for part in parts:
            data, count = part if isinstance(part, tuple) else (part, 1)
            for _ in range(count):
                file.write(data)
    return path


def sparse_block(is_extended):
    return bytes(504) + (b"\1" if is_extended else b"\0") + bytes(7)


def test_member_of_a_zip_that_claims_100_bytes(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("cat/bomb.png", "w") as member:
        for _ in range(_BOMB_MIB):
            member.write(bytes(2**20))
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 22, 100)
    struct.pack_into("<I", data, data.rindex(b"PK\1\2") + 24, 100)
    path.write_bytes(data)
    outcome, peak = read_in_child(path)
    assert outcome.startswith("UnreadableFile: Bad CRC-32") and peak < _MOST_MIB


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_header_of_a_tar_of_hundreds_of_megabytes(tmp_path, kind):
    body = (b"a" * 2**20, _BOMB_MIB)
    path = write_gzip(
        tmp_path / "bomb.tar.gz",
        header("x", kind, _BOMB_MIB * 2**20),
        body,
        header("a", tarfile.REGTYPE, 0),
        bytes(1024),
    )
    outcome, peak = read_in_child(path)
    assert outcome.startswith("RefusedArchive: a member's header") and peak < _MOST_MIB


def test_list_of_holes_of_hundreds_of_megabytes(tmp_path):
    first = bytearray(header("x", tarfile.GNUTYPE_SPARSE, 0))
    first[482] = 1  # the list goes on in the next block
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    path = write_gzip(tmp_path / "bomb.tar.gz", bytes(first), (sparse_block(True) * 2048, _BOMB_MIB), bytes(1024))
    outcome, peak = read_in_child(path)
    assert outcome.startswith("RefusedArchive: a member's header") and peak < _MOST_MIB


def test_chain_of_headers_does_not_add_up(tmp_path):
    name = header("x", tarfile.GNUTYPE_LONGNAME, 512) + b"a" * 511 + b"\0"
    path = write_gzip(tmp_path / "bomb.tar.gz", (name * 1024, _BOMB_MIB), bytes(1024))
    outcome, peak = read_in_child(path)
    assert outcome.startswith("RefusedArchive: a member's header") and peak < _MOST_MIB


def test_global_headers_do_not_add_up(tmp_path):
    def part(number):
        body = b"60000 key%d=" % number
        body += b"v" * (60000 - len(body) - 1) + b"\n"
        body += bytes(-len(body) % 512)
        return header("x", tarfile.XGLTYPE, 60000) + body + header(f"f{number}", tarfile.REGTYPE, 0)

    path = write_gzip(tmp_path / "bomb.tar.gz", *[part(number) for number in range(2500)], bytes(1024))
    outcome, peak = read_in_child(path)
    assert outcome == "read" and peak < _MOST_MIB


def test_xz_that_claims_gigabytes_for_its_dictionary(tmp_path):
    data = bytearray(lzma.compress(bytes(10240)))
    end = 12 + 4 * (data[12] + 1)
    data[16] = 40  # of the only filter's only property: 4 GiB
    struct.pack_into("<I", data, end - 4, zlib.crc32(data[12 : end - 4]))
    (tmp_path / "bomb.tar.xz").write_bytes(data)
    outcome, peak = read_in_child(tmp_path / "bomb.tar.xz")
    assert outcome.startswith("RefusedArchive: its xz compression wants") and peak < _MOST_MIB


def claimed_directory(tmp_path, is_64):
    """A zip whose end record claims a directory of 2 GiB, or of 2**62 bytes."""
    data = write_zip(tmp_path / "a.zip", {"cat/1.png": b"x"})
    with open(data, "rb") as file:
        data = bytearray(file.read())
    at = len(data) - 22
    if not is_64:
        struct.pack_into("<I", data, at + 12, 2**31)
        return bytes(data)
    end_64 = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 2**62, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    struct.pack_into("<HHLL", data, at + 8, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    return bytes(data[:at]) + end_64 + locator + bytes(data[at:])


@pytest.mark.parametrize("is_64", [False, True])
def test_directory_of_a_zip_that_is_only_claimed(tmp_path, is_64):
    (tmp_path / "bomb.zip").write_bytes(claimed_directory(tmp_path, is_64))
    outcome, peak = read_in_child(tmp_path / "bomb.zip")
    assert outcome.startswith(("RefusedArchive", "BadZipFile")) and peak < _MOST_MIB
    with pytest.raises(UserError, match=r"bomb\.zip: "):
        open_container(str(tmp_path / "bomb.zip"))


@pytest.mark.parametrize("ending", [".tar.gz", ".zip"])
def test_number_of_members_is_bounded(tmp_path, ending):
    files = {f"cat/{number}.png": b"x" for number in range(4)}
    path = (write_zip if ending == ".zip" else write_tar)(tmp_path / f"a{ending}", files)
    assert len(open_container(path, ArchiveLimits(max_archive_members=4)).files) == 4
    with pytest.raises(UserError, match=r"a\.(tar\.gz|zip): holds more than --max_archive_members=3 "):
        open_container(path, ArchiveLimits(max_archive_members=3))


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip"])
def test_sum_of_bytes_is_bounded(tmp_path, ending):
    files = {f"cat/{number}.png": bytes(2**20) for number in range(3)}
    path = (write_zip if ending == ".zip" else write_tar)(tmp_path / f"a{ending}", files)
    assert len(open_container(path, ArchiveLimits(max_archive_gib=4 / 1024)).files) == 3
    with pytest.raises(UserError, match=r"more than --max_archive_gib=0\.002 GiB unpacked"):
        open_container(path, ArchiveLimits(max_archive_gib=0.002))


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_size_that_a_tar_only_claims(tmp_path, ending):
    data = header("cat/1.png", tarfile.REGTYPE, 2**62) + bytes(10240)
    (tmp_path / f"a{ending}").write_bytes(gzip.compress(data) if ending == ".tar.gz" else data)
    with pytest.raises(UserError, match="claims to hold, more than --max_archive_gib=256 GiB"):
        open_container(str(tmp_path / f"a{ending}"))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
def test_negative_size_of_a_tar_is_no_endless_loop(tmp_path, kind):
    block = bytearray(header("cat", kind, 0))
    block[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(bytes(block) + bytes(1024))
    with pytest.raises(UserError, match=r"negative size|holds 'cat' twice"):
        open_container(str(tmp_path / "a.tar"))


def overlapping_zip(path):
    """Two entries of the directory that share one member's bytes."""
    data = bytearray(io.BytesIO().getvalue())
    write_zip(path, {"cat/1.png": b"x" * 100})
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    entry, end = bytes(data[at:-22]), data[-22:]
    second = entry.replace(b"cat/1.png", b"cat/2.png")
    struct.pack_into("<HHL", end, 8, 2, 2, 2 * len(entry))
    path.write_bytes(bytes(data[:at]) + entry + second + end)
    return str(path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    with pytest.raises(UserError, match="overlaps what follows it"):
        open_container(overlapping_zip(tmp_path / "a.zip"))


@pytest.mark.parametrize("ending", [".tar", ".zip"])
def test_name_that_no_file_system_takes_is_refused(tmp_path, ending):
    files = {f"cat/{'a' * 5000}.png": b"x"}
    path = (write_zip if ending == ".zip" else write_tar)(tmp_path / f"a{ending}", files)
    with pytest.raises(UserError, match="name has 5,008 bytes, more than 4,096"):
        open_container(path)


@pytest.mark.parametrize(("method", "word"), [(zipfile.ZIP_LZMA, "lzma"), (zipfile.ZIP_BZIP2, "bzip2")])
def test_other_compressions_of_a_zip_are_not_read(tmp_path, method, word):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("cat/1.png", bytes(1000))
    (member,) = open_container(str(tmp_path / "a.zip")).members(["cat/1.png"])
    with pytest.raises(UnreadableFile, match=f"is compressed by {word}; only stored and deflate are read"):
        member.read()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_tar_cut_between_members_is_named(tmp_path, number):
    """Its list would end in silence, and with it the pictures that are lost."""
    path = tmp_path / "a.tar"
    write_tar(path, {f"cat/{index}.png": b"x" * 100 for index in range(4)})
    path.write_bytes(path.read_bytes()[: 1024 * (number + 1)])
    with pytest.raises(UserError, match=r"a\.tar: .*ends without a mark at byte .*truncated\?"):
        open_container(str(path))


def test_damaged_header_in_the_middle_of_a_tar_is_named(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, {f"cat/{index}.png": b"x" * 100 for index in range(4)})
    data = bytearray(path.read_bytes())
    data[2048 + 5] ^= 1  # a letter of the third member's name: its checksum is wrong now
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"ends without a mark at byte 2,048: a damaged header"):
        open_container(str(path))


@pytest.mark.parametrize(("start", "word"), [(b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\7\0", "RAR")])
def test_other_packers_are_named(tmp_path, start, word):
    (tmp_path / "a.bin").write_bytes(start + bytes(100))
    with pytest.raises(UserError, match=f"packed by {word}, which is not read; unpack it"):
        open_container(str(tmp_path / "a.bin"))
