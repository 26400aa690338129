// @ts-check
// The agreement board: pairwise agreement, bias and variance, preference biases, and the effect of label noise on them.

/**
 * @typedef {{ name: string, bias: number, bias_error: number, variance: number, variance_error: number }} Spread
 * @typedef {{ share: number, low: number, high: number }} Liking
 * @typedef {{ names: string[], matrix: (number | null)[][], shared: number[][], said: string, spread: Spread[],
 *   why: string, kinds: string[], reference: string | null, preference_biases: (Liking | null)[][], calm: Spread[],
 *   frame: { x: number[], y: number[] } }} Board
 * @typedef {PairsTraits & { board: Board, flip: number }} BoardTraits
 */

const LIKINGS = { longer: "longer output", list: "output with a list", shown_first: "output shown first", output_1: "output_1" };

// A table whose cells are buttons: one tab stop, and arrow keys between the cells.
/**
 * @param {string[]} names @param {(number | null)[][]} matrix @param {number[][]} shared
 * @param {(a: string, b: string) => void} pick @param {string | null} held  key of the cell with the focus
 * @returns {HTMLElement}
 */
function grid(names, matrix, shared, pick, held) {
  /** @param {number} i @param {number} j */
  const cell = (i, j) => {
    const rate = matrix[i][j], [a, b] = [names[i], names[j]], of = `${fixed(rate)} % of ${shared[i][j]} pairs`;
    if (i === j || rate == null) return null;
    const depth = 55 * Math.max(0, Math.min(1, (rate - 50) / 50));       // depth of the color, from 50 to 100 %
    return button(fixed(rate, 0), () => pick(a, b), {
      tabindex: -1, class: "af-cell", "data-key": `${i} ${j}`, style: `--share: ${Math.round(depth)}%`,
      title: `${a} and ${b}: ${of}`, "aria-label": `${a} and ${b} agree on ${of}: show where they do not`,
    });
  };
  const cells = names.map((_, i) => names.map((_, j) => cell(i, j))), all = cells.flat().filter(Boolean);
  const start = all.find((c) => c.getAttribute("data-key") === held) ?? all[0];
  start?.setAttribute("tabindex", 0);
  /** @param {KeyPress} event */
  const go = (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    const at = event.target.getAttribute?.("data-key");
    if (!step || !at) return;
    event.preventDefault();
    let [i, j] = at.split(" ").map(Number);
    do { [i, j] = [i + step[0], j + step[1]]; } while (cells[i]?.[j] === null);   // skips the diagonal
    if (!cells[i]?.[j]) return;
    for (const c of all) c.setAttribute("tabindex", -1);
    cells[i][j].setAttribute("tabindex", 0);
    refocus(cells[i][j]);
  };
  const heads = [null, ...names.map((name) => node("span", {}, name))];
  const rows = names.map((name, i) => node("tr", {}, node("th", { scope: "row" }, name), cells[i].map((c) => node("td", {}, c ?? "·"))));
  const about = { class: "af-matrix", onkeydown: go, "aria-label": "agreement of each two annotators in percent" };
  return node("div", { class: "af-scroll" }, table(heads, rows, about));   // its cells take the focus, so it is not a tab stop
}

/** @param {Liking | null} cell @param {number} digits @returns {HTMLElement} */
function liking(cell, digits) {
  if (!cell) return node("td", {}, "–");
  /** @param {number} v */
  const at = (v) => v * 0.7;
  const drawn = svg("svg", { width: 70, height: 12, "aria-hidden": true },
    svg("line", { class: "af-mark", x1: at(50), x2: at(50), y1: 0, y2: 12 }),
    svg("g", { style: "--own: currentColor" }, svg("line", { class: "af-bar", x1: at(cell.low), x2: at(cell.high), y1: 6, y2: 6 }),
      svg("circle", { class: "af-dot", cx: at(cell.share), cy: 6, r: 3.5 })));
  const [share, low, high] = [cell.share, cell.low, cell.high].map((v) => fixed(v, digits));
  return node("td", {}, `${share} [${low}, ${high}] `, drawn);
}

