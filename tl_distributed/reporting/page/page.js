"use strict";
// Draws the charts once they can be seen, and sorts tables.

const AXIS = {
  domainColor: "currentColor", domainOpacity: 0.4, gridColor: "currentColor", gridOpacity: 0.12,
  labelColor: "currentColor", labelFontSize: 12, labelOpacity: 0.85, tickColor: "currentColor", tickOpacity: 0.4,
  titleColor: "currentColor", titleFontSize: 12, titleFontWeight: "normal", titleOpacity: 0.85,
};
const CONFIG = {
  background: null, font: "system-ui, -apple-system, 'Segoe UI', sans-serif", view: { stroke: null }, axis: AXIS,
  legend: { labelColor: "currentColor", titleColor: "currentColor", titleFontWeight: "normal" },
  text: { color: "currentColor" }, title: { color: "currentColor" }, rule: { color: "currentColor" },
};

const rowsOf = (columns) => {
  const names = Object.keys(columns);
  return columns[names[0]].map((_, row) => Object.fromEntries(names.map((name) => [name, columns[name][row]])));
};

const draw = async (figure, choice) => {
  const content = JSON.parse(figure.querySelector("script").textContent);
  const x = content.choices[choice ?? Object.keys(content.choices)[0]];
  const panels = figure.querySelectorAll(".plot");
  figure.classList.add("drawn");
  await Promise.all(content.specs.map((spec, index) => {
    if (spec.data.columns) spec.data = { values: rowsOf(spec.data.columns) };
    if (x) spec.encoding.x = x;
    const options = {
      actions: false, ast: true, renderer: "svg", config: CONFIG, mode: "vega-lite",
      tooltip: { theme: "custom", disableDefaultStyle: true },
    };
    const autosize = { type: "fit-x", contains: "padding" };
    return vegaEmbed(panels[index], { width: "container", autosize, ...spec }, options);
  }));
};

const addChoices = (figure) => {
  const { choices } = JSON.parse(figure.querySelector("script").textContent);
  const names = Object.keys(choices);
  if (names.length < 2) return;
  const set = document.createElement("fieldset");
  set.className = "choices";
  names.forEach((name, index) => {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: `axis-${figure.id}`, value: name, checked: index === 0 });
    input.addEventListener("change", () => draw(figure, name));
    label.append(input, ` ${name}`);
    set.append(label);
  });
  figure.querySelector(".live").before(set);
};

const drawSeen = (root) => root.querySelectorAll("figure.chart:not(.drawn)").forEach((figure) => {
  if (figure.closest("details:not([open])")) return;
  addChoices(figure);
  draw(figure);
});

const valueOf = (row, column) => {
  const { dataset, textContent } = row.cells[column];
  return dataset.value === undefined ? textContent.trim() : Number(dataset.value);
};

const sortBy = (header, column) => {
  const table = header.closest("table"), body = table.tBodies[0], numeric = header.classList.contains("n");
  const ascending = header.ariaSort ? header.ariaSort === "descending" : !numeric;
  table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  const rows = [...body.rows].sort((a, b) => (ascending ? 1 : -1) * compare(valueOf(a, column), valueOf(b, column)));
  body.append(...rows);
};

document.querySelectorAll("table.sorted thead th").forEach((header, column) => {
  const button = document.createElement("button");
  button.append(...header.childNodes);
  button.title = "Sort by this column";
  button.addEventListener("click", () => sortBy(header, header.cellIndex));
  header.append(button);
});
document.querySelectorAll("details").forEach((details) => {
  details.addEventListener("toggle", () => details.open && drawSeen(details));
});
const openTarget = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const details = target && target.closest("details");
  if (details) details.open = true;
};
addEventListener("hashchange", openTarget);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
openTarget();
drawSeen(document);
