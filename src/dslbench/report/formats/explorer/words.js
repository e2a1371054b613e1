// What the page is made of: elements, numbers in words, files.

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const SVG = $("chart").namespaceURI;
const MISSING = "-";

/** An element with attributes and children; text is always text, never markup. */
function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for pictures. */
function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function bytes(value) {
  for (const [unit, name] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (value >= unit) return `${(value / unit).toFixed(1)} ${name}`;
  }
  return `${value.toFixed(0)} B`;
}

function seconds(value) {
  if (value < 1) return `${(value * 1000).toPrecision(3)} ms`;
  if (value < 100) return `${value.toFixed(1)} s`;
  return value < 6000 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`;
}

const SHOW = {
  B: bytes,
  s: seconds,
  J: (value) => (value >= 1000 ? `${(value / 1000).toFixed(1)} kJ` : `${value.toFixed(1)} J`),
  MACs: (value) => value.toExponential(2),
  quality: (value) => value.toFixed(4).replace(/^0\./, "."),
  share: (value) => value.toFixed(3),
  change: (value) => `${value < 0 ? "-" : "+"}${Math.abs(value * 100).toFixed(1)}%`,
  p: (value) => (value < 1e-4 ? "<.0001" : value >= 1 ? "1" : value.toFixed(4).replace(/^0/, "")),
  count: (value) => value.toLocaleString("en"),
};

/** A number in its unit; what is not known is "-". */
function shown(value, unit) {
  return value === null || value === undefined ? MISSING : SHOW[unit](value);
}

/** Say something to those who do not see it. */
function say(text) {
  $("said").textContent = text;
}

function save(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
  say(`${name} was saved`);
}

/** A cell of a CSV file; text that a spreadsheet would compute has a ' before it. */
function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]/.test(value) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea", { class: "unseen", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** Every row at every precision, with what it belongs to. */
const POINTS = DATA.rows.flatMap((row) => row.points.map((point) => {
  const setting = DATA.settings[row.setting];
  const share = setting.dense_bytes && point.bytes !== undefined ? point.bytes / setting.dense_bytes : undefined;
  return { ...point, row, setting, share, name: point.precision ? `${row.name}, ${point.precision}` : row.name };
}));
