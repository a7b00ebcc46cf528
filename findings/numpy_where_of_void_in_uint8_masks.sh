#!/usr/bin/env bash
# numpy 2.4.6.
#
# Behaviour: numpy.where(mask == 255, -1, mask) with a uint8 mask changes nothing and says nothing: -1 is taken as uint8,
# in which it is 255 again. Assigning -1 to the same array by index raises OverflowError, and so does mask + (-1). With -1
# as a numpy integer of its own, the result is int64 and holds -1.
#
# Expected by an expert: since numpy 2 a Python number takes the type of the array beside it and is refused where it does
# not fit (NEP 50), so that this line raises OverflowError as the other two do; before, it gave int16 with -1. Masks in
# which 255 is void are turned into -1, as losses with ignore_index=-1 want it, by this very line.
#
# Source: numpy/_core/src/multiarray/multiarray.c, PyArray_Where, which converts both values with an unsafe cast.
# https://github.com/numpy/numpy
#
# Output seen: the lines under EXPECTED below.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check numpy==2.4.6
cat > "$folder/show.py" <<'PYTHON'
import warnings

import numpy as np

mask = np.array([0, 1, 255], np.uint8)


def show(what, compute):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = compute()
            print(f"{what}: {found.tolist()} {found.dtype}, {len(warned)} warnings")
        except OverflowError:
            print(f"{what}: OverflowError")


def by_index():
    changed = mask.copy()
    changed[changed == 255] = -1
    return changed


show("where, -1", lambda: np.where(mask == 255, -1, mask))
show("where, int64(-1)", lambda: np.where(mask == 255, np.int64(-1), mask))
show("by index", by_index)
show("added", lambda: mask + (-1))
PYTHON
"$folder/venv/bin/python" "$folder/show.py" > "$folder/seen"
cat > "$folder/EXPECTED" <<'TEXT'
where, -1: [0, 1, 255] uint8, 0 warnings
where, int64(-1): [0, 1, -1] int64, 0 warnings
by index: OverflowError
added: OverflowError
TEXT
cat "$folder/seen"
diff "$folder/EXPECTED" "$folder/seen"
