// Curves of methods: a chart for each measure, judges told apart by dash and symbol, methods by colour.

const AXES = { step: "training step", n: "candidates (n)", kl: "KL from the start, nats" };

function ticked(label, values, get, set) {
  const boxes = values.map((v) => {
    const box = node("input", { type: "checkbox", onchange: () => set(values.filter((_, i) => boxes[i].checked)) });
    box.checked = get().includes(v);
    return box;
  });
  const element = node("fieldset", { class: "af-ticked" }, node("legend", {}, label), values.map((v, i) => node("label", {}, boxes[i], " ", v || "all")));
  return { element, show: () => values.forEach((v, i) => { boxes[i].checked = get().includes(v); }) };
}

export default {
  render({ model, el }) {
    room(el, "curves");
    const { wish, off } = wisher(model), data = model.get("data"), shown = () => model.get("shown");
    let resting;
    const look = (key) => { clearTimeout(resting); wish("look", { key }); };
    const change = (more) => { model.set("shown", { ...shown(), ...more }); model.save_changes(); };
    const fields = [
      data.axes.length > 1 ? select("against", data.axes.map((a) => [a, AXES[a] ?? a]), () => shown().axis, (axis) => change({ axis })) : null,
      ticked("methods", data.methods, () => shown().methods, (methods) => change({ methods })),
      data.judges.length > 1 ? ticked("win-rate by", data.judges, () => shown().judges, (judges) => change({ judges })) : null,
    ].filter(Boolean);
    const bands = node("input", { type: "checkbox", onchange: () => change({ bands: bands.checked }) });
    const charts = node("div", { class: "af-charts" }), peaks = node("ul", { class: "af-peaks" }), answers = node("section", { "aria-label": "outputs at a point" });
    const one = (measure) => {
      const { axis, methods, judges, bands: withBands } = shown();
      const series = data.series.filter((s) => s.measure === measure && methods.includes(s.method) && (!s.judge || judges.includes(s.judge)));
      const made = series.map((s) => ({
        name: s.judge ? `${s.method} by ${s.judge}` : s.method, line: true, colour: data.methods.indexOf(s.method), look: data.judges.indexOf(s.judge),
        points: s.points.filter((p) => p[axis] != null).map((p) => ({ x: p[axis], y: p.value, error: p.error, key: p.key,
          low: withBands && p.error != null ? p.value - p.error : null, high: withBands && p.error != null ? p.value + p.error : null })).sort((a, b) => a.x - b.x),
      })).filter((s) => s.points.length);
      const top = model.get("view").peaks.filter((p) => p.measure === measure);
      return made.length ? chart({ title: measure, x: AXES[axis] ?? axis, y: measure, series: made, log: axis === "n", chosen: model.get("view").key,
        marks: top.map((p) => ({ x: p.x, text: `highest: ${p.method}` })), onpick: data.sampled ? (s, p) => look(p.key) : null }) : null;
    };
    const draw = () => {
      const view = model.get("view");
      for (const f of fields) f.show();
      bands.checked = shown().bands;
      redraw(charts, data.measures.map(one).filter(Boolean));
      peaks.replaceChildren(...view.peaks.map((p) => node("li", {}, p.text)));
      answers.replaceChildren(...(view.answers ? [node("h4", {}, view.answers.title), node("table", {}, node("thead", {}, node("tr", {}, ["instruction", "output"].map((h) => node("th", { scope: "col" }, h)))),
        node("tbody", {}, view.answers.rows.map((r) => node("tr", {}, node("td", { class: "af-text" }, r.instruction), node("td", { class: "af-text" }, r.output)))))]
        : data.sampled ? [node("p", { class: "af-note" }, "Choose a point (click, or arrow keys and Enter) to read what the model answered there.")] : []));
    };
    // A point under a resting pointer is looked up, too; a move counts, not a chart that is drawn anew below it.
    let under = null;
    charts.addEventListener("pointermove", (event) => {
      const key = data.sampled ? event.target.closest?.(".af-dot[role]")?.getAttribute("data-key") ?? null : null;
      if (key === under) return;
      under = key;
      clearTimeout(resting);
      if (key && key !== model.get("view").key) resting = setTimeout(() => look(key), 300);
    });
    el.append(node("div", { class: "af-fields" }, fields.map((f) => f.element), node("label", { class: "af-box" }, bands, " ± one standard error")), charts, peaks, answers);
    model.on("change:view", draw);
    model.on("change:shown", draw);
    draw();
    return () => { clearTimeout(resting); off(); model.off("change:view", draw); model.off("change:shown", draw); };
  },
};
