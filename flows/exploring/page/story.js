/** One image with all that is known of it: the picture with boxes and masks, its verdict, and each stage. */

import { pictureOf, request } from "./api.js";
import { colourOf, maskShape, rectangle, sheetOver, tag } from "./boxes.js";
import { element, show } from "./dom.js";

const dialog = document.getElementById("story");
const shown = { boxes: true, masks: true, dropped: true };
let story;
let wanted;
let go;

/** Open the story of an image; `step` returns the place of the next (1) or previous (-1) one, or null. */
export async function openStory(place, step) {
  go = step;
  wanted = place;
  const rows = await request(`api/images/${place.shard}/${place.key}`);
  if (wanted !== place) return; // a later image was asked for meanwhile
  story = { place, rows };
  render();
  if (!dialog.open) dialog.showModal();
  dialog.focus();
}

/** Act on a key; return whether it means something here. */
export function storyKey(event) {
  const switches = { b: "boxes", m: "masks", d: "dropped" };
  if (event.key in switches) flip(switches[event.key]);
  else if (event.key === "ArrowRight" || event.key === "j") move(1);
  else if (event.key === "ArrowLeft" || event.key === "k") move(-1);
  else return false;
  return true;
}

/** Return whether a story is open. */
export function isStoryOpen() {
  return dialog.open;
}

function move(step) {
  const place = go?.(step);
  if (place) openStory(place, go);
}

function flip(name) {
  shown[name] = !shown[name];
  render();
}

function render() {
  const things = thingsOf(story.rows);
  show(dialog, stageOf(things), panelOf(things));
}

/** Return the candidates of an image as the ledger judges them, kept ones first, with their masks. */
function thingsOf({ ledger, entities, sdd }) {
  const masks = [...(sdd?.entities ?? []), ...(entities?.candidates ?? []).map((each) => ({ ...each, mask: each.segment?.mask }))];
  const things = ledger.candidates.map((each) => ({
    ...each,
    outline: masks.find((other) => other.label === each.label && isSameBox(other.box, each.box))?.mask?.outline,
  }));
  things.sort((a, b) => a.broken.length - b.broken.length);
  return things.map((each, number) => ({ ...each, number, colour: colourOf(number) }));
}

function isSameBox(a, b) {
  return ["x0", "y0", "x1", "y1"].every((side) => a[side] === b[side]);
}

function stageOf(things) {
  const { width, height } = sizeOf(story.rows);
  const layers = element("div", { class: "layers" });
  if (width) {
    const visible = things.filter((each) => shown.dropped || !each.broken.length);
    layers.style.aspectRatio = `${width} / ${height}`;
    layers.style.width = `min(100%, calc((94vh - 110px) * ${width / height}))`;
    show(
      layers,
      element("img", { src: pictureOf(story.place), alt: story.rows.captions?.caption ?? "" }),
      sheetOver(
        width,
        height,
        shown.masks && visible.filter((each) => each.outline).map((each) => maskShape(each.outline, each.colour)),
        shown.boxes && visible.map((each) => rectangle(each.box, each.colour, { class: each.broken.length ? "box broken" : "box" })),
      ),
      shown.boxes && visible.map((each) => tag(each.label, each.box, each.colour, width, height)),
    );
  } else {
    show(layers, element("p", { class: "empty" }, "There is no image."));
  }
  const button = (name, text) =>
    element("button", { "aria-pressed": String(shown[name]), onclick: () => flip(name) }, text);
  const switches = element(
    "div",
    { class: "switches" },
    button("boxes", "Boxes (B)"),
    button("masks", "Masks (M)"),
    button("dropped", "Dropped (D)"),
    element("span", { class: "space" }),
    element("button", { onclick: () => move(-1), "aria-label": "Previous image" }, "←"),
    element("button", { onclick: () => move(1), "aria-label": "Next image" }, "→"),
  );
  return element("div", { class: "stage" }, element("div", { class: "canvas" }, layers), switches);
}

/** Return the size of the upright image; without one, nothing. */
export function sizeOf({ images, ledger, sdd }) {
  const source = [sdd, ledger, images].find((row) => row?.width_px) ?? {};
  return { width: source.width_px, height: source.height_px };
}

function panelOf(things) {
  const { ledger, captions, corrections } = { ...story.rows, corrections: story.rows.ledger.corrections };
  const reason = ledger.reason ? ledger.reason.replaceAll("_", " ") : "";
  return element(
    "aside",
    { class: "panel" },
    element("button", { class: "quiet close", onclick: () => dialog.close(), "aria-label": "Close" }, "✕"),
    element("h1", {}, element("span", { class: `dot ${ledger.state}` }), ledger.state.replaceAll("_", " "), reason && element("span", { class: "rule" }, reason)),
    captions?.caption && element("p", { class: "caption" }, captionOf(captions.caption, things)),
    things.length ? [element("h2", {}, "Boxes"), element("ol", { class: "things" }, things.map(thingOf))] : null,
    corrections?.length ? [element("h2", {}, "Corrections"), element("ul", { class: "things" }, corrections.map(correctionOf))] : null,
    element("h2", {}, "From URL to verdict"),
    stepsOf(story.rows),
    element("h2", {}, "Facts"),
    factsOf(story.rows),
  );
}

