// @ts-check
// The farm panel: settings above, the run below them, then the rows, and the pairs of the row that is open.

/**
 * @typedef {{ method: string, labels: string, p_label_flip: number, n_pairs: number, n: number,
 *   kl_strength: number | null, size: string, seed: number }} PanelSettings
 * @typedef {{ name: string, about: string, words: number, tokens: number | null, n: number, seconds: number,
 *   own: boolean, figures: { rate: number, error: number, gap: number | null, gap_error: number | null }[] }} PanelRow
 * @typedef {{ methods: { name: string, kl_setting: string, kl_strength: number | null, n: boolean }[],
 *   labels: string[], sizes: string[], notes: Record<string, string>, settings: PanelSettings,
 *   judges: string[], rows: PanelRow[], open: string | null, problem: string, run: RunView & RunCurves }} PanelView
 * @typedef {{ view: PanelView, pairs: Partial<PairsView>, query: Query, names: Names }} PanelTraits
 */

const CAPTION = "Win rates against the reference outputs and paired differences, each ± one standard error; "
  + "the dashed mark stands at 50 %. Tokens are those that were generated for an answer, discarded candidates and all.";
const BUSY = ["running", "stopping"];
const KL_LABELS = { "": "KL penalty", kl_coef: "KL coefficient", beta: "beta" };

// A rate with its error as a bar from 0 to 100 %, with a mark at 50.
/** @param {number} rate @param {number} error @param {number} colour @returns {SVGSVGElement} */
function rateBar(rate, error, colour) {
  const at = (v) => Math.max(0, Math.min(100, v)), [low, high] = [at(rate - error), at(rate + error)];
  const size = { width: 62, height: 16, viewBox: "-2 0 104 16", preserveAspectRatio: "none" };   // narrow: names need room
  return svg("svg", { ...size, "aria-hidden": true, style: paint({ colour }) },
    svg("line", { class: "af-mark", x1: 50, x2: 50, y1: 0, y2: 16 }),
    svg("rect", { class: "af-share", x: 0, y: 4, width: at(rate), height: 8 }),
    svg("path", { class: "af-whisker", d: `M${low} 8H${high}M${low} 4V12M${high} 4V12` }));
}

/** @param {number | null} v @param {number | null} error @returns {string} */
const signed = (v, error) => v == null ? "" : `${v < 0 ? "−" : "+"}${plusMinus(Math.abs(v), error)}`;

// What a run is made with. What is typed stays here until it is sent, good or bad: the kernel says what is wrong.
/** @param {PanelView} view @param {Wish} wish @returns {Part<PanelView>} */
function settingsForm(view, wish) {
  const values = { ...view.settings }, method = () => view.methods.find((m) => m.name === values.method);
  /** @param {string} label @param {string} key  of `values` @param {string[]} options */
  const choose = (label, key, options) => {
    const change = () => {
      values[key] = list.value;
      if (key === "method") values.kl_strength = null;
      show();
    };
    const list = node("select", { onchange: change },
      options.map((o) => node("option", { value: o, selected: o === values[key] }, o)));
    return field(label, list);
  };
  /** @param {string} label @param {string} key  of `values` @param {number | "any"} step */
  const typed = (label, key, step) => {
    const change = () => { values[key] = input.value === "" ? null : Number(input.value); };
    const input = node("input", { type: "number", step, oninput: change });
    input.value = values[key] ?? "";
    return field(label, input);
  };
  const turned = () => { values.p_label_flip = Number(flip.value); show(); };
  const flip = node("input", { type: "range", min: 0, max: 0.5, step: 0.05, oninput: turned }), noise = node("output", {});
  const flips = field("labels flipped", flip), n = typed("n", "n", 1), kl = typed("KL penalty", "kl_strength", "any");
  // @ts-expect-error a number becomes text
  flip.value = values.p_label_flip;
  flips.append(noise);
  const go = () => { if (!run.disabled) wish("run", { settings: values }); };
  const run = button("▶ run", go, { class: "af-go" }), note = node("p", { class: "af-note" });
  const fields = [choose("method", "method", view.methods.map((m) => m.name)), n, kl,
    choose("labels by", "labels", view.labels), flips, typed("pairs", "n_pairs", "any"), typed("seed", "seed", "any"),
    choose("sizes", "size", view.sizes)];
  /** @param {KeyPress} event */
  const enter = (event) => { if (event.key === "Enter" && event.target.tagName === "INPUT") go(); };
  const element = node("div", { role: "group", "aria-label": "settings", onkeydown: enter },
    node("div", { class: "af-fields" }, fields, run), note);
  const show = () => {
    const m = method(), [box, name] = [kl.querySelector("input"), kl.querySelector("span")];
    noise.textContent = `${Math.round(100 * values.p_label_flip)} %`;
    n.querySelector("input").disabled = !m.n;
    [n.title, kl.title] = [m.n ? "" : `${m.name} does not use it`, m.kl_setting ? "" : `${m.name} does not use it`];
    name.textContent = KL_LABELS[m.kl_setting] ?? m.kl_setting;
    box.setAttribute("aria-label", name.textContent);
    box.disabled = !m.kl_setting;
    // @ts-expect-error a number becomes text
    box.placeholder = m.kl_strength ?? "";
    if (values.kl_strength == null && document.activeElement !== box) box.value = "";
    note.textContent = view.notes[values.size];
  };
  show();
  return { element, show: (v) => { run.disabled = BUSY.includes(v.run.state); } };
}

