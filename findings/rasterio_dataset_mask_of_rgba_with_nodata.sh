#!/usr/bin/env bash
# rasterio 1.4.4 (GDAL 3.10 in its wheel), numpy 2.4.6.
#
# Behaviour: for a GeoTIFF with red, green, blue and alpha for which a nodata value is declared, dataset_mask() compares
# the alpha band with the nodata value. With nodata 255 the mask is upside down: opaque pixels are masked and
# transparent ones are valid. With nodata 0, or none, it is what one expects. read_masks(1) never looks at alpha once
# nodata is declared.
#
# Expected by an expert: where alpha is 0 a pixel is masked, whatever nodata says of the colours. The method's own
# documentation says so: of four bands with a nodata value that shadows alpha, "band 4 will be used as the dataset mask".
#
# Source: rasterio/_io.pyx, DatasetReaderBase.dataset_mask: it returns read_masks(4), which is band 4 compared with nodata,
# and not read(4). https://github.com/rasterio/rasterio
#
# Output seen: the lines under EXPECTED below.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check rasterio==1.4.4 numpy==2.4.6
cat > "$folder/show.py" <<'PYTHON'
import sys
import warnings

import numpy as np
import rasterio

warnings.simplefilter("ignore")  # neither a place on earth nor the shadowed alpha band matters here
pixels = np.array([[[10, 10, 0]], [[20, 20, 0]], [[30, 30, 0]], [[255, 0, 255]]], np.uint8)
print("pixels: coloured and opaque, coloured and transparent, black and opaque")
for nodata in (None, 0, 255):
    path = f"{sys.argv[1]}/{nodata}.tif"
    profile = {"driver": "GTiff", "count": 4, "height": 1, "width": 3, "dtype": "uint8", "nodata": nodata}
    with rasterio.open(path, "w", photometric="RGB", alpha="YES", **profile) as dst:
        dst.write(pixels)
    with rasterio.open(path) as src:
        print(f"nodata {nodata}: dataset_mask {src.dataset_mask()[0].tolist()}, band 1 {src.read_masks(1)[0].tolist()}")
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder" > "$folder/seen"
cat > "$folder/EXPECTED" <<'TEXT'
pixels: coloured and opaque, coloured and transparent, black and opaque
nodata None: dataset_mask [255, 0, 255], band 1 [255, 0, 255]
nodata 0: dataset_mask [255, 0, 255], band 1 [255, 255, 0]
nodata 255: dataset_mask [0, 255, 0], band 1 [255, 255, 255]
TEXT
cat "$folder/seen"
diff "$folder/EXPECTED" "$folder/seen"
