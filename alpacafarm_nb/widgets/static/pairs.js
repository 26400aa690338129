// @ts-check
// Browsing pairs: `query` is the page's search, `view` what the kernel found.

/** @typedef {{ annotator: string, preference: number | null, reason?: string }} Verdict */
/**
 * @typedef {{ a: string | null, b: string | null, relation: string, dataset: string, generator: string, text: string,
 *   apart: number, order: string, page: number, at: number }} Query
 * @typedef {{ annotators: string[], datasets: string[], generators: string[], relations: string[], orders: string[],
 *   page: number, id: string }} Names
 * @typedef {{ number: number, instruction: string, input: string, output_1: string, output_2: string,
 *   generator_1: string, generator_2: string, dataset: string, pieces: Piece[][], verdicts: Verdict[], longer: number,
 *   alike: boolean }} Pair
 * @typedef {{ number: number, text: string, input: string, first: number, ties: number, second: number,
 *   generators: string[], words: number[], begin: string[] }} PairRow
 * @typedef {{ found: number, of: number, page: number, pages: number, rows: PairRow[], at: number, problem: string,
 *   pair: Pair | null }} PairsView
 * @typedef {{ query: Query, names: Names, view: PairsView }} PairsTraits
 * @typedef {Pick<Model<PairsTraits>, "get" | "set" | "save_changes" | "on" | "off">} PairsModel
 */

const RELATIONS = {
  all: "all pairs", agree: "they agree", disagree: "they disagree", tie: "one says tie", unjudged: "one gave no label",
};
const ORDERS = {
  given: "as given", disagreement: "most disputed first", length: "largest difference in length",
  agreement: "least disputed first",
};

const MARKS = { true: "words in only one output are underlined", false: "too few words in common to mark what differs" };

/** @param {Pair} p @returns {string} */
function lengths(p) {
  const by = Math.abs(p.longer);
  return p.longer === 0 ? "both have the same length" : `output ${p.longer > 0 ? 2 : 1} is longer by ${by} character${by === 1 ? "" : "s"}`;
}

// A judge's reasons, in its own words.
/** @param {Verdict[]} verdicts @returns {HTMLElement | null} */
function reasons(verdicts) {
  const given = verdicts.filter((v) => v.reason);
  if (!given.length) return null;
  const one = (v) => node("details", {}, node("summary", {}, `${v.annotator}: ${verdict(v.preference)}`),
    node("div", { class: "af-reason af-text" }, v.reason));
  return node("section", { class: "af-reasons", "aria-label": "what the judges wrote" }, node("h4", {}, "what the judges wrote"), given.map(one));
}

/** @param {Pair} p @param {string} wanted @returns {(HTMLElement | null)[]} */
function onePair(p, wanted) {
  /** @param {1 | 2} k */
  const output = (k) => {
    const by = p[`generator_${k}`], name = `output ${k}${by ? ` · ${by}` : ""}`;
    return node("div", { class: "af-output", tabindex: 0, role: "group", "aria-label": name }, node("h4", {}, name),
      node("div", { class: "af-text" }, pieces(p.pieces[k - 1], wanted)));
  };
  const same = p.output_1 === p.output_2 ? "both outputs are the same" : `${lengths(p)}; ${MARKS[p.alike]}`;
  const facts = [`pair ${p.number}`, p.dataset, same].filter(Boolean);
  const said = (v) => node("li", { class: `af-${sideOf(v.preference)}` }, node("b", {}, v.annotator), " ", verdict(v.preference));
  return [node("h3", { class: "af-text" }, withHits(p.instruction, wanted)),
    p.input ? node("div", { class: "af-input af-text" }, withHits(p.input, wanted)) : null,
    node("div", { class: "af-outputs" }, output(1), output(2)), node("p", { class: "af-note" }, facts.join(" · ")),
    node("ul", { class: "af-verdicts" }, p.verdicts.map(said)), reasons(p.verdicts)];
}

// A row of the list: the instruction, unless the row above has the same; models, lengths and beginnings of the outputs.
/** @param {PairRow} row @param {PairRow | undefined} above @param {string} wanted @returns {HTMLElement[]} */
function pairLine(row, above, wanted) {
  const same = above && above.text === row.text && above.input === row.input, by = row.generators.filter(Boolean).join(" | ");
  const votes = node("span", { class: "af-votes", title: "labels for output 1, ties, labels for output 2" },
    `◀${row.first} =${row.ties} ▶${row.second}`);
  const about = node("span", { class: "af-about" }, by ? node("b", {}, by) : null, by ? " " : "", `${row.words.join(" | ")} words`);
  const asked = same ? null : node("div", { class: "af-asked" }, withHits(row.text, wanted));
  const begins = row.begin.map((text, k) => node("div", { class: "af-begin" }, `${k + 1}: `, withHits(text, wanted)));
  return [asked, node("div", { class: "af-one-pair" }, votes, about), ...begins].filter(Boolean);
}

