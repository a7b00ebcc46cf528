"use strict";
document.documentElement.classList.add("js");
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (name, properties) => Object.assign(document.createElement(name), properties);

// Tables: a click on the head of a column sorts the rows by it, another click the other way round.
for (const table of all("table")) {
  const [body] = table.tBodies;
  const heads = body.rows.length > 1 ? all("thead tr:last-child th", table) : [];
  for (const [column, head] of heads.entries()) {
    const words = column === 0 || head.classList.contains("text");
    const text = (row) => row.cells[column].textContent.trim();
    const number = (row) => parseFloat(text(row).replace(/[,<+\s]/g, "").replace("\u2212", "-"));
    const collate = (a, b) => text(a).localeCompare(text(b), "en", { numeric: true });
    const compare = (a, b) => words ? collate(a, b) : number(a) - number(b);
    const button = make("button", { type: "button", className: "sort", title: "Sort by this column" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const [first, other] = words ? ["ascending", "descending"] : ["descending", "ascending"];
      const order = head.getAttribute("aria-sort") === first ? other : first, sign = order === "ascending" ? 1 : -1;
      for (const one of heads) one.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const isKnown = (row) => words || !Number.isNaN(number(row));  // others stay at the end
      const known = [...body.rows].filter(isKnown).sort((a, b) => sign * compare(a, b));
      body.prepend(...known);
    });
  }
}

// Figures: a click shows one at the size of its pixels.
const zoom = document.querySelector(".zoom"), close = zoom.firstElementChild;
zoom.addEventListener("click", () => zoom.close());
for (const image of all("figure > img")) {
  const button = make("button", { type: "button", className: "enlarge", title: "Enlarge" });
  image.replaceWith(button);
  button.append(image);
  button.addEventListener("click", () => {
    zoom.replaceChildren(close, make("img", { src: image.src, alt: image.alt }));
    zoom.showModal();
  });
}

// Predictions: what the large views show, which class, which errors, and the class below the pointer.
const panels = document.getElementById("predictions"), tiles = all(".tile", panels);
const everywhere = all("[name=all-tiles]", panels);
const inkOf = (color) => parseInt(color.slice(1), 16);
const classes = all("[data-name]", panels).map(({ dataset: { name, color } }) => ({ name, ink: inkOf(color) }));
const namesOf = (ink) => classes.filter((one) => one.ink === ink).map((one) => one.name).join(" or ");
const inks = new Map();  // image: its size, and the ink of each of its pixels, 0xrrggbb

