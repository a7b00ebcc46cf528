import errno
import json
import os
import shutil

import pytest

from common.errors import UserError
from common.files import (
    FolderKind,
    check_out_dir,
    digest_json,
    link_or_copy,
    new_folder,
    new_folders,
    read_json,
    sha256_file,
    write_files,
    write_json,
)
from tests.helpers import made

RENAMES = 4  # two folders: the old ones away, the new ones in


def fill(folder, text):
    """Make a folder look like a tile set of this project."""
    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True, parents=True)
    (folder / "images" / "a.tif").write_text(text)
    (folder / "manifest.json").write_text(json.dumps({"digest": text, "tiles": {"a": {}}, "split": "train"}))


def write(paths, text, overwrite=False):
    with new_folders(paths, overwrite) as folders:
        for folder in folders:
            fill(folder, text)


def contents(paths):
    return [(path / "images" / "a.tif").read_text() if path.exists() else None for path in paths]


@pytest.fixture
def pair(tmp_path):
    return [tmp_path / "train", tmp_path / "val"]


def test_a_file_is_never_written_through_a_link_that_is_there(tmp_path):
    raw, other = tmp_path / "raw.tif", tmp_path / "other.tif"
    raw.write_text("raw")
    other.write_text("other")
    link_or_copy(raw, tmp_path / "tile.tif", "link")
    for mode in ("link", "copy"):
        with pytest.raises(UserError, match=r"tile\.tif exists"):
            link_or_copy(other, tmp_path / "tile.tif", mode)
    assert raw.read_text() == "raw"


def test_a_file_is_copied_where_the_disk_cannot_link(tmp_path, monkeypatch):
    def another_disk(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another_disk)
    (tmp_path / "raw.tif").write_text("raw")
    link_or_copy(tmp_path / "raw.tif", tmp_path / "tile.tif", "link")
    assert (tmp_path / "tile.tif").read_text() == "raw"
    assert not (tmp_path / "tile.tif").samefile(tmp_path / "raw.tif")


@pytest.mark.parametrize("after", range(RENAMES))
def test_an_interruption_between_renames_leaves_all_earlier_folders(pair, monkeypatch, after):
    write(pair, "old")
    rename, calls = os.rename, []

    def interrupted(source, target):
        if len(calls) == after:
            calls.append("stop")
            raise KeyboardInterrupt
        calls.append(source)
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(pair, "new", overwrite=True)
    assert contents(pair) == ["old", "old"]
    assert sorted(p.name for p in pair[0].parent.iterdir()) == ["train", "val"]


def test_an_interruption_while_old_folders_are_deleted_leaves_all_new_ones(pair, monkeypatch):
    write(pair, "old")
    rmtree = shutil.rmtree

    def interrupted(path, **settings):
        if path.exists() and path.name.endswith(".replaced"):
            raise KeyboardInterrupt
        rmtree(path, **settings)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(pair, "new", overwrite=True)
    assert contents(pair) == ["new", "new"]
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    write(pair, "newer", overwrite=True)
    assert contents(pair) == ["newer", "newer"]
    assert sorted(p.name for p in pair[0].parent.iterdir()) == ["train", "val"]


@pytest.mark.parametrize("done", range(1, RENAMES))
def test_the_earlier_folders_come_back_where_a_run_was_killed_between_renames(pair, done):
    write(pair, "old")
    for path in pair:
        fill(path.with_name(f".{path.name}.partial"), "new")
    renames = [(p, p.with_name(f".{p.name}.replaced")) for p in pair]
    renames += [(p.with_name(f".{p.name}.partial"), p) for p in pair]
    for source, target in renames[:done]:
        os.rename(source, target)
    assert "old" not in contents(pair) or "new" not in contents(pair)  # whatever is seen is of one run
    with pytest.raises(UserError, match="--overwrite"):
        write(pair, "newer")
    assert contents(pair) == ["old", "old"]
    write(pair, "newer", overwrite=True)
    assert contents(pair) == ["newer", "newer"]
    assert sorted(p.name for p in pair[0].parent.iterdir()) == ["train", "val"]