// The axes stay while labels are flipped, and a faint line leads from where each point was without noise.
/** @param {Board} board @returns {HTMLElement} */
function spreadChart({ spread, reference, why, names, calm, frame }) {
  if (!spread.length) return node("p", { class: "af-note" }, why);
  const looks = looksOf(coloursOf(names)), before = new Map(calm.map((s) => [s.name, s]));
  /** @param {Spread} s @returns {Point} */
  const point = (s) => {
    const from = before.get(s.name), moved = from && (from.bias !== s.bias || from.variance !== s.variance);
    /** @param {"bias" | "variance"} k */
    const was = (k) => fixed(from[k], decimalsFor(from[`${k}_error`], from[k]));
    const came = moved ? `; without noise: bias ${was("bias")} %, variance ${was("variance")} %` : "";
    return {
      x: s.variance, y: s.bias, low: s.bias - s.bias_error, high: s.bias + s.bias_error, key: s.name,
      from: moved ? { x: from.variance, y: from.bias } : null,
      note: `${s.name}: bias ${plusMinus(s.bias, s.bias_error)} %, variance ${plusMinus(s.variance, s.variance_error)} %${came}`,
    };
  };
  const series = spread.map((s) => ({ name: s.name, look: looks[names.indexOf(s.name)], points: [point(s)] }));
  const axes = { x: "variance, %", y: "bias, %", frame, named: true, height: 380 };
  return chart({ title: `Bias and variance relative to ${reference}; ± one standard error of the bias`, ...axes, series });
}

/** @param {Board} board @returns {HTMLElement} */
function likingsTable({ names, kinds, preference_biases: likings }) {
  /** @param {number} k  of `kinds` @returns {number[]} */
  const errors = (k) => likings.map((row) => row[k] ? (row[k].high - row[k].low) / 4 : 0).filter((error) => error > 0);
  const digits = kinds.map((_, k) => decimalsFor(errors(k).sort((a, b) => a - b)[0], 100));   // the same in the whole column
  /** @param {(Liking | null)[]} row */
  const cells = (row) => row.map((cell, k) => liking(cell, digits[k]));
  const rows = names.map((name, i) => node("tr", {}, node("th", { scope: "row" }, name), cells(likings[i])));
  return table([null, ...kinds.map((kind) => LIKINGS[kind] ?? kind)], rows);
}

export default widget("board", (/** @type {Model<BoardTraits>} */ model, el, kernel) => {
  const slider = { min: 0, max: 0.5, step: 0.05, range: true, shown: (v) => `${Math.round(100 * v)} %` };
  const flip = number("labels flipped", slider, () => model.get("flip"), (v) => { model.set("flip", v); model.save_changes(); });
  const said = node("p", { role: "status" }), picked = node("p", { class: "af-note", role: "status" });
  const matrix = node("div"), plot = node("div");
  const likings = scroller("what each annotator prefers"), heading = node("h4", {});
  likings.classList.add("af-likings");
  const pairs = node("section", { class: "af-explorer", "aria-label": "pairs" });
  /** @param {string} a @param {string} b */
  const pick = (a, b) => {
    model.set("query", { ...model.get("query"), a, b, relation: "disagree", order: "disagreement", page: 0, at: 0 });
    model.save_changes();
  };
  const draw = () => {
    const b = model.get("board"), focus = document.activeElement;
    const held = matrix.contains(focus) ? focus.getAttribute("data-key") : null;
    flip.show();
    said.textContent = b.said;
    matrix.replaceChildren(node("h4", {}, "Agreement of each two annotators, percent (choose a cell: the pairs on which they differ are listed at the end)"),
      grid(b.names, b.matrix, b.shared, pick, held));
    if (held) refocus(matrix.querySelector(`[data-key="${held}"]`));
    redraw(plot, spreadChart(b));
    likings.replaceChildren(node("h4", {}, "How often each annotator prefers the …, percent with 95 % interval (50: no preference)"), likingsTable(b));
  };
  const name = () => {
    const { relation, a, b } = model.get("query"), [first, second = first] = model.get("names").annotators;
    heading.textContent = relation === "disagree" ? `Where ${a ?? first} and ${b ?? second} disagree` : "Pairs";
    picked.textContent = relation === "disagree" ? `Listed at the end: where ${a ?? first} and ${b ?? second} disagree.` : " ";
  };
  el.append(node("div", { class: "af-fields" }, flip.element), said, matrix, picked, plot, likings, heading, pairs);
  const stop = browse(model, pairs, kernel);
  model.on("change:board", draw);
  model.on("change:query", name);
  draw(); name();
  return () => { stop(); flip.stop(); model.off("change:board", draw); model.off("change:query", name); };
});