/** @param {PairsModel} model @param {HTMLElement} el @param {Kernel} kernel @returns {() => void} */
function browse(model, el, kernel) {
  const query = () => model.get("query"), names = model.get("names");
  /** @param {Partial<Query>} change */
  const ask = (change) => { model.set("query", { ...query(), page: 0, at: 0, ...change }); model.save_changes(); };
  /** @param {Partial<Query>} change */
  const turn = (change) => ask({ page: model.get("view").page, ...change });
  /** @param {string[]} values @param {Record<string, string>} words */
  const listed = (values, words) => values.map((v) => [v, words[v] ?? v]), people = listed(names.annotators, {});
  /** @param {string} label @param {"a" | "relation" | "order" | "dataset" | "generator"} key @param {string[][]} options */
  const choose = (label, key, options) => select(label, options, () => query()[key], (v) => ask({ [key]: v }));
  const fields = [
    choose("annotator", "a", people),
    select("compared with", people, () => query().b ?? people[Math.min(1, people.length - 1)][0], (b) => ask({ b })),
    choose("show", "relation", listed(names.relations, RELATIONS)),
    choose("order", "order", listed(names.orders, ORDERS)),
    names.datasets.length ? choose("data set", "dataset", [["", "all"], ...listed(names.datasets, {})]) : null,
    names.generators.length > 1 ? choose("model", "generator", [["", "all"], ...listed(names.generators, {})]) : null,
    search("contains", () => query().text, (text) => ask({ text })),
    number("lengths differ by", { min: 0, step: 10 }, () => query().apart, (v) => ask({ apart: Math.floor(v) || 0 })),
  ].filter(Boolean);
  const marks = node("input", { type: "checkbox", checked: true, onchange: () => pair.classList.toggle("af-unmarked", !marks.checked) });
  const box = node("label", { class: "af-box" }, marks, " mark words that differ");
  const count = node("span", { class: "af-count", role: "status" });
  const list = node("ul", { class: "af-list", role: "listbox", tabindex: 0, "aria-label": "pairs" });
  const pager = node("div", { class: "af-pager" }), pair = node("section", { class: "af-pair", "aria-label": "the pair" });
  const before = button("‹ previous", () => turn({ page: model.get("view").page - 1 }));
  const next = button("next ›", () => turn({ page: model.get("view").page + 1 })), where = node("span", {});
  pager.append(before, where, next);
  /** @param {number} step */
  const move = (step) => {   // from the last position asked for, since the kernel may not have answered yet
    const { page, at } = query(), to = page * names.page + at + step;
    if (to >= 0 && to < model.get("view").found) ask({ page: Math.floor(to / names.page), at: to % names.page });
  };
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); move(step); }
  });
  let at = "", shown = "";
  const wide = new ResizeObserver(() => { if (el.clientWidth !== width) [width, pair.style.minHeight] = [el.clientWidth, ""]; });
  let width = 0;
  const draw = () => {
    const view = model.get("view"), p = view.pair;
    for (const f of fields) f.show();
    count.textContent = view.problem || `${view.found.toLocaleString("en")} of ${view.of.toLocaleString("en")} pairs`;
    const wanted = query().text, place = `${view.page} ${JSON.stringify({ ...query(), at: 0 })}`;
    /** @param {PairRow} row @param {number} i */
    const option = (row, i) => {
      const about = { role: "option", id: `${names.id}-${i}`, "aria-selected": String(i === view.at) };
      return node("li", { ...about, onclick: () => turn({ at: i }) }, pairLine(row, view.rows[i - 1], wanted));
    };
    list.replaceChildren(...view.rows.map(option));
    list.setAttribute("aria-activedescendant", `${names.id}-${view.at}`);
    if (place !== at) [at, list.scrollTop] = [place, 0];
    showIn(list, list.children[view.at]);
    [before.disabled, next.disabled] = [view.page <= 0, view.page + 1 >= view.pages];
    where.textContent = `page ${view.page + 1} of ${view.pages}`;
    if (shown === (shown = JSON.stringify([p, wanted, view.problem]))) return;    // keeps its scroll positions
    pair.style.minHeight = `${pair.offsetHeight}px`;                // a shorter pair does not move what is below
    pair.replaceChildren(...(p ? onePair(p, wanted).filter(Boolean) : [node("p", {}, view.problem || "No pair matches: widen the filters.")]));
  };
  el.append(node("div", { class: "af-fields" }, fields.map((f) => f.element), box), count,
    node("div", { class: "af-columns" }, node("div", { class: "af-side" }, list, pager), pair));
  model.on("change:view", draw);
  wide.observe(el);
  draw();
  return () => { wide.disconnect(); for (const f of fields) f.stop?.(); model.off("change:view", draw); };
}
