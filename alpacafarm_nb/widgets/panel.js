// The farm panel: settings above, the run below them, then the rows, and the pairs of the row that is open.

const CAPTION = "Win-rates against the reference outputs and paired differences, each ± one standard error; the dashed mark stands at 50 %.";
const LEASH = { "": "leash", kl_coef: "KL coefficient", beta: "beta" };

// A rate with its error as a bar from 0 to 100 %, with a mark at 50.
function rateBar(rate, error) {
  const at = (v) => Math.max(0, Math.min(100, v));
  return svg("svg", { width: 104, height: 16, viewBox: "-2 0 104 16", "aria-hidden": true, style: "--own: var(--af-0)" },
    svg("line", { class: "af-mark", x1: 50, x2: 50, y1: 0, y2: 16 }), svg("rect", { class: "af-share", x: 0, y: 4, width: at(rate), height: 8 }),
    svg("path", { class: "af-whisker", d: `M${at(rate - error)} 8H${at(rate + error)}M${at(rate - error)} 4V12M${at(rate + error)} 4V12` }));
}

const signed = (v, error) => v == null ? "" : `${v < 0 ? "−" : "+"}${Math.abs(v).toFixed(1)} ± ${fixed(error)}`;

// What a run is made with. What is typed stays here until it is sent, good or bad: the kernel says what is wrong.
function settingsForm(view, wish) {
  const values = { ...view.settings }, method = () => view.methods.find((m) => m.name === values.method);
  const choose = (label, key, options) => {
    const list = node("select", { onchange: () => { values[key] = list.value; if (key === "method") values.strength = null; show(); } }, options.map((o) => node("option", { value: o, selected: o === values[key] }, o)));
    return field(label, list);
  };
  const typed = (label, key, step) => {
    const input = node("input", { type: "number", step, oninput: () => { values[key] = input.value === "" ? null : Number(input.value); } });
    input.value = values[key] ?? "";
    return field(label, input);
  };
  const flip = node("input", { type: "range", min: 0, max: 0.5, step: 0.05, oninput: () => { values.p_label_flip = Number(flip.value); show(); } }), noise = node("output", {});
  const flips = field("labels flipped", flip), n = typed("n", "n", 1), leash = typed("leash", "strength", "any");
  flip.value = values.p_label_flip;
  flips.append(noise);
  const go = () => { if (!run.disabled) wish("run", { settings: values }); };
  const run = button("▶ run", go, { class: "af-go" }), note = node("p", { class: "af-note" });
  const element = node("div", { role: "group", "aria-label": "settings", onkeydown: (event) => { if (event.key === "Enter" && event.target.tagName === "INPUT") go(); } },
    node("div", { class: "af-fields" }, choose("method", "method", view.methods.map((m) => m.name)), n, leash, choose("labels by", "labels", view.labels), flips,
      typed("pairs", "n_pairs", "any"), typed("seed", "seed", "any"), choose("sizes", "size", view.sizes), run), note);
  const show = () => {
    const m = method(), [box, name] = [leash.querySelector("input"), leash.querySelector("span")];
    noise.textContent = `${Math.round(100 * values.p_label_flip)} %`;
    n.querySelector("input").disabled = !m.n;
    [n.title, leash.title] = [m.n ? "" : `${m.name} does not use it`, m.leash ? "" : `${m.name} does not use it`];
    name.textContent = LEASH[m.leash] ?? m.leash;
    box.setAttribute("aria-label", name.textContent);
    box.disabled = !m.leash;
    box.placeholder = m.strength ?? "";
    if (values.strength == null && document.activeElement !== box) box.value = "";
    note.textContent = view.notes[values.size];
  };
  show();
  return { element, show: (v) => { run.disabled = ["running", "stopping"].includes(v.run.state); } };
}