function inksOf(image) {
  if (!inks.has(image)) {
    const { naturalWidth: width, naturalHeight: height } = image;
    const context = make("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    const ink = (i) => 0x10000 * data[i] + 0x100 * data[i + 1] + data[i + 2];
    inks.set(image, { width, height, at: (x, y) => ink(4 * (y * width + x)) });
  }
  return inks.get(image);
}

// Lay over a view: pale where the chosen class is not; with errors, pale where it is right, hatched where it is wrong.
function veil(map, truthImage, unlabelled) {
  const chosen = panels.querySelector("[name=class]:checked").value, hatched = panels.querySelector("#hatch").checked;
  const truth = inksOf(truthImage), own = map.dataset.view === "image" ? truth : inksOf(map.querySelector("img"));
  const filter = chosen ? inkOf(chosen) : null;
  const fine = Math.max(1, Math.ceil(500 / Math.max(truth.width, truth.height)));
  const canvas = map.querySelector("canvas") || map.querySelector(".frame").appendChild(make("canvas", {}));
  canvas.width = fine * truth.width;
  canvas.height = fine * truth.height;
  if (filter === null && !hatched) return;
  const context = canvas.getContext("2d"), layer = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(layer.data.buffer);
  const step = Math.max(1, Math.floor(Math.max(canvas.width, canvas.height) / 500));
  for (let y = 0, i = 0; y < canvas.height; y++) {
    for (let x = 0; x < canvas.width; x++, i++) {
      const column = Math.floor(x / fine), row = Math.floor(y / fine);
      const mine = own.at(column, row), right = truth.at(column, row), phase = Math.floor((x + y) / step) % 12;
      const counts = filter === null || mine === filter || (hatched && right === filter);
      let [ink, alpha] = [255, counts ? 0 : 225];
      if (hatched && counts && map.dataset.arm) {
        if (right === unlabelled) alpha = 255;
        else if (right === mine) alpha = 175;
        else [ink, alpha] = phase < 3 ? [0, 255] : phase < 5 ? [255, 255] : [255, 0];
      }
      pixels[i] = 0x1000000 * alpha + 0x10101 * ink;  // alpha, blue, green, red
    }
  }
  context.putImageData(layer, 0, 0);
}

for (const tile of tiles) {
  const [stack, readout] = [".predictions", ".readout"].map((part) => tile.querySelector(part));
  const hint = readout.textContent;
  const radios = all(".choice input", tile);
  for (const map of all(".reference .map", tile)) stack.append(map.cloneNode(true));
  const unlabelled = inkOf(stack.dataset.void);
  const truth = stack.querySelector("[data-view=truth] img"), frames = all(".frame", tile);
  const crosses = frames.map((frame) => frame.appendChild(make("span", { className: "cross", hidden: true })));
  const chosen = () => radios.find((radio) => radio.checked).value;
  const ofView = (view) => all(".map", stack).find((map) => map.dataset.view === view);

  tile.show = (view) => {
    const shown = ofView(view) || ofView(chosen());
    for (const map of all(".map", stack)) map.classList.toggle("shown", map === shown);
    for (const map of [shown, ...all(".reference .map", tile)]) veil(map, truth, unlabelled);
  };
  tile.choose = (view) => {
    for (const radio of radios) radio.checked = radio.value === view || (radio.checked && !ofView(view));
    tile.show();
  };
  for (const radio of radios) {
    radio.addEventListener("change", () => { tile.show(); agree(); });
    radio.closest("label").addEventListener("mouseenter", () => tile.show(radio.value));
    radio.closest("label").addEventListener("mouseleave", () => tile.show());
  }
  for (const frame of frames) {
    const thumb = frame.closest(".reference .map");
    const point = (event) => {
      const box = frame.getBoundingClientRect();
      const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
      for (const cross of crosses) {
        cross.hidden = cross.parentNode === frame;
        Object.assign(cross.style, { left: 100 * x + "%", top: 100 * y + "%" });
      }
      const map = ofView(chosen());
      const inkIn = (image) => {
        const { width, height, at } = inksOf(image);
        return at(Math.floor(x * width), Math.floor(y * height));
      };
      const [is, says] = [inkIn(truth), inkIn(map.querySelector("img"))];
      const verdict = is === unlabelled ? "not scored" : is === says ? "right" : "wrong";
      const ofArm = map.dataset.arm ? ` \u00b7 ${map.dataset.arm}: ${namesOf(says)} \u00b7 ${verdict}` : "";
      readout.textContent = `Truth: ${namesOf(is)}${ofArm}`;
    };
    frame.addEventListener("mousemove", point);
    frame.addEventListener("mouseenter", (event) => {
      if (thumb) tile.show(thumb.dataset.view);
      point(event);  // the view below the pointer may have changed without a move
    });
    frame.addEventListener("mouseleave", () => {
      for (const cross of crosses) cross.hidden = true;
      readout.textContent = hint;
      tile.show();
    });
  }
}
function agree() {  // the control of all tiles shows a view if every tile has it
  const views = new Set(tiles.map((tile) => tile.querySelector(".choice :checked").value));
  for (const radio of everywhere) radio.checked = views.size === 1 && views.has(radio.value);
}
for (const radio of everywhere) {
  const [on, off] = [() => tiles.forEach((tile) => tile.show(radio.value)), () => tiles.forEach((tile) => tile.show())];
  radio.addEventListener("change", () => tiles.forEach((tile) => tile.choose(radio.value)));
  radio.closest("label").addEventListener("mouseenter", on);
  radio.closest("label").addEventListener("mouseleave", off);
}
for (const filter of all("[name=class], #hatch", panels)) {
  filter.addEventListener("change", () => tiles.forEach((tile) => tile.show()));
}
addEventListener("load", () => tiles.forEach((tile) => tile.show()));

// Folds: on paper all are open but those inside others, on the screen one that a link leads to.
let opened = [];
addEventListener("beforeprint", () => {
  opened = all("section > details:not([open])");
  for (const fold of opened) fold.open = true;
});
addEventListener("afterprint", () => opened.forEach((fold) => { fold.open = false; }));
const unfold = (hash) => all("details").forEach((fold) => { fold.open ||= "#" + fold.id === hash; });
for (const link of all("a[href^='#']")) link.addEventListener("click", () => unfold(link.hash));
unfold(location.hash);
for (const box of all(".scroll")) if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;  // arrow keys scroll it
