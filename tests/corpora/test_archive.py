"""Archives of corpora: unpacked once and whole, whatever is in them stays in its place."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from sft_speech.corpora import archive, load_corpus
from sft_speech.corpora.load import splits_of
from sft_speech.errors import UserError


def packed(path, members: dict[str, bytes], **headers):
    """A tar or zip of files; `headers` change those of the tar's members."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                file.writestr(name, content)
        return path
    with tarfile.open(path, "w:" + path.suffix[1:].replace("tar", "").replace("tgz", "gz")) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in headers.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def files(librispeech):
    """The members of an archive of a LibriSpeech folder."""
    paths = sorted(path for path in librispeech.rglob("*") if path.is_file())
    return {str(path.relative_to(librispeech.parent)): path.read_bytes() for path in paths}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def left(cache):
    """What an attempt left in the cache, but for its lock."""
    return sorted(path.name for path in (cache / "sft_speech").glob("*") if path.suffix != ".lock")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"])
def test_a_corpus_in_an_archive(tmp_path, cache, files, suffix):
    corpus = load_corpus(packed(tmp_path / f"clean{suffix}", files), "dev-clean", cache_dir=cache)
    assert corpus["id"][:2] == ["174-5-0000", "174-5-0001"]
    assert len(corpus) == 6


def test_its_splits(tmp_path, files, monkeypatch):
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert splits_of(packed(tmp_path / "clean.tar.gz", files)) == ["dev-clean", "train-clean-100"]


def test_it_is_unpacked_once_until_it_changes(tmp_path, cache, files, monkeypatch, caplog):
    path = packed(tmp_path / "clean.tar", files)
    with caplog.at_level("INFO"):
        first = archive.unpacked(str(path), cache)
        assert archive.unpacked(str(path), cache) == first
    assert [f"is unpacked into {cache}" in message for message in caplog.messages] == [True]
    os.utime(path, (0, 0))
    assert archive.unpacked(str(path), cache) != first


def test_parquet_in_an_archive(tmp_path, cache, write):
    import pyarrow as pa
    import pyarrow.parquet as pq

    audio = [{"bytes": write("a.flac").read_bytes(), "path": "a.flac"}]
    pq.write_table(pa.table({"audio": audio, "text": ["A"]}), tmp_path / "train.parquet")
    path = packed(tmp_path / "c.zip", {"train.parquet": (tmp_path / "train.parquet").read_bytes()})
    assert load_corpus(path, cache_dir=cache)["text"][:] == ["A"]


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
@pytest.mark.parametrize("name", ["../out.wav", "a/../../out.wav", "/out.wav"])
def test_no_member_leads_out(tmp_path, cache, suffix, name):
    path = packed(tmp_path / f"bad{suffix}", {"fine.txt": b"x", name: b"x"})
    with pytest.raises(UserError, match="would be unpacked outside its folder"):
        archive.unpacked(str(path), cache)
    assert left(cache) == []
    assert [found for found in tmp_path.rglob("*") if "out.wav" in found.name] == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_left_out(tmp_path, cache, kind, caplog):
    """A file behind a link that leads out would be written through it."""
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as file:
        link = tarfile.TarInfo("a")
        link.type, link.linkname = kind, str(tmp_path / "outside")
        file.addfile(link)
        for name in ("a/b.txt", "c.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            file.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "outside").mkdir()
    folder = archive.unpacked(str(path), cache)
    assert sorted(os.listdir(folder)) == ["a", "c.txt"]
    assert os.listdir(tmp_path / "outside") == []
    assert "1 links or devices" in caplog.text


def test_links_in_a_zip_are_left_out(tmp_path, cache):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as file:
        link = zipfile.ZipInfo("a")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
        file.writestr("b.txt", "x")
    assert os.listdir(archive.unpacked(str(path), cache)) == ["b.txt"]


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_bombs(tmp_path, cache, suffix, monkeypatch):
    monkeypatch.setattr(archive, "ALWAYS_FINE", 1000)
    path = packed(tmp_path / f"bomb{suffix}", {"a.wav": bytes(50_000_000)})
    with pytest.raises(UserError, match=r"takes more than 0\.\d+ GB"):
        archive.unpacked(str(path), cache)
    assert left(cache) == []


def test_a_bomb_that_lies_about_its_size(tmp_path, cache, monkeypatch):
    """What its header says is read, and found to be wrong."""
    monkeypatch.setattr(archive, "ALWAYS_FINE", 1000)
    path = packed(tmp_path / "bomb.zip", {"a.wav": bytes(5_000_000)})
    found = bytearray(path.read_bytes())
    size = (5_000_000).to_bytes(4, "little")
    while size in found:
        place = found.index(size)
        found[place : place + 4] = (100).to_bytes(4, "little")
    path.write_bytes(found)
    with pytest.raises(UserError, match="cannot be unpacked"):
        archive.unpacked(str(path), cache)
    assert left(cache) == []


def test_more_than_the_disk_has(tmp_path, cache, monkeypatch):
    disk = type("Disk", (), {"free": 1_000_000, "total": 10_000_000})
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: disk)
    with pytest.raises(UserError, match=r"takes more than 0.00 GB.*\n.*make room"):
        archive.unpacked(str(packed(tmp_path / "a.tar", {"a.wav": bytes(600_000)})), cache)