function rowsTable(wish) {
  const element = node("div", { class: "af-scroll" });
  let drawn = "";
  const row = (v, r) => node("tr", { class: r.name === v.open ? "af-chosen" : "" },
    node("th", { scope: "row" }, node("b", {}, r.name), node("div", { class: "af-note" }, r.about)),
    r.figures.flatMap((f) => [node("td", {}, `${fixed(f.rate)} ± ${fixed(f.error)} `, rateBar(f.rate, f.error)), node("td", {}, signed(f.gap, f.gap_error))]),
    node("td", {}, fixed(r.words)), node("td", {}, r.n), node("td", {}, r.own ? fixed(r.seconds, 0) : ""),
    node("td", { class: "af-buttons" }, button(r.name === v.open ? "close" : "open", () => wish("open", { name: r.name }), { "aria-label": `${r.name === v.open ? "close" : "open"} ${r.name}`, "data-key": `open ${r.name}` }), " ",
      r.own ? button("remove", () => wish("remove", { name: r.name }), { "aria-label": `remove ${r.name}`, "data-key": `remove ${r.name}`, disabled: v.run.state === "running" || v.run.state === "stopping" }) : null));
  const show = (v) => {
    const now = JSON.stringify([v.rows, v.open, v.run.state]);
    if (now === drawn) return;
    drawn = now;
    const held = element.contains(document.activeElement) ? document.activeElement.getAttribute("data-key") : null;
    const heads = ["model", ...v.judges.flatMap((j) => [`${j}, %`, "Δ to SFT"]), "words", "judged on", "seconds", ""];
    element.replaceChildren(...(v.rows.length ? [node("p", { class: "af-note" }, CAPTION), node("table", { class: "af-rows" }, node("thead", {}, node("tr", {}, heads.map((h) => node("th", { scope: "col" }, h)))), node("tbody", {}, v.rows.map((r) => row(v, r))))] : []));
    if (held) [...element.querySelectorAll("[data-key]")].find((b) => b.getAttribute("data-key") === held)?.focus();
  };
  return { element, show };
}

export default {
  render({ model, el }) {
    room(el, "panel");
    const view = () => model.get("view"), { wish, off } = wisher(model);
    const form = settingsForm(view(), wish), line = progressLine(wish), curves = curvesPart(wish), rows = rowsTable(wish);
    const running = node("details", { class: "af-running" }, node("summary", {}, "curves of the last training"), curves.element);
    const heading = node("h4", {}), pairs = node("section", { class: "af-explorer", "aria-label": "pairs of the open row" });
    // The explorer's part asks for `view`: that is what stands in `pairs` here.
    const own = (name) => name.replace("view", "pairs");
    const inner = { get: (name) => model.get(own(name)), set: (name, v) => model.set(own(name), v), save_changes: () => model.save_changes(), on: (e, f) => model.on(own(e), f), off: (e, f) => model.off(own(e), f) };
    let opened = null, stop = () => {};
    const browsePairs = () => {
      const v = view(), ready = v.open && model.get("pairs").of != null;
      [pairs.hidden, heading.hidden] = [!ready, !ready];
      if (!ready) { stop(); stop = () => {}; opened = null; pairs.replaceChildren(); return; }
      const base = v.rows.find((r) => r.name === v.open)?.own ? "SFT's" : "the reference's";
      heading.textContent = `Outputs of ${v.open} (2) beside ${base} (1), judged against each other`;
      if (opened === v.open) return;
      opened = v.open;
      stop();
      pairs.replaceChildren();
      stop = browse(inner, pairs);
    };
    const draw = () => {
      const v = view(), problem = v.problem || v.run.problem;
      form.show(v);
      line.show({ ...v.run, problem, said: v.run.said });
      curves.show(v.run);
      rows.show(v);
      [running.hidden, clear.hidden] = [!v.run.columns.length, v.rows.length < 2];
      browsePairs();
    };
    const clear = button("remove all rows", () => wish("clear"), { class: "af-clear" });
    el.append(form.element, line.element, running, rows.element, clear, heading, pairs);
    model.on("change:view", draw);
    model.on("change:pairs", browsePairs);
    draw();
    return () => { off(); stop(); model.off("change:view", draw); model.off("change:pairs", browsePairs); };
  },
};
