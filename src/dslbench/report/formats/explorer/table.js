// The table: columns, their order, rows that open.

const COLUMNS = [
  { key: "name", title: "Method", of: (p) => p.row.name, words: true },
  { key: "precision", title: "Stored as", of: (p) => p.precision || "as trained", words: true },
  { key: "dataset", title: "Data set", words: true, of: (p) => p.setting.dataset },
  { key: "setting", title: "Setting", words: true, of: (p) => `${p.setting.model}, ${p.setting.protocol}` },
  { key: "lost", title: "vs dense", unit: "change", high: true, of: (p) => p.lost },
  { key: "bytes", title: "Bytes", unit: "B", of: (p) => p.bytes },
  { key: "share", title: "of dense", unit: "share", of: (p) => p.share },
  ...DATA.quality.map((metric, n) => ({
    key: metric.key, title: metric.label, unit: "quality", high: true, of: (p) => p.quality[n],
    beside: (p) => (p.sd && p.sd[n] !== undefined ? ` ±${shown(p.sd[n], "quality")}` : ""),
  })),
  { key: "low", title: "95% low (seeds)", unit: "change", high: true, of: (p) => p.low },
  { key: "high", title: "95% high (seeds)", unit: "change", high: true, of: (p) => p.high },
  { key: "p_users", title: "p (users)", unit: "p", of: (p) => p.p_users },
  { key: "p_seeds", title: "p (seeds)", unit: "p", of: (p) => p.p_seeds },
  ...DATA.costs.map((cost) => ({
    key: cost.key, title: cost.title, unit: cost.unit, how: cost.how,
    of: (p) => (serving(cost.key) && !p.trained ? undefined : p.row.costs[cost.key]),
  })),
  { key: "macs_of_dense", title: "MACs, of dense (Tr.)", unit: "share", of: (p) => p.row.macs_of_dense },
  { key: "seeds", title: "Seeds", unit: "count", of: (p) => p.row.seeds.length },
  { key: "training", title: "Training", words: true, of: (p) => trainingOf(p) },
  { key: "family", title: "Family", words: true, of: (p) => p.row.family },
  { key: "backbone", title: "Backbone", words: true, of: (p) => p.setting.backbone },
].filter((column) => column.words || POINTS.some((p) => column.of(p) !== undefined));

function serving(key) {
  return key.startsWith("latency") || key === "infer_macs";
}

const TRAINING = { levelled: "levelled off", rising: "still rising", full: "all epochs", reduced: "reduced" };

function trainingOf({ setting, row }) {
  if (row.family === "Reference") return "fitted";
  const epochs = setting.training === "full" ? `${setting.epochs} epochs` : `${setting.epochs} of ${setting.full_epochs} epochs`;
  return row.training === "levelled" || row.training === "rising" ? `${epochs}, ${TRAINING[row.training]}` : epochs;
}

const UNSEEN = ["hr@20", "low", "high", "p_seeds", "memory", "latency_1024", "infer_macs", "energy", "macs_of_dense", "family", "dataset", "backbone", "setting"];
const TELLING = ["dataset", "setting"]; // shown by themselves where rows differ in them
const FIRST = COLUMNS.find((column) => column.key === "lost") || COLUMNS.find((column) => column.unit === "quality") || COLUMNS[0];
const look = {
  hidden: new Set(UNSEEN),
  asked: new Set(), // columns that somebody chose to show or hide
  sort: FIRST.key,
  down: Boolean(FIRST.high),
  open: new Set(),
  rows: 100,
};

const idOf = (point) => `s${point.row.setting}-${point.row.ids[0]}-${point.precision || "own"}`;

/** Sorted as asked for; what is not known comes last either way. */
function sorted(points) {
  const { of } = COLUMNS.find((column) => column.key === look.sort);
  const sign = look.down ? -1 : 1;
  return points
    .map((point, n) => [of(point), n, point])
    .sort(([a, n], [b, m]) => {
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined) || n - m;
      return (typeof a === "string" ? a.localeCompare(b, "en") : a - b) * sign || n - m;
    })
    .map(([, , point]) => point);
}

