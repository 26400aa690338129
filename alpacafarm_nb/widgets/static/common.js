// @ts-check
// Code shared by all widgets. Whatever a model, a person or a file may have written is set as text, never as HTML.

/** @typedef {Record<string, any>} Attributes  on…: listeners; true: an empty attribute; false and null: none */
/** @typedef {Node | string | number | null} Child */
/** @typedef {{ setAttribute(name: string, value: any): void }} Lenient  an element; attributes may be numbers, too */
/** @typedef {{ element: HTMLElement, show: () => void, stop?: () => void }} Field */
/** @typedef {(name: string, more?: object) => boolean} Wish */
/** @typedef {[boolean, string]} Piece  whether only this text has it, and the words */

/**
 * The page's side of a Python widget with the traits S.
 * @template [S=any]
 * @typedef {object} Model
 * @property {<K extends keyof S>(name: K) => S[K]} get
 * @property {<K extends keyof S>(name: K, value: S[K]) => void} set
 * @property {() => void} save_changes
 * @property {(event: string, f: (message?: any) => void) => void} on
 * @property {(event: string, f: (message?: any) => void) => void} off
 * @property {(wish: { do: string }) => void} send
 * @property {{ kernel?: { status: string, connectionStatus?: string } }} [widget_manager]
 */

/** @typedef {"alive" | "busy" | "gone" | "unsure"} KernelState */
/** @typedef {(state: KernelState) => void} OnState */
/** @typedef {{ state: KernelState, off: () => void, gone: () => boolean, onchange?: (f: OnState) => void }} Kernel */
/** @typedef {KeyboardEvent & { target: Element }} KeyPress */

/** @typedef {{ colour: number | string, symbol: number, hollow: boolean }} Look */
/**
 * @typedef {{ x: number, y: number, low?: number | null, high?: number | null, error?: number | null, key?: string,
 *   note?: string, from?: { x: number, y: number } | null }} Point
 * @typedef {{ name: string, points: Point[], line?: boolean, look?: Look }} Series
 * @typedef {{ title: string, x: string, y: string, series: Series[], height?: number, log?: boolean,
 *   marks?: { x: number, text: string }[], onpick?: ((series: Series, point: Point) => void) | null, chosen?: string,
 *   frame?: { x?: number[], y?: number[] }, named?: boolean }} Chart
 */

const SVG = "http://www.w3.org/2000/svg";

// JupyterLab uses keys for its commands unless the focused element is marked as handling them itself.
const OWN_KEYS = "data-lm-suppress-shortcuts", TAKES_KEYS = /^(input|select|button|textarea)$/i;

/** @template {Element} E @param {E} made @param {Attributes} attributes @param {any[]} children @returns {E} */
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
/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {Attributes} [attributes] @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[T] & Lenient}
 */
const node = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
/**
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag @param {Attributes} [attributes] @param {...(Child | Child[])} children
 * @returns {SVGElementTagNameMap[T] & Lenient}
 */
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Marks the root element of a widget.
/** @param {HTMLElement} el @param {string} name @returns {HTMLElement} */
function room(el, name) {
  el.classList.add("af", `af-${name}`);
  return el;
}

// Scrolls a list so that an item is visible. `scrollIntoView` would also scroll the page.
/** @param {Element} list @param {Element} [item] */
function showIn(list, item) {
  if (!item) return;
  const [box, own] = [list.getBoundingClientRect(), item.getBoundingClientRect()];
  if (own.top < box.top) list.scrollTop -= box.top - own.top;
  else if (own.bottom > box.bottom) list.scrollTop += Math.min(own.bottom - box.bottom, own.top - box.top);
}

// Restores the focus after a redraw without scrolling the page.
/** @param {(Element & { focus?: HTMLElement["focus"] }) | null} [element] @returns {void} */
const refocus = (element) => element?.focus({ preventScroll: true });

// ── The kernel ───────────────────────────────────────────────────────────────────────────────────────────────────