def test_a_group_of_which_one_folder_is_missing_is_completed_without_overwrite(pair):
    write(pair, "old")
    shutil.rmtree(pair[1])
    with pytest.raises(UserError, match="--overwrite"):  # somebody took it away
        write(pair, "new")
    fill(pair[1].with_name(".val.partial"), "new")  # killed before the second of two new ones was in its place
    write(pair, "new")
    assert contents(pair) == ["new", "new"]
    with pytest.raises(UserError, match="--overwrite"):
        write(pair, "newer")
    os.rename(pair[1], pair[1].with_name(".val.partial"))
    (pair[0] / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="Move it away"):
        write(pair, "newer")
    assert (pair[0] / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "foreign",
    ["thesis.docx", "images/thesis.docx", "images/b.tif", "notes/b.txt", ".env", ".git/HEAD", "manifest.json"],
)
def test_overwrite_deletes_no_folder_with_files_of_somebody_else(tmp_path, foreign):
    write([tmp_path / "set"], "old")
    (tmp_path / "set" / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / "set" / foreign).write_text('{"name": "a web page"}')
    with pytest.raises(UserError, match="was not written by this project"):
        write([tmp_path / "set"], "new", overwrite=True)
    assert (tmp_path / "set" / foreign).exists()


def test_overwrite_passes_over_what_file_browsers_and_gis_programs_leave(tmp_path):
    write([tmp_path / "set"], "old")
    for name in (".DS_Store", "mosaic.aux.xml"):
        (tmp_path / "set" / name).write_text("")
    write([tmp_path / "set"], "new", overwrite=True)
    assert contents([tmp_path / "set"]) == ["new"]


def test_each_kind_of_folder_says_what_may_be_in_it(tmp_path):
    kind = FolderKind("run.json", lambda _: {"run.json", "metrics.json"})
    target = tmp_path / "seed42"
    with new_folder(target, False, kind=kind) as folder:
        (folder / "metrics.json").write_text("1")
        (folder / "run.json").write_text("{}")
    check_out_dir(target, True, kind=kind)
    for spoil in ((target / "notes.txt").touch, (target / "run.json").unlink):
        spoil()
        with pytest.raises(UserError, match=r"run\.json"):
            check_out_dir(target, True, kind=kind)


def test_several_files_take_their_places_together_or_not_at_all(tmp_path):
    first, second, old = (tmp_path / name for name in ("deep/a.txt", "b.bin", "old.txt"))
    old.write_text("old")
    write_files({first: "ä", second: b"\x00\xff"}, remove=[old, tmp_path / "never there"])
    assert first.read_bytes() == "ä".encode() and second.read_bytes() == b"\x00\xff" and not old.exists()
    old.write_text("old")
    blocked = tmp_path / "file/c.txt"  # whose folder is a file
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_files({first: "new", blocked: "c"}, remove=[old])
    assert first.read_text() == "ä" and old.read_text() == "old"
    assert not [path for path in tmp_path.rglob(".*")]


def test_files_are_told_apart_by_content_and_json_values_by_what_they_say(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    # The example of FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (
        digest_json({"a": 1, "b": [1, 2]}) == digest_json({"b": [1, 2], "a": 1}) != digest_json({"b": [2, 1], "a": 1})
    )
    write_json(tmp_path / "a.json", {"b": [1.5, None], "a": "ä"})
    assert read_json(made(tmp_path / "a.json")) == {"b": [1.5, None], "a": "ä"}
    (tmp_path / "a.json").write_text('{"b": ')
    with pytest.raises(UserError, match="is not valid JSON .*Write it again: python -m some.step --overwrite"):
        read_json(made(tmp_path / "a.json"))
    with pytest.raises(UserError, match="does not exist. Write it first: python -m some.step$"):
        read_json(made(tmp_path / "b.json"))


def test_what_a_link_leads_to_is_taken_over_not_the_link(tmp_path):
    (tmp_path / "raw.tif").write_text("raw")
    (tmp_path / "link.tif").symlink_to("raw.tif")
    for mode in ("link", "copy"):
        link_or_copy(tmp_path / "link.tif", tmp_path / f"by_{mode}.tif", mode)
        target = tmp_path / f"by_{mode}.tif"
        assert not target.is_symlink() and target.read_text() == "raw"
        assert target.samefile(tmp_path / "raw.tif") == (mode == "link")
