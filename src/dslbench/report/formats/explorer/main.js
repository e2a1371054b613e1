// What is chosen, and everything drawn anew when that changes.

const ANY = "";
const ALL = "all"; // of the settings
const FILTERS = {
  dataset: { any: "all data sets", of: (p) => p.setting.dataset },
  backbone: { any: "all backbones", of: (p) => p.setting.backbone },
  training: { any: "any training", of: (p) => p.row.training, words: TRAINING },
  family: { any: "all families", of: (p) => p.row.family },
  precision: { any: "any precision", of: (p) => (p.trained ? "as trained" : p.precision) },
};
const chosen = (name) => $(`f-${name}`).value;

function option(value, text, selected) {
  const made = element("option", { value }, text);
  made.selected = selected;
  return made;
}

function fillFilters() {
  const start = DATA.settings[DATA.order[0]];
  for (const [name, filter] of Object.entries(FILTERS)) {
    const values = [...new Set(POINTS.map(filter.of))].sort();
    const first = name === "dataset" || name === "backbone" ? start[name] : ANY;
    $(`f-${name}`).replaceChildren(
      option(ANY, filter.any, first === ANY),
      ...values.map((value) => option(value, filter.words ? filter.words[value] : value, value === first)),
    );
    $(`f-${name}`).addEventListener("change", () => draw(name === "dataset" || name === "backbone"));
  }
  $("a-y").replaceChildren(...QUALITIES.map((quality, n) => option(n, quality.label, n === 0)));
  const axes = Object.entries(AXES).filter(([, axis]) => POINTS.some((p) => axis.of(p) > 0));
  $("a-x").replaceChildren(...axes.map(([key, axis]) => option(key, axis.title, key === "bytes")));
  for (const id of ["a-y", "a-x", "f-setting"]) $(id).addEventListener("change", () => draw());
}

/**
 * Which of the settings among what is shown is pictured and answered for, and which rows the table has: of that
 * setting, or of all of them. Another data set or backbone (`anew`) asks anew.
 */
function chooseSetting(points, anew) {
  const numbers = [...new Set(points.map((p) => p.row.setting))];
  const best = DATA.order.find((n) => numbers.includes(n));
  const start = chosen("dataset") === ANY || chosen("backbone") === ANY ? ALL : String(best);
  const before = chosen("setting");
  const now = !anew && (before === ALL || numbers.includes(Number(before || NaN))) ? before : start;
  $("f-setting").replaceChildren(
    ...numbers.map((n) => option(n, DATA.settings[n].text, String(n) === now)),
    option(ALL, "all of these", now === ALL),
  );
  $("l-setting").hidden = numbers.length < 2;
  return now === ALL ? [best, points] : [best === undefined ? best : Number(now), points.filter((p) => String(p.row.setting) === now)];
}

function draw(anew = false) {
  const fitting = POINTS.filter((p) => Object.entries(FILTERS).every(([name, filter]) => chosen(name) === ANY || filter.of(p) === chosen(name)));
  const [number, points] = chooseSetting(fitting, anew);
  const setting = DATA.settings[number];
  const narrowed = ["training", "family", "precision"].some((name) => chosen(name) !== ANY);
  const answer = setting?.answer || "No dense run to compare with.";
  $("answer").textContent = setting ? `${narrowed ? "Among all rows, whatever the filters: " : ""}${answer}` : "Nothing fits these filters.";
  $("about").textContent = setting ? setting.text : "";
  const own = points.filter((p) => p.row.setting === number);
  const front = drawChart(own, $("a-x").value, Number($("a-y").value), open);
  last = { points, front };
  drawRows();
  drawNotes([...new Set(points.map((p) => p.row.setting))]);
  $("count").textContent = `${points.length} of ${POINTS.length} rows; bold: on the front above`;
  $("choice").textContent = Object.keys(FILTERS).map((name) => $(`f-${name}`).selectedOptions[0].textContent).join(", ");
}

/** The table alone: its order, its columns, and which rows are open. */
function drawRows(focus = null) {
  drawTable(last.points, last.front, drawRows);
  if (focus) document.querySelector(focus)?.focus();
}

function open(point) {
  const id = idOf(point);
  look.open.add(id);
  if (sorted(last.points).indexOf(point) >= look.rows) look.rows = Infinity;
  drawRows();
  $(id).querySelector("button").focus({ preventScroll: true });
  $(id).scrollIntoView({ block: "start" });
}

function drawNotes(numbers) {
  const lines = (notes) => notes.map((text) => element("li", {}, text));
  $("shared-notes").replaceChildren(...lines(DATA.notes));
  const own = numbers.filter((n) => DATA.settings[n].notes.length);
  $("own-notes").replaceChildren(...own.map((n) => {
    const { text, notes } = DATA.settings[n];
    return element("details", { open: own.length === 1 }, element("summary", {}, text), element("ul", {}, ...lines(notes)));
  }));
}

let last = { points: [], front: new Set() };
$("choose").open = window.innerWidth > 600;
fillFilters();
drawBoxes(drawRows);
draw(true);
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("more").addEventListener("click", () => {
  look.rows = Infinity;
  drawRows();
});
$("save-csv").addEventListener("click", () => save("dslbench.csv", "text/csv", csvOf(last.points)));
$("save-json").addEventListener("click", () => save("dslbench.json", "application/json", jsonOf(last.points)));
let width = $("chart").clientWidth;
new ResizeObserver(() => {
  if ($("chart").clientWidth === width) return;
  width = $("chart").clientWidth;
  draw();
}).observe($("picture"));