const TICK = 400;                         // ms between checks of the kernel
const LATE = 2200, LOST = 5000;           // ms of silence until it is noticed; until an idle kernel counts as gone
const AGAIN = 20_000, CHANGED = 5_000;    // ms until the next "here"; the same after a change, which the stored view must show
const ABSENT = ["dead", "terminating", "restarting", "autorestarting", "starting"];

// Tracks whether the kernel responds. The kernel sends a beat every second while a page asks for it, even while it
// computes. Where the page can see the kernel's status (JupyterLab, Notebook), "busy" and "gone" are distinguished;
// elsewhere the state is "unsure". Silence is counted in checks, so that a page that was itself suspended does not
// take the kernel for gone. `onchange` is called with the new state; a banner above the widget shows it.
/** @param {Model} model @param {HTMLElement} el @param {OnState} [onchange] @returns {Kernel} */
function watchKernel(model, el, onchange = () => {}) {
  const banner = node("p", { class: "af-banner", role: "alert", hidden: true });
  const words = {
    gone: "⚠ No answer from the kernel. What you do here now has no effect and is not kept: "
      + "once a kernel runs, run this cell again.",
    unsure: "⚠ No answer from the kernel: it is busy or gone. What you do here now may have no effect.",
    busy: "⏳ The kernel is busy with something else. What you do here waits for it.",
  };
  let silence = 0, asked = 0, hushed = "";
  /** @type {Kernel} */
  const watch = { state: "alive", off, gone: () => { look(); return watch.state === "gone"; } };
  /** @param {{ beat?: boolean }} [message] */
  const beat = (message) => { if (message?.beat) { silence = 0; look(); } };
  /** @returns {string | null} */
  function seen() {   // what the page itself knows about the kernel
    const manager = model.widget_manager;
    if (el.closest(".jupyter-widgets-disconnected")) return "gone";
    if (!manager || !("kernel" in manager)) return null;
    const kernel = manager.kernel;
    if (!kernel || ABSENT.includes(kernel.status)) return "gone";
    if (kernel.connectionStatus && kernel.connectionStatus !== "connected") return "gone";
    return kernel.status;
  }
  function look() {
    const status = seen(), silent = status === "busy" ? "busy" : status === null || silence < LOST ? "unsure" : "gone";
    const now = status === "gone" ? "gone" : silence > LATE ? silent : "alive";
    if (now === watch.state) return;
    watch.state = now;
    banner.textContent = words[now] ?? "";
    banner.hidden = now === "alive";
    onchange(now);
  }
  function tick() {
    silence += TICK;
    if (Date.now() - asked > AGAIN && !["gone", "busy"].includes(seen())) {
      asked = Date.now();
      if (watch.state === "busy") silence = 0;   // free again: its beat is on its way
      model.send({ do: "here" });
    }
    look();
  }
  const timer = setInterval(tick, TICK);
  const comm = () => look(), changed = () => { asked = Math.min(asked, Date.now() - AGAIN + CHANGED); };
  function off() { clearInterval(timer); model.off("change:view", changed); model.off("msg:custom", beat); model.off("comm_live_update", comm); }
  model.on("msg:custom", beat);
  model.on("comm_live_update", comm);
  model.on("change:view", changed);
  el.prepend(banner);
  tick();
  return watch;
}

// While a widget is visible, the static view that is stored below it for readers without a kernel is hidden.
/** @param {Model} model @returns {() => void} */
function hideKept(model) {
  const id = model.get("kept_mark");
  if (!id || !document.adoptedStyleSheets) return () => {};
  const sheet = new CSSStyleSheet(), mark = `[data-af-kept="${CSS.escape(id)}"]`;
  sheet.replaceSync(`${mark}, .jp-OutputArea-child:has(${mark}) { display: none !important }`);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  return () => { document.adoptedStyleSheets = document.adoptedStyleSheets.filter((s) => s !== sheet); };
}

// What every widget does: `render(model, el, kernel)` draws it and returns a function that cleans up.
/**
 * @template S
 * @param {string} name @param {(model: Model<S>, el: HTMLElement, kernel: Kernel) => () => void} render
 * @returns {{ render: (page: { model: Model<S>, el: HTMLElement }) => () => void }}
 */
