// The front: quality against a price, each mark a row at a precision.

const SHAPES = [
  (r) => drawn("circle", { r }),
  (r) => drawn("rect", { x: -r, y: -r, width: 2 * r, height: 2 * r }),
  (r) => drawn("path", { d: `M0 ${-r * 1.3}L${r * 1.2} ${r}L${-r * 1.2} ${r}Z` }),
  (r) => drawn("path", { d: `M0 ${-r * 1.4}L${r * 1.4} 0L0 ${r * 1.4}L${-r * 1.4} 0Z` }),
  (r) => drawn("path", { d: `M0 ${r * 1.3}L${r * 1.2} ${-r}L${-r * 1.2} ${-r}Z` }),
  (r) => drawn("path", { d: `M${-r} ${-r}L${r} ${r}M${-r} ${r}L${r} ${-r}` }),
  (r) => drawn("path", { d: `M0 ${-r * 1.3}L0 ${r * 1.3}M${-r * 1.3} 0L${r * 1.3} 0` }),
];
const FAMILIES = [...new Set(DATA.rows.map((row) => row.family))].sort((a, b) => (b === "Dense") - (a === "Dense") || (a < b ? -1 : 1));
const RADIUS = 5;
const APART = 11; // centres of marks that can be told apart, in pixels
const MOST = 60;
const MUCH = 8; // of dense's bytes: what takes more presses all others together

function shape(family, r = RADIUS) {
  const mark = SHAPES[FAMILIES.indexOf(family) % SHAPES.length](r);
  mark.setAttribute("class", "shape");
  return mark;
}

const colour = (family) => `c${FAMILIES.indexOf(family) % 7}`;

/** What can stand on the axes: a value of a point (with its row), and its unit. */
const AXES = {
  bytes: { title: "Bytes of the tables", unit: "B", of: (p) => p.bytes },
  share: { title: "Bytes, of dense", unit: "share", of: (p) => p.share },
  ...Object.fromEntries(DATA.costs.map((cost) => [
    cost.key,
    { title: cost.title, unit: cost.unit, trained: true, of: (p) => (p.trained ? p.row.costs[cost.key] : undefined) },
  ])),
};

/** What can stand upwards; the change is against dense of the same seeds, so that rows of other seeds can stand beside. */
const QUALITIES = [
  {
    label: `${DATA.quality[0].label}, vs dense`, of: (p) => (p.lost === undefined ? undefined : 1 + p.lost),
    show: (value) => shown(value - 1, "change"), tick: (value) => (Math.abs(value - 1) < 1e-9 ? "dense" : shown(value - 1, "change").replace(".0%", "%")),
  },
  ...DATA.quality.map((metric, n) => ({
    label: metric.label, of: (p) => p.quality[n], show: (value) => shown(value, "quality"), tick: (value) => shown(value, "quality").replace(/0$/, ""),
  })),
].filter((quality) => POINTS.some((p) => quality.of(p) !== undefined));

/** Which points no other beats: none is as cheap and as good, and better in one. */
function frontOf(points, x, y) {
  const known = points.filter((p) => x(p) !== undefined && y(p) !== undefined);
  const sorted = [...known].sort((a, b) => x(a) - x(b) || y(b) - y(a));
  const found = new Set();
  let best = -Infinity, at = null;
  for (const point of sorted) {
    if (y(point) > best || (y(point) === best && x(point) === at)) {
      found.add(point);
      best = y(point);
      at = x(point);
    }
  }
  return found;
}

/** Round numbers in the unit that they are shown in: MiB, minutes. */
function unitOf(axis, high) {
  const sizes = { B: [2 ** 30, 2 ** 20, 2 ** 10], s: [3600, 60] }[axis.unit] || [];
  return sizes.find((size) => high >= 1.67 * size) || 1;
}

function ticks(low, high, log) {
  if (log) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const digit of [1, 2, 5]) found.push(digit * 10 ** power);
    }
    const kept = found.filter((value) => value >= low && value <= high);
    return kept.length > 7 ? kept.filter((value) => /^1/.test(value.toExponential())) : kept;
  }
  const raw = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((digit) => digit * unit).find((size) => size >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

/** Powers of two for bytes, so that ticks are round in MiB. */
function byteTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log2(low)); power <= Math.ceil(Math.log2(high)); power++) found.push(2 ** power);
  const kept = found.filter((value) => value >= low && value <= high);
  return kept.length > 7 ? kept.filter((_, place) => place % 2 === 0) : kept;
}

