// @ts-check
// A run in progress: how far it is, its curves, the policy's answers. `view` is what the kernel reports of it.

/**
 * @typedef {{ state: string, said: string, share: number | null, steps: string, live: boolean,
 *   problem: string }} RunView
 * @typedef {{ column: string, series: { name: string, points: number[][] }[] }} Curve  step, value, and maybe low, high
 * @typedef {{ columns: string[], chosen: string[], curves: Curve[] }} RunCurves
 * @typedef {{ instruction: string, input: string, before: Piece[], now: Piece[], score_before: number | null,
 *   score: number | null }} Answered
 * @typedef {{ looks: number[], look: { step: number, first: number, rows: Answered[] } | null }} RunLooks
 */

/**
 * @template V
 * @typedef {{ element: HTMLElement, show: (view: V) => void }} Part
 */

const STATES = { running: "▶", stopping: "⏸", stopped: "■", done: "✓", failed: "✗" }, CROWDED = 40;

// The top line: stop button, progress bar, state and steps.
/** @param {Wish} wish @returns {Part<RunView>} */
function progressLine(wish) {
  const bar = node("progress", { max: 1, "aria-label": "steps done" }), steps = node("span", { class: "af-steps" });
  const state = node("span", { class: "af-status", role: "status" }), problem = node("p", { class: "af-problem", role: "alert" });
  const stop = button("■ stop", () => wish("stop"), { class: "af-stop" });
  const element = node("div", {}, node("div", { class: "af-line-up" }, stop, bar, state, steps), problem);
  /** @param {RunView} v */
  const show = (v) => {
    const said = `${STATES[v.state] ?? ""} ${v.said}`.trim();
    if (state.textContent !== said) state.textContent = said;     // read aloud only when it changes
    if (v.share == null) bar.removeAttribute("value"); else bar.value = v.share;
    steps.textContent = v.steps;
    [stop.hidden, bar.hidden, stop.disabled] = [!v.live, !v.live, v.state !== "running"];
    [problem.textContent, problem.hidden] = [v.problem, !v.problem];
  };
  return { element, show };
}

// Small charts, one per column; checkboxes above them select the columns.
/** @param {Wish} wish @returns {Part<RunCurves>} */
function curvesPart(wish) {
  const boxes = node("div", {}), charts = node("div", { class: "af-charts af-small" }),
    /** @type {Map<string, HTMLElement>} */
    places = new Map();
  let columns = "";
  /** @param {Curve} curve */
  const draw = (curve) => {
    const { column, series } = curve, place = places.get(column) ?? node("div", { class: "af-place" });
    const now = JSON.stringify(curve);
    places.set(column, place);
    if (place.dataset.drawn === now) return place;
    place.dataset.drawn = now;
    place.classList.toggle("af-crowded", series.some((s) => s.points.length > CROWDED));
    const said = place.matches(":hover") ? place.querySelector(".af-said")?.textContent : "";
    /** @param {string} name @returns {(values: number[]) => Point} */
    const point = (name) => ([x, y, low, high]) => {
      const spread = low == null ? "" : `, from ${tidy(low)} to ${tidy(high)}`;
      const note = `${name ? name + ", " : ""}step ${x}: ${column} ${tidy(y)}${spread}`;
      return { x, y, low, high, note, key: `${name} ${x}` };
    };
    const looks = looksOf(coloursOf(series.map((s) => s.name)));
    const drawn = series.map((s, i) => ({ name: s.name, line: true, look: looks[i], points: s.points.map(point(s.name)) }))
      .filter((s) => s.points.length);
    redraw(place, chart({ title: column, x: "step", y: "", height: 220, series: drawn }));
    const line = place.querySelector(".af-said");
    if (said?.trim() && line && !line.textContent.trim()) line.textContent = said;   // the pointer is still there
    return place;
  };
  /** @param {RunCurves} v */
  const show = (v) => {
    if (columns !== v.columns.join("\n")) {
      columns = v.columns.join("\n");
      // @ts-expect-error the focus is on a checkbox
      const held = boxes.contains(document.activeElement) ? document.activeElement.value : null;
      boxes.replaceChildren(ticked("curves", v.columns, () => v.chosen, (chosen) => wish("choose", { columns: chosen })).element);
      if (held != null) refocus([...boxes.querySelectorAll("input")].find((b) => b.value === held));
    }
    boxes.hidden = !v.columns.length;
    const drawn = v.curves.map(draw);
    if (drawn.length !== charts.children.length || drawn.some((d, i) => charts.children[i] !== d)) charts.replaceChildren(...drawn);
  };
  return { element: node("div", {}, boxes, charts), show };
}

// Answers before the training and after a step that is chosen with a slider.
/** @param {Wish} wish @returns {Part<RunLooks>} */
function looksPart(wish) {
  const slider = node("input", { type: "range", min: 0, step: 1, class: "af-wide", oninput: () => {
    const at = Number(slider.value), last = at === steps.length - 1;
    readout.textContent = name(at);
    wish("look", { step: last ? null : steps[at] });       // at the end: always the newest answers
  } });
  const readout = node("output", {}), place = scroller("answers"), picker = field("answers after step", slider);
  /** @type {number[]} */
  let steps = [], drawn = "";
  /** @param {number} at  place in `steps` */
  const name = (at) => `${steps[at] ?? ""}${at === steps.length - 1 ? " (newest)" : ""}`;
  picker.append(readout);
  /** @param {Piece[]} parts @param {number | null} score */
  const cell = (parts, score) => node("td", { class: "af-text" }, pieces(parts),
    score == null ? null : node("div", { class: "af-note" }, `reward ${tidy(score)}`));
  /** @param {Answered} r */
  const row = (r) => {
    const asked = [r.instruction, r.input].filter(Boolean).join("\n");
    return node("tr", {}, node("th", { scope: "row", class: "af-text" }, asked), cell(r.before, r.score_before), cell(r.now, r.score));
  };
  const element = node("section", { "aria-label": "what the policy answers" }, node("div", { class: "af-fields" }, picker), place);
  /** @param {RunLooks} v */
  const show = (v) => {
    element.hidden = !v.look;
    if (!v.look) return;
    steps = v.looks;
    // @ts-expect-error a number becomes text
    slider.max = steps.length - 1;
    // @ts-expect-error a number becomes text
    slider.value = steps.indexOf(v.look.step);
    slider.disabled = steps.length < 2;
    readout.textContent = name(Number(slider.value));
    slider.setAttribute("aria-valuetext", `step ${v.look.step}`);
    if (drawn === JSON.stringify(v.look)) return;
    drawn = JSON.stringify(v.look);
    const { first, step, rows } = v.look, before = first === 0 ? "before training" : `after step ${first}`;
    place.replaceChildren(table(["instruction", before, `after step ${step}`], rows.map(row), { class: "af-looks" }));
  };
  return { element, show };
}
