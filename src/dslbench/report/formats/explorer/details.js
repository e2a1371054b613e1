// What is behind a row: its command, training, bill, budget, data, and what others published.

function block(title, ...children) {
  return element("section", {}, element("h3", {}, title), ...children);
}

function grid(headers, rows) {
  return element(
    "table", {},
    element("thead", {}, element("tr", {}, ...headers.map((text, n) => element("th", { scope: "col", class: n ? null : "left" }, text)))),
    element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map((text, n) => element("td", { class: n ? null : "left" }, text))))),
  );
}

function list(pairs) {
  const kept = pairs.filter(([, text]) => text !== null && text !== undefined && text !== "");
  return element("dl", {}, ...kept.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
}

function details(row) {
  const setting = DATA.settings[row.setting];
  return element(
    "div", { class: "about" },
    commandOf(row), ...(row.curve || []).map(curveOf), billOf(row), budgetOf(row),
    block(
      "Data and code",
      list([
        ["setting", setting.text], ["data", setting.data],
        ...Object.entries(setting.digests).map(([part, digest]) => [part, digest]),
        ["runs", row.ids.map((id, n) => `${id} (seed ${row.seeds[n]})`).join(", ")],
        ["epoch kept", row.epoch === undefined ? "" : String(row.epoch)],
        ["machine", row.machine], ["other code", row.versions],
      ]),
    ),
    publishedOf(row),
  );
}

function commandOf(row) {
  const made = block("Command");
  made.className = "all";
  if (!row.command) {
    made.append("No command of today makes this run.");
    return made;
  }
  const button = element("button", { type: "button", class: "copy" }, "copy");
  button.addEventListener("click", async () => {
    await copy(row.command);
    button.textContent = "copied";
    say("the command was copied");
  });
  made.append(element("code", {}, ...row.command.split(" ").flatMap((word, n) => [n ? " " : "", element("span", {}, word)])), " ", button);
  if (row.seeds.length > 1) made.append(element("div", { class: "small" }, `The other seeds: ${row.seeds.slice(1).join(", ")}.`));
  return made;
}

function curveOf(part) {
  const width = 400, height = 120, edge = 6;
  const last = part.epoch[part.epoch.length - 1], first = part.epoch[0];
  const across = (epoch) => edge + ((epoch - first) / (last - first || 1)) * (width - 2 * edge);
  const line = (values, kind) => {
    const known = values.map((value, n) => [value, part.epoch[n]]).filter(([value]) => value !== null);
    if (!known.length) return [];
    const low = Math.min(...known.map(([v]) => v)), high = Math.max(...known.map(([v]) => v));
    const places = known.map(([v, epoch]) => [across(epoch), height - edge - ((v - low) / (high - low || 1)) * (height - 2 * edge)]);
    const path = places.map((place) => place.map((v) => v.toFixed(1)).join(" ")).join("L");
    return [drawn("path", { class: `line ${kind}`, d: `M${path}` })];
  };
  const judged = part.quality.filter((value) => value !== null);
  const words = [
    judged.length ? `${DATA.quality[0].label} while training ${shown(judged[0], "quality")} to ${shown(judged[judged.length - 1], "quality")}` : "",
    `training loss ${part.loss[0]} to ${part.loss[part.loss.length - 1]}`,
  ];
  const picture = drawn(
    "svg", { class: "curve", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `${part.phase}, epochs ${first} to ${last}: ${words.filter(Boolean).join("; ")}` },
    ...line(part.loss, "loss"), ...line(part.quality, ""),
  );
  return block(
    `Training: ${part.phase}, epochs ${first} to ${last}`, picture,
    element("div", { class: "small" }, element("span", { class: "key" }, words[0]), words[0] ? "; " : "", element("span", { class: "key loss" }, words[1]), ". Each line on a scale of its own."),
  );
}

function billOf(row) {
  const lines = (row.phases || []).map((phase) => [
    phase.phase + (phase.of_run ? ` (of run ${phase.of_run})` : ""), shown(phase.epochs, "count"), shown(phase.macs, "MACs"),
    shown(phase.seconds, "s"), shown(phase.state, "B"),
  ]);
  return block("Bill by phase", grid(["phase", "epochs", "MACs", "time", "state"], lines));
}

function budgetOf(row) {
  const budget = row.budget;
  const of = budget.dense_table_params ? ` of dense's ${shown(budget.dense_table_params, "count")}` : "";
  return block(
    "Budget",
    list([
      ["sparsity asked", `${+(100 * row.sparsity).toFixed(9)}%`],
      ["kept", `${shown(budget.table_params, "count")} parameters${of}`],
      ["whole model", budget.total_params === undefined ? "" : `${shown(budget.total_params, "count")} parameters`],
      ["empty rows", budget.empty_rows ? `${shown(budget.empty_rows, "count")} of ${shown(budget.rows, "count")}` : ""],
    ]),
    budget.tables ? grid(["table", "form", "parameters", "bytes as trained"], budget.tables.map(([name, form, n, size]) => [name, form, shown(n, "count"), shown(size, "B")])) : null,
  );
}

function publishedOf(row) {
  if (!row.published) return block("Published", "No published value of this setting is known.");
  const lines = row.published.map(([source, quantity, text, ours]) => [source, quantity, text, /MACs/.test(quantity) ? shown(ours, "MACs") : shown(ours, "quality")]);
  return block("Published, and ours", grid(["source", "quantity", "published", "ours"], lines));
}