const widget = (name, render) => ({
  render({ model, el }) {
    room(el, name);
    /** @type {OnState[]} */
    const changed = [], kernel = watchKernel(model, el, (state) => { for (const f of changed) f(state); });
    kernel.onchange = (f) => changed.push(f);
    const shown = hideKept(model), stop = render(model, el, kernel);
    return () => { stop?.(); kernel.off(); shown(); };
  },
});

// Sends requests to the kernel, one at a time. Of those made while one is pending, the last of each kind is sent
// afterwards; kinds in `dropped` are not, since what they refer to may be gone by then. `onwait` is called with the
// name of the pending request, and with "" when it was answered; `wish` returns false for a request that is not sent.
/**
 * @param {Model} model
 * @param {{ kernel?: Kernel, dropped?: string[], onwait?: (name: string) => void }} [options]
 * @returns {{ wish: Wish, off: () => void }}
 */
function wisher(model, { kernel, dropped = [], onwait = () => {} } = {}) {
  /** @type {Map<string, { do: string }>} */
  const kept = new Map();
  let busy = false;
  /** @param {{ do: string }} wish */
  const send = (wish) => { busy = true; model.send(wish); onwait(wish.do); };
  const heard = () => {
    busy = false;
    onwait("");
    for (const [name, wish] of kept) { kept.delete(name); send(wish); return; }
  };
  model.on("change:heard", heard);
  /** @type {Wish} */
  const wish = (name, more = {}) => {
    const made = { do: name, ...more };
    if (kernel?.gone()) return false;
    if (!busy) send(made);
    else if (!dropped.includes(name)) kept.set(name, made);
    else return false;
    return true;
  };
  return { wish, off: () => model.off("change:heard", heard) };
}

/** @param {number | null} value @param {number} [digits] @returns {string} */
const fixed = (value, digits = 1) => value == null ? "–" : value.toFixed(digits);
// Numbers as Python's `figure_text` writes them: two digits of the error; without an error, 3 decimals up to 1, else 1.
/** @param {number} x @returns {number} */
const powerOf = (x) => Number(x.toExponential(1).split("e")[1]);
/** @param {number | null} error @param {number} size @returns {boolean} */
const isError = (error, size) => error > Math.max(1e-12, 1e-9 * size, Math.min(1e-6 * size, 0.5e-6));
/** @param {number | null} error @param {number} value @returns {number} */
const decimalsFor = (error, value) => isError(error, Math.abs(value)) ? Math.max(0, Math.min(6, 1 - powerOf(error)))
  : Math.abs(value) <= 1 ? 3 : 1;
// Returns how to write a number (and its error) that is too small or too large for plain digits; null for all others.
/** @param {number} value @param {number | null} error @returns {((x: number) => string) | null} */
function inPowers(value, error) {
  const size = Math.abs(value), known = isError(error, size);
  const small = known ? error < 0.5e-6 : size > 1e-12 && size < 0.5e-3;
  if (!small && Math.max(size, known ? error : 0) < 1e9) return null;
  const last = known ? powerOf(error) - 1 : powerOf(size) - 2;               // power of the last digit shown
  return (x) => Math.abs(x) < 0.5 * 10 ** last ? "0"
    : x.toExponential(Math.max(0, Math.min(15, powerOf(x) - last))).replace(/e([+-])(\d)$/, "e$10$2");
}
/** @param {number | null} value @param {number | null} [error] @param {number} [digits] @returns {string} */
function plusMinus(value, error, digits) {
  const show = value != null && inPowers(value, error) || ((x) => fixed(x, digits ?? decimalsFor(error, value)));
  return show(value) + (error == null ? "" : ` ± ${show(error)}`);
}
/** @param {number} value */
const rounded = (value) => +value.toPrecision(3), tiny = (value) => value !== 0 && Math.abs(value) < 1e-4;
/** @param {number | null} value @returns {string} */
const tidy = (value) => value == null ? "–" : Math.abs(value) >= 100 ? value.toFixed(0)
  : tiny(value) ? rounded(value).toExponential() : String(rounded(value));

