"""Names and colours of the classes, in the forms in which GIS programs look for them beside and in a map.

A map is a GeoTIFF of class ids. Its colour table and tags lie in the file; class names have no place there, so that
GDAL and QGIS read them from two small files beside it.
"""

import xml.etree.ElementTree as ET
from pathlib import Path

from common.taxonomy import IGNORE_INDEX, Taxonomy

QGIS_DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
QGIS_VERSION = "3.22.0"  # older forms of a style are read by every later version
# GDAL's codes for the type and the use of a column (GDALRATFieldType, GDALRATFieldUsage in gdal.h).
INTEGER, STRING = "0", "2"
COLUMNS = (
    ("Value", INTEGER, "5"),
    ("Class_Name", STRING, "2"),
    ("Red", INTEGER, "6"),
    ("Green", INTEGER, "7"),
    ("Blue", INTEGER, "8"),
)


def colormap(taxonomy: Taxonomy) -> dict[int, tuple[int, int, int, int]]:
    """Red, green, blue and opacity (0 to 255) of each class id, for rasterio's ``write_colormap``; void is clear."""
    return {
        label: (red, green, blue, 0 if label == IGNORE_INDEX else 255)
        for label, (red, green, blue) in enumerate(taxonomy.rgb().tolist())
    }


def map_tags(taxonomy: Taxonomy) -> dict[str, str]:
    """The name of each class as a tag of the map itself (``CLASS_1``: Forest), for rasterio's ``update_tags``.

    They stay with a map whose sidecars are lost.
    """
    return {f"CLASS_{label}": name for label, name in enumerate(taxonomy.classes)}


def legend_files(taxonomy: Taxonomy, map_name: str) -> dict[str, str]:
    """The files that give a map its legend in GIS programs: their names and contents.

    QGIS reads the first by itself when it opens the map. GDAL, and what builds on it, reads the second.

    Args:
        map_name: the file name of the map, beside which both must lie: ``map.tif``.
    """
    return {Path(map_name).with_suffix(".qml").name: map_style(taxonomy), f"{map_name}.aux.xml": sidecar(taxonomy)}


def sidecar(taxonomy: Taxonomy) -> str:
    """Category names and a raster attribute table (value, name, colour) for band 1, as GDAL's .aux.xml.

    It holds nothing else: metadata in it would stand before the tags of the map.
    """
    dataset = ET.Element("PAMDataset")
    band = ET.SubElement(dataset, "PAMRasterBand", band="1")
    categories = ET.SubElement(band, "CategoryNames")
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(COLUMNS):
        column = ET.SubElement(table, "FieldDefn", index=str(index))
        for tag, text in (("Name", name), ("Type", kind), ("Usage", usage)):
            ET.SubElement(column, tag).text = text
    for label, (name, color) in enumerate(zip(taxonomy.classes, taxonomy.rgb().tolist(), strict=True)):
        ET.SubElement(categories, "Category").text = name
        row = ET.SubElement(table, "Row", index=str(label))
        for value in (label, name, *color):
            ET.SubElement(row, "F").text = str(value)
    return _text(dataset)


def map_style(taxonomy: Taxonomy) -> str:
    """A QGIS style (.qml) that gives each class of a map its colour and its name. Void has no entry: it is no data."""
    style = ET.Element("qgis", version=QGIS_VERSION, styleCategories="Symbology")
    pipe = ET.SubElement(style, "pipe")
    renderer = ET.SubElement(pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1")
    palette = ET.SubElement(renderer, "colorPalette")
    for label, name, color in _foreground(taxonomy):
        ET.SubElement(palette, "paletteEntry", value=str(label), label=name, color=color, alpha="255")
    return QGIS_DOCTYPE + _text(style)


def polygon_style(taxonomy: Taxonomy, column: str) -> str:
    """A QGIS style that fills polygons with the colour of the class whose id stands in ``column``."""
    style = ET.Element("qgis", version=QGIS_VERSION, styleCategories="Symbology")
    renderer = ET.SubElement(style, "renderer-v2", type="categorizedSymbol", attr=column, enableorderby="0")
    categories, symbols = ET.SubElement(renderer, "categories"), ET.SubElement(renderer, "symbols")
    for index, (label, name, color) in enumerate(_foreground(taxonomy)):
        ET.SubElement(categories, "category", value=str(label), symbol=str(index), label=name, render="true")
        symbol = ET.SubElement(symbols, "symbol", type="fill", name=str(index), alpha="1", force_rhr="0")
        fill = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
        red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
        for key, value in (("color", f"{red},{green},{blue},255"), ("style", "solid"), ("outline_style", "no")):
            ET.SubElement(fill, "prop", k=key, v=value)
    return QGIS_DOCTYPE + _text(style)


def _foreground(taxonomy: Taxonomy) -> list[tuple[int, str, str]]:
    return [(taxonomy.index(name), name, taxonomy.colors[taxonomy.index(name)]) for name in taxonomy.foreground]


def _text(element: ET.Element) -> str:
    ET.indent(element)
    return ET.tostring(element, encoding="unicode") + "\n"
