// The labelling desk: one pair, by its sides. Nothing here knows which output is which.

const KEYS = { ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", ArrowDown: "tie", 0: "tie", t: "tie" };

export default {
  render({ model, el }) {
    room(el, "desk");
    const view = () => model.get("view"), { wish, off } = wisher(model, ["label", "skip", "undo"]);
    const say = (side) => { const p = view().pair; if (p) wish("label", { pair: p.number, side }); };
    const skip = () => { const p = view().pair; if (p) wish("skip", { pair: p.number }); };
    const undo = () => { if (view().done) wish("undo"); };

    const sit = () => { if (name.value !== view().labeller) wish("sit", { name: name.value }); };
    const name = node("input", { type: "text", onchange: sit, onkeydown: (event) => { if (event.key === "Enter") sit(); } });
    const people = node("select", { onchange: () => wish("sit", { name: people.value }) });
    const bar = node("progress", { max: 1, value: 0, "aria-label": "pairs labelled" });
    const status = node("span", { class: "af-status", role: "status" }), problem = node("p", { class: "af-problem", role: "alert" });
    const sides = ["left", "right"], outputs = sides.map((side) => button("", () => say(side), { class: "af-output af-choice" }));
    const pair = node("section", { "aria-label": "the pair" });
    const buttons = {
      left: button("← left", () => say("left")), tie: button("↓ tie", () => say("tie")), right: button("right →", () => say("right")),
      skip: button("skip (s)", skip), undo: button("undo (u)", undo),
    };
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      const act = KEYS[key] ? () => say(KEYS[key]) : { u: undo, Backspace: undo, s: skip }[key];
      if (act && !event.repeat) { event.preventDefault(); act(); }
    };
    const about = "labelling desk: arrow left, right, down for a tie, u to undo, s to skip";
    const desk = node("div", { class: "af-work", tabindex: 0, "aria-label": about, onkeydown: press }, pair,
      node("div", { class: "af-fields af-keys" }, Object.values(buttons)));
    const beside = node("div", { class: "af-beside" }), saved = node("span", { class: "af-note" });

    const agreement = (found) => {
      if (!found.length) return node("p", { class: "af-note" }, "nobody yet: label a pair, or give `beside=`");
      const rows = found.map((a) => node("tr", {}, node("th", { scope: "row" }, a.name),
        [`${fixed(a.agreement)} %`, `${fixed(a.low)} to ${fixed(a.high)} %`, a.n].map((text) => node("td", {}, text))));
      return table(["", "agreement", "95 % interval", "pairs"], rows);
    };
    const show = ({ instruction, input, ...p }) => {
      outputs.forEach((output, k) =>
        output.replaceChildren(node("h4", {}, sides[k]), node("div", { class: "af-text" }, p[sides[k]])));
      return [node("h3", { class: "af-text" }, instruction), ...(input ? [node("div", { class: "af-input af-text" }, input)] : []),
        node("div", { class: "af-outputs" }, outputs)];
    };
    const draw = () => {
      const { pair: p, ...v } = view();
      if (document.activeElement !== name) name.value = v.labeller;
      people.replaceChildren(...v.labellers.map((n) => node("option", { value: n, selected: n === v.labeller }, n)));
      bar.value = v.done / v.total;
      status.textContent = `${v.done} of ${v.total} pairs labelled`;
      problem.textContent = v.problem;
      problem.hidden = !v.problem;
      buttons.undo.disabled = !v.done;
      for (const key of ["left", "tie", "right", "skip"]) buttons[key].disabled = !p;
      pair.replaceChildren(...(p ? show(p) : [node("p", { class: "af-status" }, "Every pair has your label.")]));
      beside.replaceChildren(node("h4", {}, "You agree with"), agreement(v.agreement));
      saved.textContent = v.saved ? `written to ${v.saved}` : "";
    };
    const who = [field("your name", name), field("who was here", people), node("div", {}, bar, " ", status)];
    el.append(node("div", { class: "af-fields" }, who), problem, desk, beside,
      node("div", {}, button("export labels", () => wish("export")), " ", saved));
    model.on("change:view", draw);
    draw();
    return () => { off(); model.off("change:view", draw); };
  },
};