// A table with one row of headings; `rows` are elements.
/** @param {Child[]} heads @param {HTMLElement[]} rows @param {Attributes} [attributes] @returns {HTMLTableElement} */
const table = (heads, rows, attributes = {}) => node("table", attributes,
  node("thead", {}, node("tr", {}, heads.map((head) => head == null ? node("td", {}) : node("th", { scope: "col" }, head)))),
  node("tbody", {}, rows));

// A labeled field. In the fields below, `get` returns the value, and `set` is called with a new one.
/** @param {string} label @param {Element} element @returns {HTMLLabelElement & Lenient} */
function field(label, element) {
  element.setAttribute("aria-label", label);
  return node("label", { class: "af-field" }, node("span", {}, label), element);
}

/**
 * @param {string} label @param {string[][]} options  values and texts
 * @param {() => string | null} get @param {(value: string) => void} set @returns {Field}
 */
function select(label, options, get, set) {
  const list = node("select", { onchange: () => set(list.value) },
    options.map(([value, text]) => node("option", { value }, text)));
  return { element: field(label, list), show: () => { list.value = get() ?? options[0][0]; } };
}

// A number: a slider if `range` is true, a box otherwise. A new value is sent after a short pause.
/**
 * @param {string} label
 * @param {{ min: number, max?: number, step: number, range?: boolean, shown?: (value: number) => string }} options
 * @param {() => any} get @param {(value: number) => void} set @returns {Field}
 */
function number(label, { min, max, step, range = false, shown = String }, get, set) {
  let waiting;
  const input = node("input", { type: range ? "range" : "number", min, max, step }), readout = node("output", {});
  const value = () => {
    const given = input.value === "" ? min : Number(input.value);
    return Math.max(min, max == null ? given : Math.min(max, given));
  };
  input.addEventListener("input", () => {
    readout.textContent = shown(value());
    clearTimeout(waiting);
    waiting = setTimeout(() => set(value()), 150);
  });
  const element = field(label, input);
  if (range) element.append(readout);
  return {
    element,
    show: () => { if (document.activeElement !== input) input.value = get(); readout.textContent = shown(Number(get())); },
    stop: () => clearTimeout(waiting),
  };
}

/** @param {string} label @param {() => string} get @param {(text: string) => void} set @returns {Field} */
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

// A checkbox for each value; `set` is called with all checked values, in their order.
/**
 * @param {string} label @param {string[]} values
 * @param {() => string[]} get @param {(values: string[]) => void} set @returns {Field}
 */
