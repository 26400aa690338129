// The agreement board: who agrees with whom, bias and variance, likings, and what label noise does to all of them.

const LIKINGS = { longer: "longer output", list: "output with a list", shown_first: "output shown first", output_1: "output_1" };

// A table whose cells are buttons: one stop for Tab, arrows between the cells.
function grid(names, matrix, shared, pick, held) {
  const cells = names.map((a, i) => names.map((b, j) => i === j || matrix[i][j] == null ? null : button(fixed(matrix[i][j], 0), () => pick(a, b), {
    tabindex: -1, class: "af-cell", "data-key": `${i} ${j}`, "aria-label": `${a} and ${b} agree in ${fixed(matrix[i][j])} % of ${shared[i][j]} pairs: show where they do not`,
    title: `${a} and ${b}: ${fixed(matrix[i][j])} % of ${shared[i][j]} pairs`, style: `--share: ${Math.round(Math.max(0, Math.min(1, (matrix[i][j] - 50) / 50)) * 55)}%`,
  })));
  const all = cells.flat().filter(Boolean), start = all.find((c) => c.getAttribute("data-key") === held) ?? all[0];
  start?.setAttribute("tabindex", 0);
  const go = (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key], at = event.target.getAttribute?.("data-key");
    if (!step || !at) return;
    event.preventDefault();
    let [i, j] = at.split(" ").map(Number);
    do { [i, j] = [i + step[0], j + step[1]]; } while (cells[i]?.[j] === null);   // over the diagonal
    if (!cells[i]?.[j]) return;
    for (const c of all) c.setAttribute("tabindex", -1);
    cells[i][j].setAttribute("tabindex", 0);
    cells[i][j].focus();
  };
  return node("div", { class: "af-scroll" }, node("table", { class: "af-matrix", onkeydown: go, "aria-label": "agreement of each two annotators, percent" },
    node("thead", {}, node("tr", {}, node("td", {}), names.map((n) => node("th", { scope: "col" }, node("span", {}, n))))),
    node("tbody", {}, names.map((n, i) => node("tr", {}, node("th", { scope: "row" }, n), cells[i].map((c) => node("td", {}, c ?? "·")))))));
}

function liking(cell) {
  if (!cell) return node("td", {}, "–");
  const at = (v) => v * 0.7;
  return node("td", {}, `${fixed(cell.share, 0)} [${fixed(cell.low, 0)}, ${fixed(cell.high, 0)}] `, svg("svg", { width: 70, height: 12, "aria-hidden": true },
    svg("line", { class: "af-mark", x1: at(50), x2: at(50), y1: 0, y2: 12 }),
    svg("g", { style: "--own: var(--af-0)" }, svg("line", { class: "af-bar", x1: at(cell.low), x2: at(cell.high), y1: 6, y2: 6 }),
      svg("circle", { class: "af-dot", cx: at(cell.share), cy: 6, r: 3.5 }))));
}

export default {
  render({ model, el }) {
    room(el, "board");
    const flip = number("labels flipped", { min: 0, max: 0.5, step: 0.05, range: true, shown: (v) => `${Math.round(100 * v)} %` }, () => model.get("flip"),
      (v) => { model.set("flip", v); model.save_changes(); });
    const said = node("p", { role: "status" }), matrix = node("div"), plot = node("div"), likings = node("div", { class: "af-scroll af-likings" });
    const pairs = node("section", { class: "af-explorer", "aria-label": "pairs" }), heading = node("h4", {});
    const pick = (a, b) => {
      model.set("query", { ...model.get("query"), a, b, relation: "disagree", order: "disagreement", page: 0, at: 0 });
      model.save_changes();
      heading.scrollIntoView({ block: "nearest" });
    };
    const draw = () => {
      const b = model.get("board"), held = matrix.contains(document.activeElement) ? document.activeElement.getAttribute("data-key") : null;
      flip.show();
      said.textContent = b.said;
      matrix.replaceChildren(node("h4", {}, "Agreement of each two, percent (choose a cell to see where they differ)"), grid(b.names, b.matrix, b.shared, pick, held));
      if (held) matrix.querySelector(`[data-key="${held}"]`)?.focus();
      redraw(plot, b.spread.length ? chart({ title: `Bias and variance, beside ${b.reference}`, x: "variance, %", y: "bias, %", height: 300,
        series: b.spread.map((s, i) => ({ name: s.name, colour: i, points: [{ x: s.variance, y: s.bias, low: s.bias - s.bias_error, high: s.bias + s.bias_error,
          note: `${s.name}: bias ${plusMinus(s.bias, s.bias_error)} %, variance ${plusMinus(s.variance, s.variance_error)} %` }] })) })
        : node("p", { class: "af-note" }, b.why));
      likings.replaceChildren(node("h4", {}, "How often each prefers, percent with 95 % interval (50: no liking)"), node("table", {},
        node("thead", {}, node("tr", {}, node("td", {}), b.kinds.map((k) => node("th", { scope: "col" }, LIKINGS[k] ?? k)))),
        node("tbody", {}, b.names.map((n, i) => node("tr", {}, node("th", { scope: "row" }, n), b.likings[i].map(liking))))));
    };
    const name = () => { const q = model.get("query"); heading.textContent = q.relation === "disagree" ? `Where ${q.a ?? b0()} and ${q.b ?? b0(1)} disagree` : "Pairs"; };
    const b0 = (k = 0) => model.get("names").annotators[Math.min(k, model.get("names").annotators.length - 1)];
    el.append(node("div", { class: "af-fields" }, flip.element), said, matrix, node("div", { class: "af-charts" }, plot, likings), heading, pairs);
    const stop = browse(model, pairs);
    model.on("change:board", draw);
    model.on("change:query", name);
    draw(); name();
    return () => { stop(); flip.stop(); model.off("change:board", draw); model.off("change:query", name); };
  },
};
