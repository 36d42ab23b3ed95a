/** Boxes, masks and labels over an image. */

import { drawing, element } from "./dom.js";

const COLOURS = ["#e63946", "#1d78dc", "#149650", "#e08a00", "#8c46c8", "#00909c"];

/** Return the colour of the entity with this number. */
export function colourOf(number) {
  return COLOURS[number % COLOURS.length];
}

/** Return an SVG in pixels of an image, which covers its element. */
export function sheetOver(width, height, ...children) {
  return drawing("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" }, ...children);
}

/** Return the rectangle of a box. */
export function rectangle(box, colour, properties = {}) {
  const sides = { x: box.x0, y: box.y0, width: Math.max(0, box.x1 - box.x0), height: Math.max(0, box.y1 - box.y0) };
  return drawing("rect", { class: "box", style: { "--colour": colour }, ...sides, ...properties });
}

/** Return the filled outline of a mask. */
export function maskShape(outline, colour) {
  return drawing("path", { class: "mask", d: outline, "fill-rule": "evenodd", style: { "--colour": colour } });
}

/** Return the label of a box: above it, or inside it at the top of the image. */
export function tag(text, box, colour, width, height) {
  const isInside = box.y0 / height < 0.05;
  const place = { left: `${(100 * box.x0) / width}%`, top: `${(100 * box.y0) / height}%`, "--colour": colour };
  return element("span", { class: isInside ? "tag inside" : "tag", style: place }, text);
}