function ticked(label, values, get, set) {
  /** @type {Map<string, HTMLInputElement>} */
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

/** @param {string} text @param {() => void} onclick @param {Attributes} [attributes] @returns {HTMLButtonElement & Lenient} */
const button = (text, onclick, attributes = {}) => node("button", { type: "button", onclick, ...attributes }, text);

// ── Charts ───────────────────────────────────────────────────────────────────────────────────────────────────────

const WIDE = 560, DASHES = ["", "7 4", "2 3", "8 3 2 3", "12 4", "12 4 2 4"];
const SYMBOLS = [   // around 0, 0; distinguishable without color
  () => svg("circle", { r: 4 }), () => svg("rect", { x: -3.6, y: -3.6, width: 7.2, height: 7.2 }),
  () => svg("path", { d: "M0-5 4.6 3.4-4.6 3.4Z" }), () => svg("path", { d: "M0-5 4.4 0 0 5-4.4 0Z" }),
  () => svg("path", { d: "M-4-4 4 4M-4 4 4-4", class: "af-open" }), () => svg("path", { d: "M0-5V5M-5 0H5", class: "af-open" }),
];

// A color has one meaning: gold is teal and the simulation orange everywhere, also in figures; nothing else has these.
const OWN_COLOURS = { gold: 0, simulated: 1 }, FREE = [2, 3, 4, 5];
/** @param {string[]} names @returns {number[]} */
const coloursOf = (names) => {
  const others = names.filter((name) => !(name in OWN_COLOURS));
  return names.map((name) => OWN_COLOURS[name] ?? FREE[others.indexOf(name) % FREE.length]);
};

// A look {colour, symbol, hollow} for each of these colors: no two are the same (up to 12 of one color), and
// consecutive ones also differ in grayscale. `shift` moves the first symbol tried.
/** @param {(number | string)[]} colours @param {(i: number) => number} [shift] @returns {Look[]} */
function looksOf(colours, shift = (i) => i) {
  const taken = new Set();
  return colours.map((colour, i) => {
    for (let k = 0; k < 12; k++) {
      const look = { colour, symbol: (shift(i) + k) % 6, hollow: k >= 6 }, name = JSON.stringify(look);
      if (!taken.has(name)) { taken.add(name); return look; }
    }
    return { colour, symbol: i % 6, hollow: false };
  });
}
/** @param {Series} s @param {number} i @returns {Look} */
const lookOf = (s, i) => s.look ?? { colour: i % 6, symbol: i % 6, hollow: false };
/** @param {{ colour: number | string }} look @returns {string} */
const paint = ({ colour }) => `--own: var(--af-${colour})`;
/** @param {Look} look @returns {SVGGElement} */
const symbolOf = ({ symbol, hollow }) => svg("g", { class: hollow ? "af-hollow" : null }, SYMBOLS[symbol]());

/** @param {number} low @param {number} high @param {boolean} [log] @returns {number[]} */
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

// Places names next to points {x, y, text} so that they overlap least; returns [{x, y, anchor}], one per point.
/**
 * @param {{ x: number, y: number, text: string }[]} points
 * @param {{ left: number, right: number, top: number, bottom: number }} edges
 * @returns {{ x: number, y: number, anchor: string }[]}
 */
function namePlaces(points, { left, right, top, bottom }) {
  const boxes = points.map((p) => [p.x - 5, p.y - 5, p.x + 5, p.y + 5]);
  /** @param {number[]} a  left, top, right and bottom */
  const covered = (a) => boxes.reduce((sum, b) =>
    sum + Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1])), 0);
  const tries = [0, -12, 12, -24, 24, -36, 36, -48, 48, -60, 60].flatMap((dy) => [[9, dy], [-9, dy]]);
  return points.map((p) => {
    const wide = 6.2 * p.text.length;
    const made = tries.map(([dx, dy]) => {
      const x = p.x + dx, y = Math.max(top + 9, Math.min(bottom - 2, p.y + 4 + dy)), start = dx > 0 ? x : x - wide;
      const box = [start, y - 10, start + wide, y + 2], out = Math.max(0, left - box[0]) + Math.max(0, box[2] - right);
      return { x, y, anchor: dx > 0 ? "start" : "end", box, cost: covered(box) + 20 * out + Math.abs(dy) / 4 };
    });
    const best = made.reduce((a, b) => b.cost < a.cost ? b : a);
    boxes.push(best.box);
    return best;
  });
}