/** @param {Wish} wish @returns {Part<PanelView>} */
function rowsTable(wish) {
  const element = scroller("rows");
  let drawn = "";
  /** @param {string} text @param {string} does @param {string} name @param {Attributes} [more] */
  const act = (text, does, name, more = {}) => button(text, () => wish(does, { name }),
    { "aria-label": `${text} ${name}`, "data-key": `${does} ${name}`, ...more });
  /** @param {PanelView} v @param {PanelRow} r */
  const row = (v, r) => {
    const open = r.name === v.open, colours = coloursOf(v.judges), busy = BUSY.includes(v.run.state), cell = (...children) => node("td", {}, ...children);
    const figures = r.figures.flatMap((f, k) =>
      [cell(`${plusMinus(f.rate, f.error)} `, rateBar(f.rate, f.error, colours[k])), cell(signed(f.gap, f.gap_error))]);
    return node("tr", { class: open ? "af-chosen" : "" },
      node("th", { scope: "row" }, node("b", {}, r.name), node("div", { class: "af-note" }, r.about)), figures,
      cell(fixed(r.words)), cell(fixed(r.tokens, 0)), cell(r.n), cell(r.own ? fixed(r.seconds, 0) : ""),
      node("td", { class: "af-buttons" }, act(open ? "close" : "open", "open", r.name), " ",
        r.own ? act("remove", "remove", r.name, { disabled: busy }) : null));
  };
  /** @param {PanelView} v */
  const show = (v) => {
    const now = JSON.stringify([v.rows, v.open, v.run.state]);
    if (now === drawn) return;
    drawn = now;
    const focus = document.activeElement, held = element.contains(focus) ? focus.getAttribute("data-key") : null;
    const heads = ["model", ...v.judges.flatMap((j) => [`${j}, %`, "Δ to SFT"]), "words", "tokens drawn", "judged on", "seconds", ""];
    const filled = [node("p", { class: "af-note" }, CAPTION), table(heads, v.rows.map((r) => row(v, r)), { class: "af-rows" })];
    element.replaceChildren(...(v.rows.length ? filled : []));
    if (held) refocus([...element.querySelectorAll("[data-key]")].find((b) => b.getAttribute("data-key") === held));
  };
  return { element, show };
}

export default widget("panel", (/** @type {Model<PanelTraits>} */ model, el, kernel) => {
  const view = () => model.get("view"), { wish, off } = wisher(model, { kernel });
  const form = settingsForm(view(), wish), line = progressLine(wish), curves = curvesPart(wish);
  const rows = rowsTable(wish);
  const running = node("details", { class: "af-running" },
    node("summary", {}, "curves of the last training"), curves.element);
  const heading = node("h4", {}), pairs = node("section", { class: "af-explorer", "aria-label": "pairs of the open row" });
  // The explorer's part asks for `view`: that is what stands in `pairs` here.
  /** @param {string} name @returns {any} */
  const own = (name) => name.replace("view", "pairs");
  /** @type {PairsModel} */
  const inner = {
    get: (name) => model.get(own(name)), set: (name, v) => model.set(own(name), v),
    save_changes: () => model.save_changes(),
    on: (event, f) => model.on(own(event), f), off: (event, f) => model.off(own(event), f),
  };
  let opened = null, stop = () => {};
  const browsePairs = () => {
    const v = view(), ready = v.open && model.get("pairs").of != null;
    [pairs.hidden, heading.hidden] = [!ready, !ready];
    if (!ready) { stop(); stop = () => {}; opened = null; pairs.replaceChildren(); return; }
    const base = v.rows.find((r) => r.name === v.open)?.own ? "SFT's" : "the reference's";
    heading.textContent = `Outputs of ${v.open} (2) compared with ${base} (1), judged against each other`;
    if (opened === v.open) return;
    opened = v.open;
    stop();
    pairs.replaceChildren();
    stop = browse(inner, pairs, kernel);
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
});