/** Return the caption with the labels underlined in the colours of their boxes. */
function captionOf(caption, things) {
  const marks = things
    .map(({ label, colour }) => ({ at: caption.toLowerCase().indexOf(label.toLowerCase()), label, colour }))
    .filter(({ at }) => at >= 0)
    .sort((a, b) => a.at - b.at);
  const parts = [];
  let end = 0;
  for (const { at, label, colour } of marks) {
    if (at < end) continue;
    parts.push(caption.slice(end, at), element("mark", { style: { "--colour": colour } }, caption.slice(at, at + label.length)));
    end = at + label.length;
  }
  return [...parts, caption.slice(end)];
}

function thingOf(thing) {
  const figure = (name, value) => (value == null ? null : element("span", {}, `${name} ${value.toFixed(2)}`));
  return element(
    "li",
    { class: "thing", style: { "--colour": thing.colour } },
    element("b", {}, thing.label),
    thing.broken.map((rule) => element("span", { class: "rule" }, rule.replaceAll("_", " "))),
    element(
      "div",
      { class: "figures" },
      figure("score", thing.score),
      figure("mask fill", thing.mask_fill),
      figure("IoU", thing.predicted_iou),
      figure("stability", thing.stability),
    ),
  );
}

function correctionOf({ action, label, outcome, author, made_at: time, review }) {
  const about = [author, time?.slice(0, 16).replace("T", " "), review].filter(Boolean).join(" · ");
  return element("li", { class: "thing" }, element("b", {}, `${action} ${label}`), element("span", { class: "rule" }, outcome.replaceAll("_", " ")), element("div", { class: "figures" }, about));
}

function stepsOf(rows) {
  const count = (list, one, many = `${one}s`) => (list ? `${list.length} ${list.length === 1 ? one : many}` : "");
  const steps = [
    ["urls", "List", `row ${rows.urls?.list_row} · ${rows.ledger.url}`],
    ["images", "Download", rows.images?.width_px && `${rows.images.width_px} × ${rows.images.height_px} px, ${rows.images.media_type}`],
    ["captions", "Caption", rows.captions?.caption],
    ["nouns", "Nouns", [rows.nouns?.nouns?.map(({ label }) => label).join(", "), removed(rows.nouns)].filter(Boolean).join(" · ")],
    ["detections", "Detection", count(rows.detections?.detections, "box", "boxes")],
    ["entities", "Masks", rows.entities?.candidates && `${rows.entities.candidates.filter(({ segment }) => segment).length} of ${rows.entities.candidates.length} boxes`],
    ["sdd", "Rules", rows.sdd ? count(rows.sdd.entities, "entity", "entities") : rows.ledger.stage === "sdd" ? rows.ledger.reason.replaceAll("_", " ") : null],
  ];
  const reached = steps.filter(([layer, , text]) => rows[layer] || (layer === "sdd" && text));
  return element(
    "ol",
    { class: "steps" },
    reached.map(([layer, title, text]) => {
      const stops = rows.ledger.stage === layer && rows.ledger.state !== "kept";
      const why = stops && layer !== "sdd" ? `${rows.ledger.reason.replaceAll("_", " ")} ${rows.ledger.detail}` : "";
      return element("li", { class: stops ? "stop" : "" }, element("b", {}, title), element("div", {}, [text, why].filter(Boolean).join(" · ")));
    }),
  );
}

function removed(nouns) {
  const words = (nouns?.removed_nouns ?? []).map(({ label, reason }) => `${label} (${reason.replaceAll("_", " ")})`);
  return words.length ? `not ${words.join(", ")}` : "";
}

function factsOf(rows) {
  const source = { ...rows.urls, ...rows.images };
  const number = (value) => (value == null ? null : value.toFixed(2));
  const facts = {
    Key: story.place.key,
    Shard: story.place.shard,
    "Alt text": source.alt_text,
    Aesthetic: number(source.aesthetic_score),
    Unsafe: number(source.punsafe),
    Watermark: number(source.pwatermark),
    Similarity: number(source.similarity),
    "SHA-256": source.sha256,
  };
  const known = Object.entries(facts).filter(([, value]) => value != null && value !== "");
  return element("dl", { class: "facts" }, known.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}
