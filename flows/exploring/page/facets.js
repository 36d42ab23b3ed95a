/** The column of facets: counts that are filters at a click. */

import { request } from "./api.js";
import { element, show } from "./dom.js";
import { toggle } from "./filter.js";

const FACETS = [
  { name: "verdict", title: "Verdict", shown: 30 },
  { name: "entities", title: "Entities of an image", shown: 12 },
  { name: "label", title: "Labels", shown: 40 },
  { name: "rule", title: "Rules that boxes break", shown: 20 },
];

/** Fill the column for a filter. The slowest facet does not delay the others. */
export function showFacets(column, filter, signal) {
  const sections = FACETS.map((facet) => ({ facet, place: element("section") }));
  if (!column.childElementCount) show(column, ...sections.map(({ place }) => place));
  sections.forEach(async ({ facet }, number) => {
    const values = await request(`api/facets/${facet.name}`, { images: filter }, signal).catch(() => null);
    if (values && !signal.aborted) show(column.children[number], ...sectionOf(facet, values, filter));
  });
}

function sectionOf(facet, values, filter) {
  if (!values.length) return [];
  const most = Math.max(...values.map(({ count }) => count));
  const rows = values.slice(0, facet.shown).map(({ value, count }) => rowOf(facet, value, count, most, filter));
  return [element("h2", {}, facet.title), ...rows];
}

function rowOf(facet, value, count, most, filter) {
  const { list, entry, name, dot } = meaningOf(facet, value);
  return element(
    "button",
    {
      class: "facet",
      "aria-pressed": String(filter[list].includes(entry)),
      style: { "--share": `${(100 * count) / most}%` },
      onclick: () => toggle(list, entry),
      title: name,
    },
    element("span", { class: "name" }, dot && element("span", { class: `dot ${dot}`, style: { display: "inline-block", "margin-right": "7px" } }), name),
    element("span", { class: "count" }, count.toLocaleString("en")),
  );
}

/** Return the list of the filter that a value belongs to, its entry there, and how it is shown. */
function meaningOf(facet, value) {
  if (facet.name === "verdict") {
    const [state, reason] = value;
    const name = reason ? reason.replaceAll("_", " ") : state.replaceAll("_", " ");
    return { list: reason ? "reasons" : "states", entry: reason || state, name, dot: state };
  }
  const list = { entities: "entities", label: "labels", rule: "rules" }[facet.name];
  const name = facet.name === "rule" ? value[0].replaceAll("_", " ") : String(value[0]);
  return { list, entry: value[0], name };
}