// A chart of series {name, points: [{x, y, low, high, key, note, from}], line, look}. Each point can be reached with the
// arrow keys; `onpick` is called with (series, point) for a click or Enter, and the point under the pointer is described
// below. `frame` {x, y} fixes the axes, `named` writes a series' name next to its first point, and `from` {x, y} is the
// earlier position of a point.
/** @param {Chart} options @returns {HTMLElement} */
function chart({ title, x, y, series, height = 260, log = false, marks = [], onpick, chosen, frame = {}, named = false }) {
  const points = series.flatMap((s) => s.points);
  /** @param {Point} p */
  const own = (p) => [p.y, p.low, p.high].filter((v) => v != null);
  if (!points.length) return node("p", { class: "af-note" }, `${title}: nothing to show yet`);
  let [left, right] = frame.x ?? [Math.min(...points.map((p) => p.x)), Math.max(...points.map((p) => p.x))];
  let [low, high] = frame.y ?? [Math.min(...points.flatMap(own)), Math.max(...points.flatMap(own))];
  if (left === right) { left -= log ? left / 2 : 1; right += log ? right : 1; }
  if (low === high) { low -= Math.abs(low) / 10 || 1; high += Math.abs(high) / 10 || 1; }
  const gap = frame.y ? 0 : (high - low) * 0.06;
  [low, high] = [low - gap, high + gap];
  const edge = { left: 52, right: 12, top: 10, bottom: 38 }, scale = log ? Math.log2 : (v) => v;
  const spare = log || frame.x ? 0 : (right - left) * 0.02, span = scale(right) - scale(left) + 2 * spare;
  const end = WIDE - edge.right, floor = height - edge.bottom;
  /** @param {number} v @param {number} from @param {number} to @param {unknown} fixed @returns {number} */
  const within = (v, from, to, fixed) => fixed ? Math.max(from, Math.min(to, v)) : v;   // outside the frame: at its edge
  /** @param {number} v @returns {number} */
  const across = (v) => edge.left + (scale(within(v, left, right, frame.x)) - scale(left) + spare) / span * (end - edge.left);
  /** @param {number} v @returns {number} */
  const up = (v) => floor - (within(v, low, high, frame.y) - low) / (high - low) * (floor - edge.top);
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
  /** @type {(SVGGElement & Lenient)[][]} */
  const dots = [];
  series.forEach((s, i) => {
    const look = lookOf(s, i);
    /** @param {number[][]} places @returns {string} */
    const through = (places) => places.map(([at, v]) => `${across(at)} ${up(v)}`).join("L");
    const inner = svg("g", { style: paint(look), "data-series": s.name });
    for (const p of s.points.filter((p) => p.from)) {
      const at = { x1: across(p.from.x), y1: up(p.from.y), x2: across(p.x), y2: up(p.y) };
      inner.append(svg("g", { class: "af-trail" }, svg("line", at), svg("circle", { cx: at.x1, cy: at.y1, r: 3 })));
    }
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
      inner.append(svg("path", { class: "af-line", "stroke-dasharray": DASHES[look.symbol], d }));
    }
    const row = s.points.map((p) => {
      const worth = plusMinus(p.y, p.error, p.error != null ? undefined : Math.abs(p.y) < 10 ? 2 : 1);
      const text = p.note ?? `${s.name}: ${x} ${tidy(p.x)}, ${y} ${worth}`, tell = () => { said.textContent = text; };
      const dot = svg("g", {
        class: "af-dot", role: onpick ? "button" : "img", tabindex: -1, "aria-label": text,
        "aria-pressed": onpick ? String(chosen != null && p.key === chosen) : null,
        transform: `translate(${across(p.x)} ${up(p.y)})`, "data-key": p.key ?? "",
        onfocus: tell, onpointermove: tell, onclick: () => { refocus(dot); onpick?.(s, p); },
      }, svg("circle", { class: "af-reach", r: 10 }), symbolOf(look));
      return dot;
    });
    dots.push(row);
    inner.append(...row);
    drawn.append(inner);
  });
  if (named) {
    const heads = series.map((s) => ({ x: across(s.points[0].x), y: up(s.points[0].y), text: short(s.name, 22) }));
    namePlaces(heads, { left: edge.left, right: end, top: edge.top, bottom: floor }).forEach((place, i) => {
      const far = Math.abs(place.y - 4 - heads[i].y) > 14;          // a thin line leads to a name that is far away
      const leader = { class: "af-leader", x1: heads[i].x, y1: heads[i].y, x2: place.x, y2: place.y - 4 };
      drawn.prepend(far ? svg("line", leader) : "");
      drawn.append(svg("text", { class: "af-name", x: place.x, y: place.y, "text-anchor": place.anchor }, heads[i].text));
    });
  }
  if (dots.flat().length) dots.flat()[0].setAttribute("tabindex", 0);
  /** @param {KeyPress} event */
  const go = (event) => {
    /** @type {SVGGElement & Lenient} */
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
    refocus(next);
  };
  const legend = series.length > 1 || series[0].name ? node("ul", { class: "af-legend" }, series.map((s, i) => {
    const look = lookOf(s, i);
    const key = svg("g", { style: paint(look) },
      s.line ? svg("path", { class: "af-line", "stroke-dasharray": DASHES[look.symbol], d: "M0 6H30" }) : null,
      svg("g", { class: "af-dot", transform: "translate(15 6)" }, symbolOf(look)));
    return node("li", {}, svg("svg", { width: 30, height: 12, "aria-hidden": true }, key), " ", s.name);
  })) : null;
  return node("figure", { class: "af-chart", onkeydown: go }, node("figcaption", {}, title),
    svg("svg", { viewBox: `0 0 ${WIDE} ${height}`, role: "group", "aria-label": title }, drawn), said, legend);
}

