import errno
import json
import os
import shutil

import pytest

from common.cli import UserError
from common.files import check_out_dir, new_folder, new_folders, place

RENAMES = 4  # two folders: the old ones away, the new ones in


def fill(folder, text):
    """Make a folder look like a tile set of this project."""
    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True, parents=True)
    (folder / "images" / "a.tif").write_text(text)
    (folder / "manifest.json").write_text(json.dumps({"digest": text, "tiles": {}, "split": "train"}))


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
    place(raw, tmp_path / "tile.tif", "link")
    for mode in ("link", "copy"):
        with pytest.raises(UserError, match=r"tile\.tif exists"):
            place(other, tmp_path / "tile.tif", mode)
    assert raw.read_text() == "raw"


def test_a_file_is_copied_where_the_disk_cannot_link(tmp_path, monkeypatch):
    def another_disk(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another_disk)
    (tmp_path / "raw.tif").write_text("raw")
    place(tmp_path / "raw.tif", tmp_path / "tile.tif", "link")
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


def test_a_group_of_which_one_folder_is_missing_is_completed_without_overwrite(pair):
    write(pair, "old")
    os.rename(pair[1], pair[1].with_name(".val.replaced"))  # killed between two renames
    write(pair, "new")
    assert contents(pair) == ["new", "new"]
    with pytest.raises(UserError, match="--overwrite"):
        write(pair, "newer")
    shutil.rmtree(pair[1])
    (pair[0] / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="Move it away"):
        write(pair, "newer")
    assert (pair[0] / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("foreign", ["thesis.docx", "manifest.json"])
def test_overwrite_deletes_no_folder_with_files_of_somebody_else(tmp_path, foreign):
    write([tmp_path / "set"], "old")
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


def test_with_another_marker_the_marker_file_alone_says_whose_a_folder_is(tmp_path):
    target = tmp_path / "seed42"
    with new_folder(target, False, marker="run.json") as folder:
        (folder / "metrics.json").write_text("1")
        (folder / "run.json").write_text("{}")
    check_out_dir(target, True, marker="run.json")
    (target / "run.json").unlink()
    with pytest.raises(UserError, match=r"run\.json"):
        check_out_dir(target, True, marker="run.json")
