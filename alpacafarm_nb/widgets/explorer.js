// The preference explorer.

export default { render({ model, el }) { return browse(model, room(el, "explorer")); } };
