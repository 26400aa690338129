// What all widgets share. Whatever a model, a person or a file may have written is set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

// JupyterLab takes keys for its commands unless the element that has the focus says that it wants them itself.
const OWN_KEYS = "data-lm-suppress-shortcuts", TAKES_KEYS = /^(input|select|button|textarea)$/i;

const fill = (made, attributes, children) => {
  if (TAKES_KEYS.test(made.tagName) || "tabindex" in attributes) made.setAttribute(OWN_KEYS, "true");
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, String(value));
  }
  for (const child of children.flat()) if (child != null) made.append(child);
  return made;
};
const node = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// A widget's own room.
function room(el, name) {
  el.classList.add("af", `af-${name}`);
  return el;
}

// Sends wishes to the kernel, one at a time. Of those made while one is on its way, the last of each kind is sent
// afterwards; kinds in `dropped` are not, since they may be meant for what is gone by then.
function wisher(model, dropped = []) {
  const kept = new Map();
  let busy = false;
  const send = (wish) => { busy = true; model.send(wish); };
  const heard = () => {
    busy = false;
    for (const [name, wish] of kept) { kept.delete(name); send(wish); return; }
  };
  model.on("change:heard", heard);
  const wish = (name, more = {}) => {
    const made = { do: name, ...more };
    if (!busy) send(made);
    else if (!dropped.includes(name)) kept.set(name, made);
  };
  return { wish, off: () => model.off("change:heard", heard) };
}

const fixed = (value, digits = 1) => value == null ? "–" : value.toFixed(digits);
const plusMinus = (value, error, digits = 1) =>
  fixed(value, digits) + (error == null ? "" : ` ± ${fixed(error, digits)}`);
const tidy = (value) => value == null ? "–" : Math.abs(value) >= 100 ? value.toFixed(0) : String(+value.toPrecision(3));

// A table with one row of headings; `rows` are elements.
const table = (heads, rows, attributes = {}) => node("table", attributes,
  node("thead", {}, node("tr", {}, heads.map((head) => head == null ? node("td", {}) : node("th", { scope: "col" }, head)))),
  node("tbody", {}, rows));

// A labelled field; `get` gives its value, `set` is called with a new one.
function field(label, element) {
  element.setAttribute("aria-label", label);
  return node("label", { class: "af-field" }, node("span", {}, label), element);
}

function select(label, options, get, set) {
  const list = node("select", { onchange: () => set(list.value) },
    options.map(([value, text]) => node("option", { value }, text)));
  return { element: field(label, list), show: () => { list.value = get() ?? options[0][0]; } };
}

// A number: a slider where `range`, a box otherwise. What is typed is sent after a short rest.
function number(label, { min, max, step, range = false, shown = String }, get, set) {
  let waiting;
  const input = node("input", { type: range ? "range" : "number", min, max, step }), beside = node("output", {});
  const value = () => {
    const given = input.value === "" ? min : Number(input.value);
    return Math.max(min, max == null ? given : Math.min(max, given));
  };
  input.addEventListener("input", () => {
    beside.textContent = shown(value());
    clearTimeout(waiting);
    waiting = setTimeout(() => set(value()), 150);
  });
  const element = field(label, input);
  if (range) element.append(beside);
  return {
    element,
    show: () => { if (document.activeElement !== input) input.value = get(); beside.textContent = shown(Number(get())); },
    stop: () => clearTimeout(waiting),
  };
}

function search(label, get, set) {
  let waiting;
  const input = node("input", { type: "search", oninput: () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => set(input.value), 150);
  } });
  return {
    element: field(label, input),
    show: () => { if (document.activeElement !== input) input.value = get() ?? ""; },
    stop: () => clearTimeout(waiting),
  };
}

// A box to tick for each value; `set` is called with all that are ticked, in their order.
function ticked(label, values, get, set) {
  const boxes = new Map(values.map((value) => {
    const change = () => set(values.filter((v) => boxes.get(v).checked));
    return [value, node("input", { type: "checkbox", value, onchange: change })];
  }));
  const element = node("fieldset", { class: "af-ticked" }, node("legend", {}, label),
    [...boxes].map(([value, box]) => node("label", {}, box, " ", value || "all")));
  const show = () => { for (const [value, box] of boxes) box.checked = get().includes(value); };
  show();
  return { element, show };
}

const button = (text, onclick, attributes = {}) => node("button", { type: "button", onclick, ...attributes }, text);

// ── Charts ───────────────────────────────────────────────────────────────────────────────────────────────────────