// Redraws charts in place; keeps the focus on the same point, and the description of a point.
/** @param {HTMLElement} place @param {HTMLElement | HTMLElement[]} made */
function redraw(place, made) {
  const dot = place.contains(document.activeElement) ? document.activeElement.closest(".af-dot") : null;
  const [label, key] = ["aria-label", "data-key"].map((name) => dot?.getAttribute(name));
  const texts = () => [...place.querySelectorAll(".af-said")], said = texts().map((text) => text.textContent);
  place.replaceChildren(...[made].flat());
  const dots = [...place.querySelectorAll(".af-dot[role]")], known = new Set(dots.map((d) => d.getAttribute("aria-label")));
  /** @param {Element} d */
  const same = (d) => (key && d.getAttribute("data-key") === key) || d.getAttribute("aria-label") === label;
  if (dot) refocus(dots.find(same));
  texts().forEach((text, k) => { if (known.has(said[k])) text.textContent = said[k]; });
}

// ── Pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────

const SIDES = { 1: "◀ output 1", 1.5: "= tie", 2: "output 2 ▶" };
/** @param {number | null} p @returns {string} */
const verdict = (p) => p == null ? "no label"
  : SIDES[p] ?? (p < 1.5 ? `◀ output 1 (${Math.round(100 * (2 - p))} %)` : `output 2 (${Math.round(100 * (p - 1))} %) ▶`);
/** @param {number | null} p @returns {string} */
const sideOf = (p) => p == null ? "none" : p === 1.5 ? "tie" : p < 1.5 ? "one" : "two";
/** @param {string} text @param {number} most @returns {string} */
const short = (text, most) => text.length <= most ? text : text.slice(0, most - 1) + "…";

// Where `text` contains the search text, in upper or lower case: [[start, end], …].
/** @param {string} text @param {string} wanted @returns {number[][]} */
function hitsIn(text, wanted) {
  if (!wanted) return [];
  const searched = new RegExp(wanted.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"), "giu");
  return [...text.matchAll(searched)].map((hit) => [hit.index, hit.index + hit[0].length]);
}

// Parts [own, text] as elements; words that only this text has and search hits are marked.
/** @param {Piece[]} parts @param {string} [wanted] @returns {(HTMLElement | Text)[]} */
function pieces(parts, wanted = "") {
  const hits = hitsIn(parts.map(([, text]) => text).join(""), wanted), made = [];
  let at = 0;
  for (const [own, text] of parts) {
    const end = at + text.length, inside = hits.filter(([from, to]) => from < end && to > at);
    const cuts = [at, ...inside.flatMap(([from, to]) => [Math.max(from, at), Math.min(to, end)]), end];
    const bits = cuts.slice(1).map(
      /** @returns {[string, boolean]} */
      (to, k) => [text.slice(cuts[k] - at, to - at), k % 2 === 1]).filter(([bit]) => bit);
    const shown = bits.map(([bit, hit]) => hit ? node("mark", { class: "af-hit" }, bit) : document.createTextNode(bit));
    made.push(...(own ? [node("mark", { class: "af-own" }, shown)] : shown));
    at = end;
  }
  return made;
}
/** @param {string} text @param {string} wanted @returns {(HTMLElement | Text)[]} */
const withHits = (text, wanted) => pieces([[false, text]], wanted);

// A container that scrolls if its content is too wide, also by keyboard.
/** @param {string} label @param {...(Child | Child[])} children @returns {HTMLDivElement & Lenient} */
const scroller = (label, ...children) =>
  node("div", { class: "af-scroll", role: "region", tabindex: 0, "aria-label": label }, ...children);