def test_more_files_than_a_corpus_has(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(archive, "MOST_FILES", 3)
    with pytest.raises(UserError, match="more than 3 files"):
        archive.unpacked(str(packed(tmp_path / "a.tar", {f"{n}.txt": b"x" for n in range(4)})), cache)


def test_a_header_that_would_fill_the_memory(tmp_path, cache):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        info = tarfile.TarInfo("x")
        info.type, info.size = tarfile.XHDTYPE, 20_000_000
        file.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(UserError, match="a header of 20,000,000 bytes"):
        archive.unpacked(str(path), cache)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz", ".zip"])
def test_cut_and_damaged_ones(tmp_path, cache, files, suffix):
    path = packed(tmp_path / f"cut{suffix}", files)
    whole = path.read_bytes()
    first = 512 + -(-len(next(iter(files.values()))) // 512) * 512  # of a tar: the end of its first member
    broken = [whole[: len(whole) // 2], whole[:first], whole[:-10_240], b"no archive", b""]
    broken += [whole[:600] + b"\xff" * 600 + whole[1200:]] if suffix != ".tar" else []  # which has no checksums
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be unpacked"):
            archive.unpacked(str(path), cache)
        assert left(cache) == []


def test_an_archive_within_is_no_folder(tmp_path, cache, files):
    inner = packed(tmp_path / "inner.tar", files)
    path = packed(tmp_path / "outer.tar", {"inner.tar": inner.read_bytes()})
    with pytest.raises(UserError, match=r"it holds 1 \*\.tar"):
        load_corpus(path, "dev-clean", cache_dir=cache)


def test_several_at_once_unpack_it_once(tmp_path, cache, files, caplog):
    path = packed(tmp_path / "clean.tar.gz", files)
    with caplog.at_level("INFO"), ThreadPoolExecutor(4) as threads:
        folders = set(threads.map(lambda _: archive.unpacked(str(path), cache), range(4)))
    assert len(folders) == 1
    assert caplog.text.count("is unpacked into") == 1


def test_one_that_was_killed_leaves_nothing_taken_for_whole(tmp_path, cache, files, run_python):
    path = packed(tmp_path / "clean.tar", files | {"LibriSpeech/z.bin": b"the last one"})
    code = f"""import os, sys
from sft_speech.corpora.archive import unpacked
sys.addaudithook(lambda event, args: event == "open" and str(args[0]).endswith("z.bin") and os.kill(os.getpid(), 9))
unpacked({str(path)!r}, {str(cache)!r})"""
    assert run_python(code)[0] == -9
    assert len(list(cache.rglob("*.flac"))) == 12
    assert [name.endswith(".part") for name in left(cache)] == [True]
    assert len(load_corpus(path, "dev-clean", cache_dir=cache)) == 6
    assert [name.endswith(".part") for name in left(cache) if name.startswith("clean")] == [False]


def test_a_gzip_of_four_bytes(tmp_path, cache):
    """Found by atheris: tarfile raises TypeError."""
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b\x08\x1f\x8b")
    with pytest.raises(UserError, match="cannot be unpacked"):
        archive.unpacked(str(tmp_path / "a.tar.gz"), cache)
    assert left(cache) == []


def test_what_killed_runs_left_of_other_archives_is_removed_unless_it_is_being_unpacked(tmp_path, cache, files):
    own = archive.own_cache(cache)
    for name in ("killed-1.part", "busy-2.part"):
        (own / name).mkdir(parents=True)
        (own / name / "a.wav").write_bytes(b"RIFF")
    busy = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    line = [sys.executable, "-c", busy, str(own / "busy-2.lock")]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        archive.unpacked(str(packed(tmp_path / "a.tar", files)), cache)
        other.stdin.close()
    assert [path.name for path in own.glob("*.part")] == ["busy-2.part"]