/** Draw the points; `open` is called with one whose row is wanted. */
function drawChart(points, xKey, yIndex, open) {
  const axis = AXES[xKey];
  const x = axis.of;
  const quality = QUALITIES.slice(yIndex).find(({ of }) => points.some((p) => of(p) !== undefined)) || QUALITIES[yIndex];
  const y = quality.of;
  const known = points.filter((p) => x(p) > 0 && y(p) !== undefined);
  const front = frontOf(known, x, y);
  const chart = $("chart");
  const width = Math.max(280, chart.clientWidth || 800);
  const narrow = width < 600; // a phone: names of the front find no room but above it
  const height = narrow ? 390 : 400;
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chart.setAttribute("height", height);
  chart.replaceChildren();
  tell(null);
  drawLegend([]);
  if (!known.length) {
    chart.append(drawn("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "Nothing that is shown has both numbers."));
    $("chart-note").textContent = "";
    return front;
  }
  const ownRows = known.filter((p) => p.row.family !== "Reference"); // a far better reference must not empty the picture
  const best = Math.max(...(ownRows.length ? ownRows : known).map(y));
  const small = (p) => xKey !== "bytes" && xKey !== "share" || !(p.share > MUCH);
  const worth = known.filter((p) => y(p) >= DATA.worth * best && (front.has(p) || small(p)));
  const box = { left: 52, right: width - 16, top: narrow ? 76 : 16, bottom: height - 42 };
  const [xLow, xHigh] = widened(worth.map(x), axis.unit !== "share" || spans(worth.map(x)));
  const log = axis.unit !== "share" || spans(worth.map(x));
  const to = log ? Math.log : (value) => value;
  const first = (p) => front.has(p) || (p.trained && ["Dense", "Reference"].includes(p.row.family));
  const ordered = [...worth].sort((a, b) => front.has(b) - front.has(a) || first(b) - first(a) || y(b) - y(a) || x(a) - x(b));
  let marks = [], place, yRange = widened(worth.map(y), false);
  for (let look = 0; look < 2; look++) { // again with the height for those that are drawn
    const [yLow, yHigh] = yRange;
    place = (p) => [
      box.left + ((to(x(p)) - to(xLow)) / (to(xHigh) - to(xLow))) * (box.right - box.left),
      box.bottom - ((y(p) - yLow) / (yHigh - yLow)) * (box.bottom - box.top),
    ];
    marks = [];
    for (const point of ordered) {
      const [left, top] = place(point);
      const free = top <= box.bottom && marks.every((mark) => Math.hypot(mark.left - left, mark.top - top) >= APART);
      if (free && marks.length < MOST) marks.push({ point, left, top, on: front.has(point) });
    }
    if (look === 0) yRange = widened(marks.map((mark) => y(mark.point)), false);
  }
  drawAxes(chart, box, axis, [xLow, xHigh, log, to], yRange, quality);
  const line = worth.filter((p) => front.has(p)).sort((a, b) => x(a) - x(b)).map(place);
  chart.append(drawn("path", { class: "front", d: `M${line.map((spot) => spot.join(" ")).join("L")}` }));
  marks.sort((a, b) => a.left - b.left);
  const labels = drawn("g", { "aria-hidden": "true" });
  chart.append(labels);
  drawMarks(chart, marks, (point) => describe(point, axis, quality, front.has(point)), open);
  drawLegend(marks.map((mark) => mark.point));
  drawLabels(labels, marks, [...along(line).map(around), ...[...chart.querySelectorAll(".tick")].map(boxOf)], box, width);
  const hidden = known.length - marks.length;
  const missing = points.length - known.length;
  $("chart-note").textContent = [
    "Filled and joined: on the front, nothing shown is as cheap and as good. Arrow keys go from mark to mark.",
    hidden ? `${hidden} more are in the table only: they would lie on others, come to less than ${100 * DATA.worth} % of the best, or take more than ${MUCH} times dense's bytes.` : "",
    axis.trained ? "Of each row the model as trained: rounding it afterwards costs no training, and its serving was not timed." : "",
    axis.unit === "s" ? "Times are of the machine and of what else ran on it." : "",
    missing && !axis.trained ? `${missing} rows lack one of the two numbers.` : "",
  ].filter(Boolean).join(" ");
  return front;
}

const spans = (values) => Math.max(...values) / Math.min(...values) > 5;

function widened(values, log) {
  const low = Math.min(...values), high = Math.max(...values);
  if (log) {
    const by = Math.max((high / low) ** 0.08, 1.08);
    return [low / by, high * by];
  }
  const by = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
  return [low - by, high + by];
}

function drawAxes(chart, box, axis, [xLow, xHigh, log, to], [yLow, yHigh], quality) {
  const made = drawn("g", { "aria-hidden": "true" });
  let across = axis.unit === "B" && log ? byteTicks(xLow, xHigh) : ticks(xLow, xHigh, log);
  if (across.length < 2 || axis.unit === "s") {
    const unit = unitOf(axis, xHigh);
    across = ticks(xLow / unit, xHigh / unit, log && across.length >= 2).map((value) => value * unit);
  }
  const most = Math.max(2, Math.floor((box.right - box.left) / 75));
  if (across.length > most) across = across.filter((_, n) => n % Math.ceil(across.length / most) === 0);
  for (const value of across) {
    const left = box.left + ((to(value) - to(xLow)) / (to(xHigh) - to(xLow))) * (box.right - box.left);
    made.append(drawn("line", { class: "grid", x1: left, x2: left, y1: box.top, y2: box.bottom }));
    made.append(drawn("text", { class: "tick", x: left, y: box.bottom + 16, "text-anchor": left > box.right - 25 ? "end" : "middle" }, SHOW[axis.unit](value).replace(/\.0+ /, " ")));
  }
  for (const value of ticks(yLow, yHigh, false)) {
    const top = box.bottom - ((value - yLow) / (yHigh - yLow)) * (box.bottom - box.top);
    made.append(drawn("line", { class: "grid", x1: box.left, x2: box.right, y1: top, y2: top }));
    made.append(drawn("text", { class: "tick", x: box.left - 6, y: top + 4, "text-anchor": "end" }, quality.tick(value)));
  }
  made.append(drawn("text", { class: "axis", x: box.right, y: box.bottom + 34, "text-anchor": "end" }, `${axis.title}${log ? " (log)" : ""} →`));
  made.append(drawn("text", { class: "axis", x: 8, y: 12 }, `↑ ${quality.label}`));
  chart.append(made);
}

function drawMarks(chart, marks, words, open) {
  const group = drawn("g", {});
  const nodes = marks.map(({ point, left, top, on }, number) => {
    const said = words(point);
    const node = drawn(
      "g",
      {
        class: `mark ${colour(point.row.family)}${on ? " on" : ""}`, transform: `translate(${left} ${top})`,
        role: "button", tabindex: number === 0 ? 0 : -1, "aria-label": said,
        focus: () => tell(said, () => open(point), node),
        pointerenter: () => tell(said, () => open(point), node),
        click: () => node.focus(),
        keydown: (event) => {
          const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
          if (step) {
            const next = nodes[(number + step + nodes.length) % nodes.length];
            nodes.forEach((other) => other.setAttribute("tabindex", other === next ? 0 : -1));
            next.focus();
          } else if (event.key === "Enter" || event.key === " ") open(point);
          else return;
          event.preventDefault();
        },
      },
      drawn("circle", { class: "hit", r: 14 }),
      drawn("circle", { class: "ring", r: RADIUS + 5 }),
      shape(point.row.family),
    );
    return node;
  });
  group.append(...nodes);
  chart.append(group);
}

/** Spots along a line, a few pixels apart. */
function along(line) {
  return line.slice(1).flatMap(([x, y], n) => {
    const [left, top] = line[n];
    const count = Math.ceil(Math.hypot(x - left, y - top) / 6);
    return Array.from({ length: count }, (_, step) => [left + ((x - left) * step) / count, top + ((y - top) * step) / count]);
  });
}

const around = ([left, top]) => [left - 2, top - 2, left + 2, top + 2];

function boxOf(text) {
  const { x, y, width, height } = text.getBBox();
  return [x - 2, y, x + width + 2, y + height];
}

/** Names beside the marks of the front, off what is drawn; where there is room for none, touching the mark tells it. */
function drawLabels(labels, marks, drawnAlready, box, width) {
  const taken = [...marks.map(({ left, top }) => [left - 7, top - 7, left + 7, top + 7]), ...drawnAlready];
  const apart = (one, other) => one[2] < other[0] || one[0] > other[2] || one[3] < other[1] || one[1] > other[3];
  const free = (one) => one[0] > 4 && one[2] < width - 2 && one[1] > 14 && one[3] < box.bottom && taken.every((other) => apart(one, other));
  const named = [];
  for (const { point, left, top } of marks.filter((mark) => mark.on)) {
    const text = drawn("text", { class: "halo" }, point.name);
    labels.append(text);
    const length = text.getComputedTextLength() || point.name.length * 6.5;
    const place = (x, y) => {
      const end = [Math.min(Math.max(left, x), x + length), y < top ? y + 3 : y - 10];
      const far = Math.hypot(end[0] - left, end[1] - top) > 18;
      return { x, y, end, cover: [x - 2, y - 12, x + length + 2, y + 4], leader: far ? along([[left, top], end]).map(around) : [] };
    };
    const places = [];
    for (const far of [10, 24, 42, 64]) {
      places.push(place(left + far, top + 4), place(left - far - length, top + 4));
      places.push(place(left - length / 2, top - far), place(left - length / 2, top + far + 10));
      places.push(place(left + far * 0.7, top - far * 0.8), place(left - far * 0.7 - length, top - far * 0.8));
      places.push(place(left + far * 0.7, top + far * 0.8 + 9), place(left - far * 0.7 - length, top + far * 0.8 + 9));
    }
    const found = places.find(({ cover, leader }) => free(cover) && leader.every((spot) => named.every((other) => apart(spot, other))));
    if (!found) {
      text.remove();
      continue;
    }
    text.setAttribute("x", found.x);
    text.setAttribute("y", found.y);
    named.push(found.cover);
    taken.push(found.cover, ...found.leader);
    if (found.leader.length) labels.prepend(drawn("line", { class: "leader", x1: left, y1: top, x2: found.end[0], y2: found.end[1] }));
  }
}

function describe(point, axis, quality, on) {
  const seeds = point.row.seeds.length;
  const parts = [
    quality === QUALITIES[0] ? "" : `${quality.label} ${quality.show(quality.of(point))}`,
    `${DATA.quality[0].label} ${shown(point.quality[0], "quality")}${point.lost === undefined ? "" : `, ${shown(point.lost, "change")} against dense of the same seeds`}`,
    seeds === 1 ? "one seed" : `${seeds} seeds`,
    `${shown(point.bytes, "B")}${point.share === undefined ? "" : ` (${shown(point.share, "share")} of dense)`}`,
    axis.trained ? `${axis.title.toLowerCase()} ${shown(axis.of(point), axis.unit)}` : "",
    point.row.training === "rising" ? "still rising" : "",
    on ? "on the front" : "",
  ];
  return `${point.name}: ${parts.filter(Boolean).join(", ")}`;
}

function tell(text, open, node) {
  for (const other of document.querySelectorAll("#chart .chosen")) other.classList.remove("chosen");
  if (text === null) {
    $("tip").textContent = "Touch a mark, or go to one with the keyboard, and it says what it is.";
    return;
  }
  node.classList.add("chosen");
  $("tip").replaceChildren(text, element("button", { type: "button", click: open }, "its row"));
}

function drawLegend(points) {
  const present = FAMILIES.filter((family) => points.some((p) => p.row.family === family));
  $("legend").replaceChildren(...present.map((family) => {
    const picture = drawn("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true", class: colour(family) }, shape(family));
    return element("span", {}, picture, family);
  }));
}
