"use strict";
const NEAR = "800px";
for (const section of document.querySelectorAll(".run")) {
  const data = JSON.parse(section.querySelector(".data").textContent);
  const slider = section.querySelector(".step"), shown = section.querySelector("output");
  const rows = section.querySelector(".rows"), cells = section.querySelector(".cells");
  const size = data.side * data.zoom, key = "run" + section.dataset.run;
  const last = [...rows.querySelectorAll(".block img")].map(image => image.src);
  const earlier = [...section.querySelectorAll(".earlier")].map(script => script.textContent);
  const sources = data.steps.map((_, i) => i + 1 < data.steps.length
    ? earlier.slice(i * last.length, (i + 1) * last.length) : last);
  const place = [];  // of a class: its block, its row in that block
  data.blocks.forEach((block, b) => block.forEach((label, row) => { place[label] = [b, row]; }));
  const sheets = data.blocks.map(() => document.head.appendChild(document.createElement("style")));
  const seen = new Set();
  const lines = [], tiles = [];
  let listed = data.blocks.flat(), chosen = null;

  function paint(b) {
    seen.add(b);
    sheets[b].textContent = `.${key}-b${b}{background-image:url(${sources[slider.value][b]});` +
      `background-size:${data.columns * size}px ${data.blocks[b].length * size}px}`;
  }
  function fill(label) {
    if (tiles[label]) return;
    const [b, row] = place[label], group = lines[label].lastChild;
    if (!seen.has(b)) paint(b);
    tiles[label] = [];
    for (let column = 0; column < data.counts[label]; column++) {
      const tile = document.createElement("button");
      tile.type = "button"; tile.className = `tile ${key}-b${b}`;
      tile.setAttribute("aria-label", data.names[label] + ", image " + (column + 1));
      tile.setAttribute("aria-pressed", "false");
      tile.tabIndex = chosen || column || label !== listed[0] ? -1 : 0;
      tile.style.cssText = `width:${size}px;height:${size}px;flex:none;background-position:${-column * size}px ${-row * size}px`;
      tile.addEventListener("click", () => choose(label, column));
      tile.addEventListener("mouseenter", () => choose(label, column));
      tile.addEventListener("keydown", event => move(event, label, column));
      group.append(tile); tiles[label].push(tile);
    }
  }
  const near = new IntersectionObserver(entries => entries.forEach(entry => {
    if (entry.isIntersecting) { fill(+entry.target.dataset.label); near.unobserve(entry.target); }
  }), { root: data.many ? rows : null, rootMargin: NEAR });
  function percent(value) { return value === null || value === undefined ? "–" : value.toFixed(1) + " %"; }
  function part(kind, className, text) {
    const made = document.createElement(kind);
    made.className = className; made.textContent = text;
    return made;
  }
  listed.forEach(label => {
    const line = part("div", "row", ""), name = part("span", "name", data.names[label]), group = part("div", "tiles", "");
    name.dir = "auto"; name.title = data.names[label]; line.dataset.label = label; group.style.minHeight = size + "px";
    line.append(name);
    if (data.many && data.accuracies.length) line.append(part("span", "percent", percent(data.accuracies[label])));
    line.append(group); lines[label] = line;
  });

  const search = section.querySelector(".search"), order = section.querySelector(".order");
  const grouped = section.querySelector(".grouped"), found = section.querySelector(".found");
  const plain = text => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const texts = data.names.map((name, label) => plain(name + "\n" + (data.groups[label] || "")));  // a field is one line
  const means = new Map();
  data.groups.forEach((group, label) => {
    const one = means.get(group) || means.set(group, { sum: 0, known: 0, first: label }).get(group);
    if (data.accuracies.length && data.accuracies[label] !== null) { one.sum += data.accuracies[label]; one.known++; }
  });
  const mean = group => means.get(group).known ? means.get(group).sum / means.get(group).known : null;
  const byName = new Intl.Collator(undefined, { numeric: true });
  const known = value => value === null || value === undefined;
  function compare(kind, a, b) {  // a, b: accuracy, name, number
    if (kind === "name") return byName.compare(a[1], b[1]) || a[2] - b[2];
    if (kind === "number" || known(a[0]) !== known(b[0])) return kind === "number" ? a[2] - b[2] : known(a[0]) - known(b[0]);
    return (kind === "best" ? b[0] - a[0] : a[0] - b[0]) || a[2] - b[2];
  }
  function arrange() {
    const kind = order ? order.value : "number", together = grouped && grouped.checked;
    const wanted = search ? plain(search.value).trim() : "";
    listed = data.names.map((_, label) => label).filter(label => texts[label].includes(wanted));
    const own = label => [data.accuracies[label], data.names[label], label];
    const whole = label => [mean(data.groups[label]), data.groups[label], means.get(data.groups[label]).first];
    listed.sort((a, b) => (together && compare(kind, whole(a), whole(b))) || compare(kind, own(a), own(b)));
    const made = document.createDocumentFragment();
    let before = null;
    for (const label of listed) {
      const group = data.groups[label];
      if (together && group !== before) {
        const title = part("h3", "group", group);
        title.dir = "auto"; title.append(part("span", "soft", data.accuracies.length ? ", mean " + percent(mean(group)) : ""));
        made.append(title);
        before = group;
      }
      made.append(lines[label]);
    }
    rows.replaceChildren(made);
    rows.scrollTop = 0;
    if (found) found.textContent = wanted ? `${listed.length} of ${data.names.length}` : "";
    listed.filter(label => !tiles[label]).forEach(label => near.observe(lines[label]));
  }

  const pictures = new Map();
  function picture(step, b) {
    const name = step + " " + b;
    if (!pictures.has(name)) {
      const image = new Image();
      image.src = sources[step][b];
      pictures.set(name, image.decode().then(() => image, () => image));
    }
    return pictures.get(name);
  }
  function cut(canvas, picture, x, y, width, height, target, smooth) {
    canvas.width = canvas.height = target;
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = smooth;
    pen.drawImage(picture, x, y, width, height, 0, 0, target, target);
  }
  function choose(label, column) {
    fill(label);
    if (chosen) { const old = tiles[chosen[0]][chosen[1]]; old.setAttribute("aria-pressed", "false"); old.tabIndex = -1; }
    chosen = [label, column];
    tiles[label][column].setAttribute("aria-pressed", "true"); tiles[label][column].tabIndex = 0;
    return detail();
  }
  async function detail() {
    if (!chosen) return;
    const asked = chosen, step = slider.value, [label, column] = chosen, [b, row] = place[label];
    section.querySelector(".which").textContent = data.names[label] + ", image " + (column + 1);
    const [now, start] = await Promise.all([picture(step, b), picture(0, b)]);
    if (asked !== chosen || step !== slider.value) return;
    const side = data.side, target = Math.max(side, 128), factor = data.factor, cell = Math.ceil(side / factor);
    cut(section.querySelector(".now"), now, column * side, row * side, side, side, target, false);
    cut(section.querySelector(".start"), start, column * side, row * side, side, side, target, false);
    section.querySelector(".decoded").hidden = factor === 1;
    cells.replaceChildren();
    if (factor === 1) return;
    cells.style.gridTemplateColumns = `repeat(${factor}, 1fr)`;
    for (let i = 0; i < factor * factor; i++) {
      const canvas = document.createElement("canvas"), x = (i % factor) * cell, y = Math.floor(i / factor) * cell;
      cut(canvas, now, column * side + x, row * side + y, Math.min(cell, side - x), Math.min(cell, side - y), 96, true);
      cells.append(canvas);
    }
  }
  function move(event, label, column) {
    const to = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!to) return;
    event.preventDefault();
    const there = listed[Math.min(Math.max(listed.indexOf(label) + to[0], 0), listed.length - 1)];
    const c = Math.min(Math.max(column + to[1], 0), data.counts[there] - 1);
    choose(there, c); tiles[there][c].focus();
  }
  function show() {
    seen.forEach(paint);
    const step = data.steps[slider.value];
    shown.textContent = step === 0 ? "start" : "after step " + step;
    detail();
  }
  slider.addEventListener("input", show);
  for (const control of [search, order, grouped]) control && control.addEventListener("input", arrange);
  arrange();
  listed.slice(0, 10).forEach(fill);
  if (data.steps.length < 2) section.querySelector(".start").parentElement.hidden = true;
  show();
  choose(listed[0], 0).then(() => { section.dataset.ready = "yes"; });
}
