"""The report: one HTML file that holds the study, is sound as HTML, and works in a browser."""

import base64
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import jinja2
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.files import read_json, write_json
from common.stages import ARM_OF, CONTROLS, RIVALS, STAGES
from common.taxonomy import BIODIVERSITY, Taxonomy
from evaluation import aggregate_metrics, build_report, plot_predictions
from evaluation.report.render import render
from evaluation.scoring.results import METRICS, PREDICTIONS_INDEX
from tests.evaluation.browser import BROWSER, Browser
from tests.evaluation.report_parts import section
from tests.evaluation.test_report_map import AREAS
from tests.evaluation.test_report_map import made as made_map
from tests.helpers import made, quiet
from tests.synthetic_results import VAL, checkpoint_digest, write_result, write_study

GAINS = {stage.name: 0.3 * place for place, stage in enumerate(STAGES)}
SECTIONS = build_report.SECTIONS
LAPTOP = {"width": 1366, "height": 768}
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """What a report holds, and whether its elements are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.open, self.words, self.faults = [], [], [], []
        self.feed(text)
        self.close()
        self.faults += [f"{name} is never closed" for name in self.open]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at line {self.getpos()[0]} closes another element")

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def tile_of(name: str, rng, taxonomy: Taxonomy, width: int, height: int) -> SimpleNamespace:
    """A tile as plot_predictions sees it, with some pixels of each class."""
    mask = rng.integers(0, taxonomy.num_classes, (-(-height // 8), -(-width // 8)), dtype=np.uint8)
    mask = mask.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    image = rng.integers(0, 255, (3, height, width), dtype=np.uint8)
    pixels = np.bincount(mask.ravel(), minlength=taxonomy.num_classes)
    return SimpleNamespace(
        id=name,
        entry={"height": height, "width": width},
        block="r0_c0",
        pixels=pixels,
        read_mask=lambda: mask,
        read_image=lambda: image,
    )


def write_predictions(root, arms, *, taxonomy=BIODIVERSITY, width=96, height=80, tiles=2, **changes) -> None:
    """What plot_predictions leaves: each arm takes every class for the next one in another share of the pixels."""
    rng = np.random.default_rng(0)
    folder = root / VAL / "predictions"
    folder.mkdir(parents=True)
    drawn = [tile_of(f"tile_{number}", rng, taxonomy, width, height) for number in range(tiles)]
    found = []
    for place, arm in enumerate(arms):
        preds = []
        for tile in drawn:
            mask = np.maximum(tile.read_mask(), 1)
            wrong = np.arange(width) < width * (place + 1) / (len(arms) + 1)
            preds.append(np.where(wrong, mask % (taxonomy.num_classes - 1) + 1, mask).astype(np.uint8))
        found.append(plot_predictions.Predicted(ARM_OF[arm], checkpoint_digest(arm, 42), preds))
    facts = {
        "split": "val",
        "split_digest": "the same tiles",
        "seed": 42,
        "minority_classes": ["Settlement"],
        **changes,
    }
    plot_predictions.write_pictures(folder, drawn, found, taxonomy, facts)


def report_of(root, *flags) -> Page:
    """The report of a root, checked for what holds of every report."""
    quiet(build_report.main, "--root", root, *flags)
    text = (root / VAL / "report.html").read_text("utf-8")
    page = Page(text)
    assert page.faults == []
    assert dict(page.all("html")[0]) == {"lang": "en"}
    loaded = [a.get("src") or a.get("href") or "" for _, a in page.elements]
    assert [url for url in loaded if url and not url.startswith(("data:", "#"))] == []
    assert not re.search(r"https?:|url\(|@import", text)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for a in page.all("a")]
    assert set(links) <= set(ids) and set(SECTIONS) <= set(links) & set(ids)
    assert all(a.get("alt") for a in page.all("img"))
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))
    tables = len(page.all("table"))
    assert len(page.all("caption")) == tables
    assert all(a.get("scope") in ("col", "row", "colgroup") for a in page.all("th"))
    return page


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """A root with everything that a report can show, but made up."""
    root = shutil.copytree(prepared, tmp_path_factory.mktemp("whole") / "study")
    digest = read_json(made(root / "data" / "biodiversity_split" / "val" / "manifest.json"))["digest"]
    gains = GAINS | {arm.name: 0.2 for arm in (*CONTROLS, *RIVALS)}
    write_study(root, gains, (42, 43, 44), 12, split_digest=digest)
    quiet(aggregate_metrics.main, "--root", root)
    write_predictions(root, gains, split_digest=digest)
    write_test_result(root)
    (root / "evaluation/map").mkdir()
    made_map(root / "evaluation/map", AREAS)
    return root


def write_test_result(root) -> None:
    folder = root / VAL.parent / "test" / STAGES[-1].name / "seed42"
    folder.mkdir(parents=True)
    facts = read_json(made(root / VAL / STAGES[-1].name / "seed42" / METRICS))
    write_json(folder / METRICS, facts | {"split": "test", "which": "best"})
    use = {"time": "2030-01-02T03:04:05+00:00", "seed": 42, "checkpoint_digest": "a" * 64}
    use |= {"split_digest": "b" * 64, "reason": None}
    use |= {"metrics": {"mIoU": 0.5, "mF1": 0.6, "OA": 0.7}, "command": "python -m evaluation.compute_metrics"}
    (folder.parent.parent / "test_log.jsonl").write_text(json.dumps(use) + "\n", "utf-8")


def test_report_of_a_whole_study(whole):
    page = report_of(whole)
    for stage in STAGES:
        assert stage.title in page.text
    assert "ranks first" in page.text and "points of mIoU" in page.text and "p corrected" in page.text
    assert "To have it, run" not in page.text and "Before you read a number" not in page.text
    assert all(control.question in page.text for control in CONTROLS)
    assert all(rival.source in page.text for rival in RIVALS)
    assert "Check for leakage passed" in page.text
    assert "map.tif: 10 x 10 pixels" in page.text and "8.0 to 12.5" in page.text
    assert "2030-01-02 03:04:05 UTC" in page.text and "The test split was used once." in page.text
    assert len([a for a in page.all("input") if a["type"] == "radio" and a["name"] == "tile-1"]) == 2 + len(ARM_OF)
    assert {a["id"] for a in page.all("details") if "id" in a} == set(ARM_OF)


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path):
    write_study(tmp_path, {name: GAINS[name] for name in list(GAINS)[:2]}, (42,), 4)
    page = report_of(tmp_path)
    for module in (
        "evaluation.aggregate_metrics",
        "evaluation.plot_predictions",
        "evaluation.compute_metrics",
        "data_prep.split_biodiversity",
        "data_prep.analyze_class_distribution",
        "data_prep.check_leakage",
        "training.train_stage3_difficulty",
        "training.train_control_kd_uniform",
        "training.train_rival_focal",
    ):
        assert f"python -m {module} --root {tmp_path}" in page.text
    assert "not run" in page.text and "? no interval" in page.text
    assert "1 of 3 seeds" in page.text and "4 of 10 spatial blocks" in page.text


def test_nothing_to_report_names_the_command(tmp_path):
    with pytest.raises(UserError, match="python -m evaluation.compute_metrics"):
        build_report.main(["--root", str(tmp_path)])


def test_names_of_the_user_are_text_and_never_markup(tmp_path):
    names = ("Back<ground", "<b>", '"quoted" & more', "</section>", "<script>alert(1)</script>", "a'b")
    odd = Taxonomy(names, BIODIVERSITY.colors, {row: {names[1]: 1.0} for row in BIODIVERSITY.from_openearthmap})
    counts = np.random.default_rng(0).integers(1, 99, (4, 6, 6))
    for stage in STAGES[:2]:
        write_result(tmp_path, stage.name, 42, counts, taxonomy=odd, recipe={"tiles": "<i>", "loss": stage.name})
    write_predictions(tmp_path, [STAGES[0].name], taxonomy=odd, minority_classes=["<b>"])
    page = report_of(tmp_path)
    assert page.all("i") == []
    assert page.text.count("<script>alert(1)</script>") > 2 and "tiles: <i>" in page.text
    assert len(page.all("script")) == 1 and len(page.all("section")) == len(SECTIONS)


def test_a_template_escapes_its_values_and_must_be_given_all_of_them():
    entries = [{"time": "<b>", "checkpoint_digest": "&", "seed": 1, "metrics": {}, "reason": '"', "command": "'"}]
    args = SimpleNamespace(test_dir=made("results"))
    html = section("test", args=args, tested=[], test_log=entries)
    assert "&lt;b&gt;" in html and "&amp;" in html and "<b>" not in html
    with pytest.raises(jinja2.UndefinedError, match="test_log"):
        render("test.html.j2", args=args, tested=[])


def test_cautions_come_before_any_number(tmp_path):
    write_study(tmp_path, {name: GAINS[name] for name in list(GAINS)[:2]}, (42,), 4)
    write_predictions(tmp_path, list(GAINS)[:2])
    index = tmp_path / VAL / "predictions" / PREDICTIONS_INDEX
    old = read_json(made(index))
    old["arms"][1]["checkpoint_digest"] = "of an earlier training"
    write_json(index, old)
    leakage = {"passed": False, "findings": [{"text": "val and train share <2> tiles"}], "compared": [], "sets": {}}
    write_json(tmp_path / "artifacts" / "leakage.json", leakage)
    text = report_of(tmp_path).text
    start = text.index("Before you read a number")
    first = text.index("ranks first")
    assert start < text.index("predictions shown of 2 + Replication are of other checkpoints") < first
    assert start < text.index("check for leakage failed: val and train share <2> tiles") < first
    assert "Check for leakage failed" in text[first:]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (VAL / "predictions" / PREDICTIONS_INDEX, "{}"),
        ("artifacts/leakage.json", "[]"),
        ("artifacts/class_distribution.json", '{"classes": {}}'),
        ("data/biodiversity_split/val/manifest.json", "{"),
        (VAL.parent / "test/test_log.jsonl", "{}"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, path, content):
    write_study(tmp_path, {STAGES[0].name: 0.0}, (42,), 4)
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(content, "utf-8")
    with pytest.raises(UserError, match=str(path).rpartition("/")[2]):
        quiet(build_report.main, "--root", tmp_path)


def test_a_report_of_large_tiles_stays_small_enough_to_send(tmp_path):
    write_study(tmp_path, GAINS, (42,), 4)
    write_predictions(tmp_path, GAINS, width=512, height=512, tiles=6)
    report_of(tmp_path)
    assert (tmp_path / VAL / "report.html").stat().st_size < 6e6


@pytest.fixture
def browser(tmp_path):
    if BROWSER is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    browser = Browser(tmp_path / "profile")
    browser.call("Emulation.setDeviceMetricsOverride", **LAPTOP, deviceScaleFactor=1, mobile=False)
    yield browser
    browser.close()


SHOWN = (
    "[...document.querySelectorAll('{} .predictions .map')].filter((m) => m.offsetParent).map((m) => m.dataset.view)"
)


def test_report_works_in_a_browser(whole, browser):
    report_of(whole)
    browser.open(whole / VAL / "report.html")

    def shown(tile="#tile-1"):
        return browser.value(SHOWN.format(tile))

    first = STAGES[-1].name  # has the largest gain of all
    assert shown() == [first] and shown("#tile-2") == [first]
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    broken = "[...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
    assert browser.value(broken) == 0

    browser.mouse("#tile-1 [value=stage2_replication]", click=True)
    assert shown() == ["stage2_replication"] and shown("#tile-2") == [first]
    browser.press("ArrowDown")
    assert shown() == ["stage3_difficulty"]
    browser.mouse("#tile-1 [value=stage1_baseline]")
    assert shown() == ["stage1_baseline"], "a name shows its stage for as long as the pointer rests on it"
    browser.mouse("#tile-1 h3")
    assert shown() == ["stage3_difficulty"]
    browser.mouse("#tile-1 .reference [data-view=truth] .frame")
    assert shown() == ["truth"]
    browser.mouse("[name=all-tiles][value=control_kd_uniform]", click=True)
    assert shown() == shown("#tile-2") == ["control_kd_uniform"]
    browser.press("ArrowUp")
    assert shown() == shown("#tile-2") == ["control_kd_cycled"]
    browser.mouse("#tile-2 .predictions .shown .frame")
    said = browser.value("document.querySelector('#tile-2 .readout').textContent")
    assert re.fullmatch(r"Truth: (\w+) · control: 6, classes cycled: (\w+) · (right|wrong|not scored)", said)

    opened = "document.getElementById('stage1_baseline').open"
    browser.value("document.querySelector('#stage1_baseline summary').focus()")
    assert browser.value(opened) is False
    browser.press("Enter")
    assert browser.value(opened) is True

    picture = base64.b64decode(browser.call("Page.captureScreenshot", format="png")["data"])
    with Image.open(io.BytesIO(picture)) as shot:
        assert shot.format == "PNG" and shot.size == tuple(LAPTOP.values())
    assert browser.faults() == []


LAID_OVER = """(() => {
  const pixels = (source, width, height) => {
    const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(source, 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  };
  const shown = document.querySelector("#tile-1 .shown"), canvas = shown.querySelector("canvas");
  const truth = document.querySelector("#tile-1 .reference [data-view=truth] img");
  const size = [canvas.width, canvas.height], layer = pixels(canvas, ...size);
  const [is, says] = [truth, shown.querySelector("img")].map((image) => pixels(image, ...size));
  const ink = (data, i) => [...data.slice(i, i + 3)].join(), found = {};
  for (let i = 0; i < layer.length; i += 4) {
    const state = ink(is, i) === "VOID" ? "void" : ink(is, i) === ink(says, i) ? "right" : "wrong";
    const of = state + (ink(says, i) === "ONE" ? " one" : "");
    const look = layer[i + 3] === 255 ? ["black", "white"][Math.round(layer[i] / 255)] : layer[i + 3];
    (found[of] ||= {})[look] = (found[of][look] || 0) + 1;
  }
  return found;
})()"""


def test_errors_are_hatched_and_other_classes_pale_in_a_browser(whole, browser):
    report_of(whole)
    browser.open(whole / VAL / "report.html")
    ink = [",".join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5)) for color in BIODIVERSITY.colors]
    laid_over = LAID_OVER.replace("VOID", ink[0]).replace("ONE", ink[1])

    def looks() -> dict[str, set[str]]:
        found = browser.value(laid_over)
        if "wrong" in found and len(found["wrong"]) > 1:
            assert 0.2 < found["wrong"]["black"] / sum(found["wrong"].values()) < 0.4
        return {state: set(of) for state, of in found.items()}

    states = {"void", "void one", "right", "right one", "wrong", "wrong one"}
    assert looks() == dict.fromkeys(states, {"0"})
    browser.mouse("#hatch", click=True)
    hatched = {"black", "white", "0"}
    wanted = {"void": {"white"}, "right": {"175"}, "wrong": hatched}
    assert looks() == {state: wanted[state.split()[0]] for state in states}
    browser.mouse("#hatch", click=True)
    browser.mouse(f"[name=class][value='{BIODIVERSITY.colors[1]}']", click=True)
    assert looks() == {state: {"0"} if "one" in state else {"225"} for state in states}
    browser.mouse("[name=class][value='']", click=True)
    assert looks() == dict.fromkeys(states, {"0"}) and browser.faults() == []


def test_tables_sort_and_figures_zoom_in_a_browser(whole, browser):
    report_of(whole)
    browser.open(whole / VAL / "report.html")
    table = "[...document.querySelectorAll('#components table')].find((t) => t.caption.textContent.includes('by rank'))"
    browser.value(f"{table}.id = 'ranking'")

    def column(n: int) -> list[str]:
        return browser.value(f"[...{table}.tBodies[0].rows].map((row) => row.cells[{n}].firstChild.textContent.trim())")

    def order(n: int) -> str | None:
        return browser.value(f"{table}.tHead.rows[0].cells[{n}].getAttribute('aria-sort')")

    ranked, scores = column(0), column(3)
    assert scores == sorted(scores, key=float, reverse=True) and order(3) is None
    browser.mouse("#ranking th:nth-child(4) button", click=True)
    assert column(3) == scores and order(3) == "descending"
    browser.press("Enter")
    assert column(3) == scores[::-1] and order(3) == "ascending"
    browser.mouse("#ranking th:nth-child(1) button", click=True)
    assert column(0) == sorted(ranked) and order(0) == "ascending" and order(3) is None

    browser.mouse("#components .enlarge", click=True)
    assert browser.value("document.querySelector('.zoom').open")
    width = "document.querySelector('{}').getBoundingClientRect().width"
    small, large = (browser.value(width.format(one)) for one in ("#components .enlarge img", ".zoom img"))
    assert large > 1.2 * small
    browser.press("Escape")
    assert not browser.value("document.querySelector('.zoom').open")
    assert browser.faults() == []


@pytest.mark.parametrize("width", [390, 768, 1366])
def test_nothing_is_wider_than_the_screen(whole, browser, width):
    report_of(whole)
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=768, deviceScaleFactor=1, mobile=False)
    browser.open(whole / VAL / "report.html")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    browser.value("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")


def test_report_can_be_printed_and_works_without_its_script(whole, browser):
    report_of(whole)
    browser.open(whole / VAL / "report.html")
    browser.call("Emulation.setEmulatedMedia", media="print")
    everything = 1 + 1 + len(ARM_OF)
    seen = "[...document.querySelectorAll('#tile-1 .map')].filter((map) => map.offsetParent).length"
    assert browser.value(seen) == everything
    document = base64.b64decode(browser.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])
    assert document.startswith(b"%PDF-") and len(re.findall(rb"/Type\s*/Page\b", document)) > 5

    browser.call("Emulation.setEmulatedMedia", media="screen")
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.events.clear()
    browser.open(whole / VAL / "report.html")
    assert browser.value(seen) == everything
    assert browser.faults() == []


def test_report_needs_no_torch():
    check = "import sys, evaluation.build_report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
