// @ts-check
// Curves of methods: a chart for each measure. If several judges judged, color stands for the judge, otherwise for the
// method; dash and symbol show what color does not.

/**
 * @typedef {{ value: number, error: number | null, key: string, step: number | null, n: number | null,
 *   kl: number | null }} MethodPoint
 * @typedef {{ method: string, measure: string, judge: string, points: MethodPoint[] }} MethodSeries
 * @typedef {{ series: MethodSeries[], methods: string[], judges: string[], measures: string[], axes: string[],
 *   sampled: boolean }} CurvesData
 * @typedef {{ axis: string, methods: string[], judges: string[], bands: boolean }} Shown
 * @typedef {{ title: string, rows: { instruction: string, output: string }[] }} Answers
 * @typedef {{ method: string, judge: string, measure: string, x: number, text: string }} Peak
 * @typedef {{ peaks: Peak[], answers: Answers | null, key: string, problem: string }} CurvesView
 * @typedef {{ data: CurvesData, shown: Shown, view: CurvesView }} CurvesTraits
 */

const AXES = { step: "training step", n: "candidates (n)", kl: "KL from the start, nats" };

// The look of each series; it does not depend on which of them are shown.
/** @param {CurvesData} data @returns {(s: MethodSeries) => Look} */
function seriesLooks({ series, methods, judges }) {
  const several = judges.length > 1, judge = coloursOf(judges), method = coloursOf(methods);
  /** @param {MethodSeries} s */
  const colour = (s) => several ? judge[judges.indexOf(s.judge)] ?? "grey" : method[methods.indexOf(s.method)];
  const kinds = [...new Map(series.map((s) => [`${s.method}\n${s.judge}`, s])).values()];
  const looks = looksOf(kinds.map(colour), (i) => methods.indexOf(kinds[i].method));
  return (s) => looks[kinds.findIndex((k) => k.method === s.method && k.judge === s.judge)];
}

// The series of one measure in the form that `chart` takes.
/**
 * @param {CurvesData} data @param {(s: MethodSeries) => Look} looks
 * @param {string} measure @param {Shown} shown @returns {Series[]}
 */
function seriesOf(data, looks, measure, { axis, methods, judges, bands }) {
  const wanted = data.series.filter((s) =>
    s.measure === measure && methods.includes(s.method) && (!s.judge || judges.includes(s.judge)));
  /** @param {MethodPoint} p @returns {Point} */
  const point = (p) => {
    const [low, high] = bands && p.error != null ? [p.value - p.error, p.value + p.error] : [null, null];
    return { x: p[axis], y: p.value, error: p.error, key: p.key, low, high };
  };
  return wanted.map((s) => ({
    name: s.judge ? `${s.method} by ${s.judge}` : s.method, line: true,
    look: looks(s),
    points: s.points.filter((p) => p[axis] != null).map(point).sort((a, b) => a.x - b.x),
  })).filter((s) => s.points.length);
}

// The model's answers at a point, or a note on how to see them.
/** @param {Answers | null} answers @param {boolean} sampled @returns {HTMLElement[]} */
function answersAt(answers, sampled) {
  if (!answers && !sampled) return [];
  if (!answers) {
    return [node("p", { class: "af-note" },
      "Choose a point (click, or arrow keys and Enter) to read what the model answered there.")];
  }
  const cell = (text) => node("td", { class: "af-text" }, text);
  const rows = answers.rows.map((r) => node("tr", {}, cell(r.instruction), cell(r.output)));
  return [node("h4", {}, answers.title), scroller("answers", table(["instruction", "output"], rows, { class: "af-answers" }))];
}

export default widget("curves", (/** @type {Model<CurvesTraits>} */ model, el, kernel) => {
  const { wish, off } = wisher(model, { kernel }), data = model.get("data"), looks = seriesLooks(data), shown = () => model.get("shown");
  /** @type {number} */
  let resting;
  /** @param {string} key */
  const look = (key) => { clearTimeout(resting); wish("look", { key }); };
  /** @param {Partial<Shown>} more */
  const change = (more) => { model.set("shown", { ...shown(), ...more }); model.save_changes(); };
  /** @param {(...parts: any[]) => Field} make @param {string} label @param {any[]} values @param {keyof Shown} key */
  const own = (make, label, values, key) => make(label, values, () => shown()[key], (v) => change({ [key]: v }));
  const fields = [
    data.axes.length > 1 ? own(select, "x axis", data.axes.map((a) => [a, AXES[a] ?? a]), "axis") : null,
    own(ticked, "methods", data.methods, "methods"),
    data.judges.length > 1 ? own(ticked, "win rate by", data.judges, "judges") : null,
  ].filter(Boolean);
  const bands = node("input", { type: "checkbox", onchange: () => change({ bands: bands.checked }) });
  const charts = node("div", { class: "af-charts" }), peaks = node("ul", { class: "af-peaks" });
  const answers = node("section", { "aria-label": "outputs at a point" });
  /** @param {string} measure @returns {HTMLElement | null} */
  const one = (measure) => {
    const { axis } = shown(), { key, peaks } = model.get("view"), series = seriesOf(data, looks, measure, shown());
    if (!series.length) return null;
    const tops = peaks.filter((p) => p.measure === measure);
    return chart({
      title: measure, x: AXES[axis] ?? axis, y: measure, series, log: axis === "n", chosen: key,
      marks: tops.map((p) => ({ x: p.x, text: `highest: ${p.method}` })),
      onpick: data.sampled ? (_, p) => look(p.key) : null,
    });
  };
  const draw = () => {
    const view = model.get("view");
    for (const f of fields) f.show();
    bands.checked = shown().bands;
    redraw(charts, data.measures.map(one).filter(Boolean));
    peaks.replaceChildren(...view.peaks.map((p) => node("li", {}, p.text)));
    answers.replaceChildren(...answersAt(view.answers, data.sampled));
  };
  // A point under a resting pointer is opened, too. Only moves of the pointer count, not a chart redrawn under it.
  /** @type {string | null} */
  let under = null;
  charts.addEventListener("pointermove", (/** @type {PointerEvent & { target: Element }} */ event) => {
    const dot = data.sampled ? event.target.closest?.(".af-dot[role]") : null, key = dot?.getAttribute("data-key") ?? null;
    if (key === under) return;
    under = key;
    clearTimeout(resting);
    if (key && key !== model.get("view").key) resting = setTimeout(() => look(key), 300);
  });
  const band = node("label", { class: "af-box" }, bands, " ± one standard error");
  el.append(node("div", { class: "af-fields" }, fields.map((f) => f.element), band), charts, peaks, answers);
  model.on("change:view", draw);
  model.on("change:shown", draw);
  draw();
  return () => { clearTimeout(resting); off(); model.off("change:view", draw); model.off("change:shown", draw); };
});
