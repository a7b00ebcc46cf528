#!/usr/bin/env bash
# torch 2.15.0, safetensors 0.8.0, numpy 2.4.6.
#
# Behaviour: torch.load, given a path that ends in .safetensors, hands the file to safetensors, whatever is in it. What
# torch.save wrote under such a name (it writes its own format under any name) cannot be read by that path: the error is
# a SafetensorError, which is neither a RuntimeError nor an UnpicklingError but a bare Exception, and it speaks of a
# header. The same file, opened first, or under another name, or with the suffix in capitals, loads. The rule does not
# hold the other way: a file of safetensors under another name is refused as a broken pickle.
#
# Expected by an expert: torch.load tells files apart by what is in them (a zip, the legacy format, TorchScript), as it
# did for years, so that a name changes nothing; and what it cannot read ends in one of the errors of before.
#
# Source: torch/serialization.py, load: fspath.endswith(".safetensors"), before the file is opened.
# https://github.com/pytorch/pytorch
#
# Output seen: the lines under EXPECTED below.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.15.0 safetensors==0.8.0 numpy==2.4.6
cat > "$folder/show.py" <<'PYTHON'
import sys
from pathlib import Path

import safetensors.torch
import torch

folder = Path(sys.argv[1])
weights = {"weight": torch.ones(2)}
for name in ("saved.pt", "saved.safetensors", "saved.SAFETENSORS"):
    torch.save(weights, folder / name)
for name in ("tensors.safetensors", "tensors.pt"):
    safetensors.torch.save_file(weights, folder / name)


def show(what, source):
    try:
        print(f"{what}: {torch.load(source, weights_only=True)}")
    except Exception as error:
        known = isinstance(error, (RuntimeError, ValueError, EOFError)) or type(error).__name__ == "UnpicklingError"
        print(f"{what}: {type(error).__name__}, {'one of the errors of before' if known else 'a bare Exception'}")


for name in ("saved.pt", "saved.safetensors", "saved.SAFETENSORS", "tensors.safetensors", "tensors.pt"):
    show(name, folder / name)
with open(folder / "saved.safetensors", "rb") as file:
    show("saved.safetensors, opened", file)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder" > "$folder/seen"
cat > "$folder/EXPECTED" <<'TEXT'
saved.pt: {'weight': tensor([1., 1.])}
saved.safetensors: SafetensorError, a bare Exception
saved.SAFETENSORS: {'weight': tensor([1., 1.])}
tensors.safetensors: {'weight': tensor([1., 1.])}
tensors.pt: UnpicklingError, one of the errors of before
saved.safetensors, opened: {'weight': tensor([1., 1.])}
TEXT
cat "$folder/seen"
diff "$folder/EXPECTED" "$folder/seen"
