// The preference explorer.

export default widget("explorer", (model, el, kernel) => browse(model, el, kernel));