const WIDE = 560, DASHES = ["", "7 4", "2 3", "8 3 2 3", "12 4", "12 4 2 4"];
const SYMBOLS = [   // around 0, 0; told apart without colour
  () => svg("circle", { r: 4 }), () => svg("rect", { x: -3.6, y: -3.6, width: 7.2, height: 7.2 }),
  () => svg("path", { d: "M0-5 4.6 3.4-4.6 3.4Z" }), () => svg("path", { d: "M0-5 4.4 0 0 5-4.4 0Z" }),
  () => svg("path", { d: "M-4-4 4 4M-4 4 4-4", class: "af-open" }), () => svg("path", { d: "M0-5V5M-5 0H5", class: "af-open" }),
];

// Dash and symbol of a series: its own `look`, moved by its colour, so that no two of them look the same in grey.
const styleOf = (s, i) => ((s.colour ?? i) + (s.look > 0 ? s.look * 2 : 0)) % 6;

function ticks(low, high, log) {
  if (log) {
    const powers = [];
    for (let p = Math.ceil(Math.log2(low) - 1e-9); p <= Math.log2(high) + 1e-9; p++) powers.push(2 ** p);
    const every = Math.ceil(powers.length / 8);
    return powers.filter((_, i) => i % every === 0);
  }
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough * 0.999);
  const found = [];
  const first = Math.ceil(low / step - 1e-9);
  for (let k = first; k * step <= high + step * 1e-9; k++) found.push(+(k * step).toPrecision(12));
  return found;
}

