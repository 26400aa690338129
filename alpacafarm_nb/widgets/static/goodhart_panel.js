// @ts-check
// The goodhart panel: three settings, a guess, and then the curve next to the one with all switches off.

/**
 * @typedef {{ condition: string, method: string, judge: string }} Chosen
 * @typedef {{ chosen: Chosen, about: string, first: boolean, hidden: boolean, guess: string | null, question: string,
 *   guesses: string[], verdict: string, text: string, problem: string, charts: Chart[] }} GoodhartView
 * @typedef {{ view: GoodhartView, options: Record<keyof Chosen, string[][]> }} GoodhartTraits
 */

/** @type {[string, keyof Chosen][]} */
const SETTINGS = [["switch", "condition"], ["method", "method"], ["judged by", "judge"]];

export default widget("goodhart", (/** @type {Model<GoodhartTraits>} */ model, el, kernel) => {
  const { wish, off } = wisher(model, { kernel }), view = () => model.get("view"), options = model.get("options");
  const wanted = { ...view().chosen };
  const fields = SETTINGS.map(([label, key]) => select(label, options[key], () => view().chosen[key], (value) => {
    wanted[key] = value;                                  // all three: a request that waits is replaced by a later one
    wish("choose", { ...wanted });
  }));
  const first = node("input", { type: "checkbox", onchange: () => wish("ask", { first: first.checked }) });
  const about = node("p", { class: "af-note" }), problem = node("p", { class: "af-problem", role: "alert", hidden: true });
  const question = node("p", { class: "af-question" }), verdict = node("p", {}), text = node("p", {});
  // The buttons stay after a guess, so that the focus does; they are only marked as having no effect.
  /** @param {string} guess */
  const guess = (guess) => { if (!view().guess) wish("guess", { guess }); };
  const buttons = view().guesses.map((g) => button(g, () => guess(g), { "data-guess": g }));
  const asking = node("div", { role: "group", "aria-label": "your guess" }, question,
    node("div", { class: "af-line-up" }, buttons));
  const charts = node("div", { class: "af-charts" });
  const draw = () => {
    const v = view();
    Object.assign(wanted, v.chosen);
    for (const f of fields) f.show();
    first.checked = v.first;
    about.textContent = v.about;
    asking.hidden = !v.hidden && !v.guess;
    question.textContent = v.question;
    for (const b of buttons) {
      b.setAttribute("aria-pressed", v.guess === b.getAttribute("data-guess"));
      b.setAttribute("aria-disabled", v.guess != null);
    }
    [problem.hidden, problem.textContent] = [!v.problem, v.problem];
    [verdict.hidden, verdict.textContent] = [!v.verdict, v.verdict];
    [text.hidden, text.textContent] = [!v.text, v.text];
    redraw(charts, v.charts.map((c) => chart(c)));
  };
  const said = node("div", { role: "status" }, verdict, text);
  el.append(node("div", { class: "af-fields" }, fields.map((f) => f.element),
    node("label", { class: "af-box" }, first, " guess first")), about, problem, asking, said, charts);
  model.on("change:view", draw);
  draw();
  return () => { off(); model.off("change:view", draw); };
});
