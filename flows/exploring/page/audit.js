/** Audits: a sample that people mark, the proportions of Table 6, and examples of each mark. */

import { request, thumbnailOf } from "./api.js";
import { element, note, show } from "./dom.js";
import { closeStory, openStory, setMarking } from "./story.js";

const NAMES = {
  high_quality: "High quality",
  low_recall: "Low recall",
  other: "Other low quality",
  filtered_by_rules: "Filtered out by rules",
  rightly_dropped: "Rightly dropped",
  wrongly_dropped: "Wrongly dropped",
};
const DIGITS = ["high_quality", "low_recall", "other", "wrongly_dropped", "rightly_dropped"];
let view;
let audit;

/** Show the view: an audit, or the form that begins one. */
export async function showAudit(parent) {
  view = parent;
  const audits = await request("api/audits").catch(() => []);
  const name = audit?.name ?? audits.at(-1)?.name;
  audit = name ? await request(`api/audits/${encodeURIComponent(name)}`) : null;
  render(audits);
}

/** Act on a key; return whether it means something here. */
export function auditKey(event) {
  if (event.key !== "Enter" || !audit) return false;
  mark();
  return true;
}

function render(audits) {
  const choices = audits.map(({ name, images, marked }) =>
    element("button", { "aria-pressed": String(name === audit?.name), onclick: () => choose(name) }, `${name} · ${marked} of ${images}`),
  );
  show(view, element("div", { class: "audit" }, element("div", { class: "row" }, choices, formOf(audits)), audit ? resultOf() : introduction()));
}

function introduction() {
  return element(
    "div",
    { class: "empty" },
    element("p", {}, "An audit draws a sample of the images that the rules have judged, in strata of verdicts, entities and labels."),
    element("p", {}, "Mark each image by a key; the proportions of Table 6 follow with their intervals."),
  );
}

function formOf(audits) {
  const name = element("input", { type: "text", value: `audit-${audits.length + 1}`, "aria-label": "Name of the audit", id: "audit-name" });
  const size = element("input", { type: "text", inputmode: "numeric", value: "1000", "aria-label": "Images of the sample", id: "audit-size" });
  const draw = async () => {
    const made = await request("api/audits", { name: name.value.trim(), size: Number(size.value) || 0 }).catch(() => null);
    if (made) choose(made.name);
  };
  return element("span", { class: "row form" }, name, size, element("button", { id: "draw", class: audits.length ? "" : "primary", onclick: draw }, "Draw a sample"));
}

async function choose(name) {
  audit = { name };
  await showAudit(view);
}

function resultOf() {
  const left = audit.images - audit.marked;
  const rows = audit.table.map(({ name, of, value, low, high, marked }) =>
    element(
      "tr",
      {},
      element("th", {}, NAMES[name], of === "dropped" ? element("span", { class: "soft" }, " of the dropped") : null),
      element("td", { class: "number" }, percent(value)),
      element("td", { class: "wide" }, barOf(value, low, high, name)),
      element("td", { class: "number soft" }, name === "filtered_by_rules" ? "counted" : `${percent(low)} – ${percent(high)}`),
      element("td", { class: "number soft" }, name === "filtered_by_rules" ? "" : `${marked} marked`),
    ),
  );
  return element(
    "div",
    {},
    element("div", { class: "row begin" }, element("button", { class: "primary", id: "mark", disabled: !left, onclick: mark }, left ? `Mark ${left} images (Enter)` : "All are marked"), element("progress", { max: audit.images, value: audit.marked })),
    element("table", { class: "proportions" }, element("tbody", {}, rows)),
    element("p", { class: "soft" }, "Proportions of all images that the rules judged, weighted by strata, with intervals of 95 %."),
    Object.entries(audit.gallery).filter(([, places]) => places.length).map(([name, places]) => galleryOf(name, places)),
  );
}

function barOf(value, low, high, name) {
  const share = (each) => `${100 * each}%`;
  return element(
    "div",
    { class: `proportion ${name}` },
    element("i", { style: { width: share(value) } }),
    element("b", { style: { left: share(low), width: share(Math.max(0, high - low)) } }),
  );
}

function galleryOf(name, places) {
  const pictures = places.map((place) =>
    element("button", { class: "picture", onclick: () => openStory(place, () => null), "aria-label": "Open" }, element("img", { src: thumbnailOf(place), alt: "" })),
  );
  return element("section", {}, element("h2", {}, NAMES[name]), element("div", { class: "strip" }, pictures));
}

/** Open the next image without a mark, and let keys mark it. */
function mark() {
  const todo = audit.sample.filter((image) => !image.mark);
  if (!todo.length) return;
  let at = 0;
  const go = (step) => {
    if (!todo[at + step]) return null;
    at += step;
    setMarking(marksOf(todo[at], advance));
    return todo[at];
  };
  let isSaving = false;
  const advance = async (image, name) => {
    if (isSaving) return; // a second key before the next image is shown
    isSaving = true;
    try {
      await request(`api/audits/${encodeURIComponent(audit.name)}/marks`, { place: placeOf(image), mark: name });
      image.mark = name;
      if (todo[at + 1]) await openStory(placeOf(go(1)), step);
      else {
        note("All images of the sample are marked");
        closeStory();
      }
    } finally {
      isSaving = false;
    }
  };
  const step = (way) => {
    const image = go(way);
    return image && placeOf(image);
  };
  setMarking(marksOf(todo[0], advance));
  openStory(placeOf(todo[0]), step, () => {
    setMarking(null);
    showAudit(view);
  });
}

function marksOf(image, advance) {
  return audit.marks[image.state].map((name) => ({
    digit: String(DIGITS.indexOf(name) + 1),
    text: NAMES[name],
    isSet: image.mark === name,
    set: () => advance(image, name),
  }));
}

function placeOf({ shard, key }) {
  return { shard, key };
}

function percent(value) {
  return `${(100 * value).toFixed(1)} %`;
}