// Series of {name, points: [{x, y, low, high, key, note}], line, colour}. Each point can be reached with the arrow keys;
// `onpick` is called with (series, point) for a click or Enter, and what is under the pointer is said below the chart.
function chart({ title, x, y, series, height = 260, log = false, marks = [], onpick, chosen, range }) {
  const points = series.flatMap((s) => s.points);
  const own = (p) => [p.y, p.low, p.high].filter((v) => v != null);
  if (!points.length) return node("p", { class: "af-note" }, `${title}: nothing to show yet`);
  let [left, right] = [Math.min(...points.map((p) => p.x)), Math.max(...points.map((p) => p.x))];
  let [low, high] = range ?? [Math.min(...points.flatMap(own)), Math.max(...points.flatMap(own))];
  if (left === right) { left -= log ? left / 2 : 1; right += log ? right : 1; }
  if (low === high) { low -= Math.abs(low) / 10 || 1; high += Math.abs(high) / 10 || 1; }
  const gap = range ? 0 : (high - low) * 0.06;
  [low, high] = [low - gap, high + gap];
  const edge = { left: 52, right: 12, top: 10, bottom: 38 }, scale = log ? Math.log2 : (v) => v;
  const spare = log ? 0 : (right - left) * 0.02, span = scale(right) - scale(left) + 2 * spare;
  const end = WIDE - edge.right, floor = height - edge.bottom;
  const across = (v) => edge.left + (scale(v) - scale(left) + spare) / span * (end - edge.left);
  const up = (v) => floor - (v - low) / (high - low) * (floor - edge.top);
  const centred = { "text-anchor": "middle" };
  const drawn = svg("g"), said = node("output", { class: "af-said", "aria-live": "polite" }, " ");
  for (const t of ticks(low, high)) {
    drawn.append(svg("line", { class: "af-grid", x1: edge.left, x2: end, y1: up(t), y2: up(t) }),
      svg("text", { x: edge.left - 6, y: up(t) + 4, "text-anchor": "end" }, tidy(t)));
  }
  for (const t of ticks(left, right, log)) drawn.append(svg("text", { x: across(t), y: floor + 15, ...centred }, tidy(t)));
  drawn.append(svg("text", { x: (WIDE + edge.left) / 2, y: height - 5, ...centred }, x),
    svg("text", { transform: `translate(13 ${floor / 2}) rotate(-90)`, ...centred }, y));
  for (const m of marks) {
    const line = { class: "af-mark", x1: across(m.x), x2: across(m.x), y1: edge.top, y2: floor };
    drawn.append(svg("line", line, svg("title", {}, m.text)),
      svg("text", { class: "af-mark", x: across(m.x) + 3, y: edge.top + 10 }, m.text));
  }
  const dots = [];
  series.forEach((s, i) => {
    const colour = `var(--af-${(s.colour ?? i) % 6})`, look = styleOf(s, i);
    const through = (places) => places.map(([at, v]) => `${across(at)} ${up(v)}`).join("L");
    const inner = svg("g", { style: `--own: ${colour}`, "data-series": s.name });
    const banded = s.points.filter((p) => p.low != null);
    if (s.line && banded.length > 1) {
      const above = banded.map((p) => [p.x, p.high]), below = banded.map((p) => [p.x, p.low]).reverse();
      inner.append(svg("path", { class: "af-band", d: `M${through([...above, ...below])}Z` }));
    } else {
      inner.append(...banded.map((p) => svg("line",
        { class: "af-bar", x1: across(p.x), x2: across(p.x), y1: up(p.low), y2: up(p.high) })));
    }
    if (s.line) {
      const d = `M${through(s.points.map((p) => [p.x, p.y]))}`;
      inner.append(svg("path", { class: "af-line", "stroke-dasharray": DASHES[look], d }));
    }
    const row = s.points.map((p) => {
      const worth = plusMinus(p.y, p.error, Math.abs(p.y) < 10 ? 2 : 1);
      const text = p.note ?? `${s.name}: ${x} ${tidy(p.x)}, ${y} ${worth}`, tell = () => { said.textContent = text; };
      const dot = svg("g", {
        class: "af-dot", role: onpick ? "button" : "img", tabindex: -1, "aria-label": text,
        "aria-pressed": onpick ? String(chosen != null && p.key === chosen) : null,
        transform: `translate(${across(p.x)} ${up(p.y)})`, "data-key": p.key ?? "",
        onfocus: tell, onpointermove: tell, onclick: () => { dot.focus(); onpick?.(s, p); },
      }, svg("circle", { class: "af-reach", r: 10 }), SYMBOLS[look]());
      return dot;
    });
    dots.push(row);
    inner.append(...row);
    drawn.append(inner);
  });
  if (dots.flat().length) dots.flat()[0].setAttribute("tabindex", 0);
  const go = (event) => {
    const dot = event.target.closest(".af-dot"), i = dots.findIndex((row) => row.includes(dot));
    if (i < 0) return;
    const j = dots[i].indexOf(dot), picked = onpick && ["Enter", " "].includes(event.key);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key] ?? 0, other = { ArrowDown: 1, ArrowUp: -1 }[event.key] ?? 0;
    if (!picked && !step && !other) return;
    event.preventDefault();
    if (picked) { onpick(series[i], series[i].points[j]); return; }
    const row = dots[(i + other + dots.length) % dots.length], next = row[Math.max(0, Math.min(row.length - 1, j + step))];
    if (!next) return;
    for (const d of dots.flat()) d.setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  };
  const legend = series.length > 1 || series[0].name ? node("ul", { class: "af-legend" }, series.map((s, i) => {
    const look = styleOf(s, i);
    const key = svg("g", { style: `--own: var(--af-${(s.colour ?? i) % 6})` },
      s.line ? svg("path", { class: "af-line", "stroke-dasharray": DASHES[look], d: "M0 6H30" }) : null,
      svg("g", { class: "af-dot", transform: "translate(15 6)" }, SYMBOLS[look]()));
    return node("li", {}, svg("svg", { width: 30, height: 12, "aria-hidden": true }, key), " ", s.name);
  })) : null;
  return node("figure", { class: "af-chart", onkeydown: go }, node("figcaption", {}, title),
    svg("svg", { viewBox: `0 0 ${WIDE} ${height}`, role: "group", "aria-label": title }, drawn), said, legend);
}

// Draws a chart anew in its place, and leaves the focus on the point where it was.
function redraw(place, made) {
  const dot = place.contains(document.activeElement) ? document.activeElement.closest(".af-dot") : null;
  const [label, key] = ["aria-label", "data-key"].map((name) => dot?.getAttribute(name));
  place.replaceChildren(...[made].flat());
  if (!dot) return;
  const same = (d) => (key && d.getAttribute("data-key") === key) || d.getAttribute("aria-label") === label;
  [...place.querySelectorAll(".af-dot[role]")].find(same)?.focus();
}

// ── Pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────

const SIDES = { 1: "◀ output 1", 1.5: "= tie", 2: "output 2 ▶" };
const verdict = (p) => p == null ? "no verdict"
  : SIDES[p] ?? (p < 1.5 ? `◀ output 1 (${Math.round(100 * (2 - p))} %)` : `output 2 (${Math.round(100 * (p - 1))} %) ▶`);
const sideOf = (p) => p == null ? "none" : p === 1.5 ? "tie" : p < 1.5 ? "one" : "two";
const pieces = (parts) => parts.map(([own, text]) => own ? node("mark", {}, text) : document.createTextNode(text));