function drawTable(points, front, again) {
  const differ = ({ key, of }) => TELLING.includes(key) && !look.asked.has(key) && new Set(points.map(of)).size > 1;
  const columns = COLUMNS.filter((column) => !look.hidden.has(column.key) || differ(column));
  for (const box of $("column-boxes").querySelectorAll("input")) box.checked = columns.some(({ key }) => key === box.dataset.key);
  const heads = columns.map((column) => {
    const here = column.key === look.sort;
    const press = () => {
      look.down = here ? !look.down : Boolean(column.high);
      look.sort = column.key;
      again(`#rows thead [data-key="${column.key}"]`);
    };
    return element(
      "th", { scope: "col", class: column.words ? "left" : null, "aria-sort": here ? (look.down ? "descending" : "ascending") : null },
      element("button", { type: "button", "data-key": column.key, click: press }, column.title + (here ? (look.down ? " ▼" : " ▲") : "")),
    );
  });
  const all = sorted(points);
  const body = all.slice(0, look.rows).flatMap((point) => rowOf(point, columns, front, again));
  const [head, main] = [$("rows").tHead, $("rows").tBodies[0]];
  head.replaceChildren(element("tr", {}, ...heads));
  main.replaceChildren(...body);
  const more = $("more");
  more.hidden = all.length <= look.rows;
  more.textContent = `show all ${all.length} rows`;
}

function rowOf(point, columns, front, again) {
  const id = idOf(point);
  const isOpen = look.open.has(id);
  const press = () => {
    if (!look.open.delete(id)) look.open.add(id);
    again(`[id="${id}"] button`);
  };
  const cells = columns.map((column) => {
    const text = column.words ? column.of(point) : shown(column.of(point), column.unit) + (column.beside ? column.beside(point) : "");
    if (column.key !== "name") return element("td", { class: column.key === "setting" ? "left long" : column.words ? "left" : null }, text);
    return element(
      "th", { scope: "row" },
      element("button", { type: "button", "aria-expanded": String(isOpen), "aria-controls": isOpen ? `${id}-more` : null, click: press }, `${isOpen ? "▾" : "▸"} ${text}`),
    );
  });
  const line = element("tr", { id, class: [front.has(point) ? "front" : "", isOpen ? "chosen" : ""].join(" ").trim() || null }, ...cells);
  if (!isOpen) return [line];
  return [line, element("tr", { class: "inside", id: `${id}-more` }, element("td", { colspan: columns.length }, details(point.row)))];
}

function drawBoxes(again) {
  $("column-boxes").replaceChildren(...COLUMNS.slice(1).map((column) => {
    const box = element("input", { type: "checkbox", "data-key": column.key });
    box.checked = !look.hidden.has(column.key);
    box.addEventListener("change", () => {
      look.asked.add(column.key);
      if (box.checked) look.hidden.delete(column.key);
      else look.hidden.add(column.key);
      if (look.hidden.has(look.sort)) look.sort = "name";
      again();
    });
    return element("label", {}, box, column.title);
  }));
}

const UNITS = { B: "bytes", s: "s", J: "J", MACs: "MACs", share: "share", change: "share", p: "", quality: "", count: "" };

function csvOf(points) {
  const head = COLUMNS.map(({ title, unit }) => (UNITS[unit] ? `${title} (${UNITS[unit]})` : title));
  const lines = sorted(points).map((p) => [...COLUMNS.map((column) => column.of(p)), p.row.ids.join(" "), p.row.command]);
  return [[...head, "Runs", "Command"], ...lines].map((line) => line.map(csvCell).join(",")).join("\n") + "\n";
}

function jsonOf(points) {
  const found = sorted(points).map(({ row, setting, name, share, ...point }) => {
    const { points: _, setting: __, ...rest } = row;
    const { notes: ___, answer: ____, ...where } = setting;
    const quality = Object.fromEntries(DATA.quality.map((metric, n) => [metric.key, point.quality[n] ?? null]));
    return { ...rest, stored: { ...point, quality }, setting: where };
  });
  return JSON.stringify(found, null, 1) + "\n";
}
