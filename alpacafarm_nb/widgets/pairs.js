// Browsing pairs: `query` is what the page asks for, `view` what the kernel found.

const RELATIONS = {
  all: "all pairs", agree: "they agree", disagree: "they disagree", tie: "one says tie", unjudged: "one has no verdict",
};
const ORDERS = {
  given: "as given", disagreement: "most disputed first", length: "largest difference in length",
  agreement: "least disputed first",
};

function lengths(p) {
  const by = Math.abs(p.longer);
  return p.longer === 0 ? "both are equally long" : `output ${p.longer > 0 ? 2 : 1} is longer by ${by} character${by === 1 ? "" : "s"}`;
}

function onePair(p) {
  const output = (k) => {
    const by = p[`generator_${k}`];
    return node("div", { class: "af-output" }, node("h4", {}, `output ${k}${by ? ` · ${by}` : ""}`),
      node("div", { class: "af-text" }, pieces(p.pieces[k - 1])));
  };
  const facts = [`pair ${p.number}`, p.dataset, `${lengths(p)}; words that only one has are underlined`].filter(Boolean);
  const said = (v) => node("li", { class: `af-${sideOf(v.preference)}` }, node("b", {}, v.annotator), " ", verdict(v.preference));
  return [node("h3", { class: "af-text" }, p.instruction),
    p.input ? node("div", { class: "af-input af-text" }, p.input) : null,
    node("div", { class: "af-outputs" }, output(1), output(2)), node("p", { class: "af-note" }, facts.join(" · ")),
    node("ul", { class: "af-verdicts" }, p.verdicts.map(said))];
}

function browse(model, el) {
  const query = () => model.get("query"), names = model.get("names");
  const ask = (change) => { model.set("query", { ...query(), page: 0, at: 0, ...change }); model.save_changes(); };
  const turn = (change) => ask({ page: model.get("view").page, ...change });
  const listed = (values, words) => values.map((v) => [v, words[v] ?? v]), people = listed(names.annotators, {});
  const choose = (label, key, options) => select(label, options, () => query()[key], (v) => ask({ [key]: v }));
  const fields = [
    choose("annotator", "a", people),
    select("beside", people, () => query().b ?? people[Math.min(1, people.length - 1)][0], (b) => ask({ b })),
    choose("show", "relation", listed(names.relations, RELATIONS)),
    choose("order", "order", listed(names.orders, ORDERS)),
    names.datasets.length ? choose("data set", "dataset", [["", "all"], ...listed(names.datasets, {})]) : null,
    names.generators.length > 1 ? choose("model", "generator", [["", "all"], ...listed(names.generators, {})]) : null,
    search("contains", () => query().text, (text) => ask({ text })),
    number("lengths differ by", { min: 0, step: 10 }, () => query().apart, (v) => ask({ apart: Math.floor(v) || 0 })),
  ].filter(Boolean);
  const count = node("span", { class: "af-count", role: "status" });
  const list = node("ul", { class: "af-list", role: "listbox", tabindex: 0, "aria-label": "pairs" });
  const pager = node("div", { class: "af-pager" }), pair = node("section", { class: "af-pair", "aria-label": "the pair" });
  const before = button("‹ before", () => turn({ page: model.get("view").page - 1 }));
  const next = button("next ›", () => turn({ page: model.get("view").page + 1 })), where = node("span", {});
  pager.append(before, where, next);
  const move = (step) => {   // from where the last wish led, since the kernel may not have answered it yet
    const { page, at } = query(), to = page * names.page + at + step;
    if (to >= 0 && to < model.get("view").found) ask({ page: Math.floor(to / names.page), at: to % names.page });
  };
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); move(step); }
  });
  const draw = () => {
    const view = model.get("view"), p = view.pair;
    for (const f of fields) f.show();
    count.textContent = view.problem || `${view.found.toLocaleString("en")} of ${view.of.toLocaleString("en")} pairs`;
    const option = (row, i) => {
      const about = { role: "option", id: `${names.id}-${i}`, "aria-selected": String(i === view.at) };
      const votes = node("span", { class: "af-votes", title: "verdicts for output 1, ties, verdicts for output 2" },
        `◀${row.first} =${row.ties} ▶${row.second}`);
      return node("li", { ...about, onclick: () => turn({ at: i }) }, votes, node("span", {}, row.text));
    };
    list.replaceChildren(...view.rows.map(option));
    list.setAttribute("aria-activedescendant", `${names.id}-${view.at}`);
    list.children[view.at]?.scrollIntoView?.({ block: "nearest" });
    [before.disabled, next.disabled] = [view.page <= 0, view.page + 1 >= view.pages];
    where.textContent = `page ${view.page + 1} of ${view.pages}`;
    pair.replaceChildren(...(p ? onePair(p).filter(Boolean) : [node("p", {}, view.problem || "No pair is left: widen the filters.")]));
  };
  el.append(node("div", { class: "af-fields" }, fields.map((f) => f.element)), count,
    node("div", { class: "af-columns" }, node("div", { class: "af-side" }, list, pager), pair));
  model.on("change:view", draw);
  draw();
  return () => { for (const f of fields) f.stop?.(); model.off("change:view", draw); };
}
