// @ts-check
// The labeling desk: one pair, left and right. The page never receives which output is which.

/**
 * @typedef {{ number: number, instruction: string, input: string, left: string, right: string }} DeskPair
 * @typedef {{ name: string, agreement: number, low: number, high: number, n: number }} Agreement  in percent
 * @typedef {{ pair: DeskPair | null, done: number, total: number, labeler: string, labelers: string[],
 *   agreement: Agreement[], saved: string, problem: string }} DeskView
 */

// Keys that have no other use: arrows scroll, and text can be selected. They work while the focus is in the desk.
const KEYS = { 1: "left", 2: "right", 0: "tie" }, WAITING = 1000;

export default widget("desk", (/** @type {Model<{ view: DeskView }>} */ model, el, kernel) => {
  const view = () => model.get("view");
  /** @type {number} */
  let late, lost = "", waiting = "", shown = "";
  /** @param {string} name  of the pending request, or "" */
  const waits = (name) => {   // a request is shown as done when the kernel confirms it, and not before
    clearTimeout(late);
    waiting = name;
    note.textContent = "";
    if (name) late = setTimeout(() => { note.textContent = `${name === "label" ? "not kept" : "not done"} yet: waiting for the kernel …`; }, WAITING);
    else lost = "";
    enable();
  };
  const { wish, off } = wisher(model, { kernel, dropped: ["label", "skip", "undo"], onwait: waits });
  /** @param {string} name @param {object} [more] */
  const ask = (name, more) => {
    if (wish(name, more) || waiting) return;
    lost = `Not ${name === "label" ? "kept" : "done"}: the kernel does not answer.`;
    draw();
  };
  /** @param {string} side */
  const say = (side) => { const p = view().pair; if (p) ask("label", { pair: p.number, side }); };
  const skip = () => { const p = view().pair; if (p) ask("skip", { pair: p.number }); };
  const undo = () => { if (view().done) ask("undo"); };

  const sit = () => { if (name.value !== view().labeler) ask("sit", { name: name.value }); };
  const name = node("input", { type: "text", onchange: sit, onkeydown: (event) => { if (event.key === "Enter") sit(); } });
  const people = node("select", { onchange: () => ask("sit", { name: people.value }) });
  const bar = node("progress", { max: 1, value: 0, "aria-label": "pairs labeled" });
  const status = node("span", { class: "af-status", role: "status" }), problem = node("p", { class: "af-problem", role: "alert" });
  const note = node("span", { class: "af-note", role: "status" });
  const asked = node("h3", { class: "af-text" }), input = node("div", { class: "af-input af-text" });
  const sides = ["left", "right"], texts = sides.map(() => node("div", { class: "af-text" }));
  const boxes = sides.map((side, k) => node("div", { class: "af-output", tabindex: 0, role: "group", "aria-label": `${side} output` },
    node("h4", {}, side), texts[k]));
  const outputs = node("div", { class: "af-outputs" }, boxes), end = node("p", { class: "af-status" }, "You have labeled every pair.");
  const pair = node("section", { "aria-label": "the pair" }, asked, input, outputs, end);
  /** @param {string} text @param {string} key @param {() => void} act */
  const keyed = (text, key, act) => button(text, act, { "aria-keyshortcuts": key });
  const buttons = {
    left: keyed("◀ left is better (1)", "1", () => say("left")), tie: keyed("= tie (0)", "0", () => say("tie")),
    right: keyed("right is better (2) ▶", "2", () => say("right")), skip: keyed("skip (s)", "s", skip), undo: keyed("undo (u)", "u", undo),
  };
  /** @param {KeyboardEvent} event */
  const press = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const key = event.key.toLowerCase(), act = KEYS[key] ? () => say(KEYS[key]) : { u: undo, s: skip }[key];
    if (act) { event.preventDefault(); act(); }
  };
  const about = "labeling desk: 1 for left, 2 for right, 0 for a tie, u to undo, s to skip; arrow keys scroll a long output";
  const desk = node("div", { class: "af-work", tabindex: 0, role: "group", "aria-label": about, onkeydown: press }, pair,
    node("div", { class: "af-fields af-keys" }, Object.values(buttons), note));
  const agreeing = node("div", { class: "af-agreeing" }), saved = node("span", { class: "af-note" });

  /** @param {Agreement[]} found @returns {HTMLElement} */
  const agreement = (found) => {
    if (!found.length) return node("p", { class: "af-note" }, "no one yet: label a pair, or pass `compare_with=`");
    /** @param {Agreement} a */
    const row = (a) => {
      const shown = (v) => fixed(v, decimalsFor((a.high - a.low) / 4, a.agreement));
      const cells = [`${shown(a.agreement)} %`, `${shown(a.low)} to ${shown(a.high)} %`, a.n];
      return node("tr", {}, node("th", { scope: "row" }, a.name), cells.map((text) => node("td", {}, text)));
    };
    const rows = found.map(row);
    return table(["", "agreement", "95 % interval", "pairs"], rows);
  };
  const enable = () => {
    const { pair: p, done } = view();
    for (const key of ["left", "tie", "right", "skip"]) buttons[key].setAttribute("aria-disabled", String(!p || Boolean(waiting)));
    buttons.undo.setAttribute("aria-disabled", String(!done || Boolean(waiting)));
  };
  const tell = () => {
    problem.textContent = lost || view().problem;
    problem.hidden = !problem.textContent;
  };
  /** @param {DeskPair | null} p */
  const show = (p) => {
    [outputs.hidden, asked.hidden, input.hidden, end.hidden] = [!p, !p, !p?.input, Boolean(p)];
    if (shown === (shown = JSON.stringify(p)) || !p) return;
    [asked.textContent, input.textContent] = [p.instruction, p.input];
    sides.forEach((side, k) => { texts[k].textContent = p[side]; boxes[k].scrollTop = 0; });
  };
  const draw = () => {
    const { pair: p, ...v } = view();
    if (document.activeElement !== name) name.value = v.labeler;
    people.replaceChildren(...v.labelers.map((n) => node("option", { value: n, selected: n === v.labeler }, n)));
    bar.value = v.done / v.total;
    status.textContent = `${v.done} of ${v.total} pairs labeled`;
    tell();
    show(p);
    enable();
    agreeing.replaceChildren(node("h4", {}, "You agree with"), agreement(v.agreement));
    saved.textContent = v.saved ? `written to ${v.saved}` : "";
  };
  kernel.onchange((state) => {
    if (state === "gone" && waiting === "label") lost = "The kernel was lost before it kept your last label: check that label again.";
    if (state === "alive" && !waiting) lost = "";
    tell();
  });
  const who = [field("your name", name), field("labelers so far", people), node("div", {}, bar, " ", status)];
  el.append(node("div", { class: "af-fields" }, who), problem, desk, agreeing,
    node("div", {}, button("export labels", () => ask("export")), " ", saved));
  model.on("change:view", draw);
  draw();
  return () => { clearTimeout(late); off(); model.off("change:view", draw); };
});
