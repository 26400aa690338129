// @ts-check
// The preference explorer.

export default widget("explorer", (/** @type {Model<PairsTraits>} */ model, el, kernel) => browse(model, el, kernel));
