/** Elements of the page. */

const SVG = "http://www.w3.org/2000/svg";

/** Return an element; `on…` properties are listeners, `style` and `dataset` are objects, all others are attributes. */
export function element(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** Return an element of SVG. */
export function drawing(name, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children);
}

/** Replace the children of a node. */
export function show(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter(isShown));
  return parent;
}

/** Show a message for some seconds; an error stays longer. One with the same first line replaces it, as each facet repeats an error. */
export function note(text, isError = false) {
  const line = element("div", { class: isError ? "note error" : "note" }, text);
  const notes = document.getElementById("notes");
  for (const shown of [...notes.children].filter((each) => firstLine(each.textContent) === firstLine(text))) shown.remove();
  notes.append(line);
  setTimeout(() => line.remove(), isError ? 9000 : 3500);
}

/** Return whether a key press goes to a field in which a person writes. */
export function isWriting(event) {
  return event.target.closest("input, textarea, select") !== null;
}

function firstLine(text) {
  return text.split("\n", 1)[0];
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) node.style.setProperty(key, each);
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter(isShown));
  return node;
}

function isShown(child) {
  return child !== null && child !== undefined && child !== false;
}
