// @ts-check
// The training board.

export default widget("live", (/** @type {Model<{ view: RunView & RunCurves & RunLooks }>} */ model, el, kernel) => {
  const { wish, off } = wisher(model, { kernel }), parts = [progressLine(wish), curvesPart(wish), looksPart(wish)];
  const draw = () => { for (const part of parts) part.show(model.get("view")); };
  el.append(...parts.map((part) => part.element));
  model.on("change:view", draw);
  draw();
  return () => { off(); model.off("change:view", draw); };
});
