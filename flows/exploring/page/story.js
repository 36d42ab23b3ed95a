/** One image with all that is known of it: the picture with boxes and masks, its verdict, and each stage. */

import { pictureOf, request } from "./api.js";
import { colourOf, maskShape, rectangle, sheetOver, tag } from "./boxes.js";
import { element, note, show } from "./dom.js";
import { Editor } from "./editor.js";

const dialog = document.getElementById("story");
const shown = { boxes: true, masks: true, dropped: true };
let story;
let wanted;
let go;
let closed;
let editor = null;
let marking = null;

/**
 * Open the story of an image.
 *
 * `step` returns the place of the next (1) or previous (-1) image, or null; `onClose` is called when a person closes it.
 */
export async function openStory(place, step, onClose = closed) {
  go = step;
  wanted = place;
  const [rows, corrections] = await Promise.all([
    request(`api/images/${place.shard}/${place.key}`),
    request(`api/corrections/${place.shard}/${place.key}`),
  ]);
  if (wanted !== place) return; // a later image was asked for meanwhile
  closed = onClose;
  editor = null;
  story = { place, rows, waiting: corrections.filter((each) => !isBuilt(each, rows.ledger.corrections ?? [])) };
  render();
  if (!dialog.open) dialog.showModal();
  dialog.focus();
}

/** Close the story. */
export function closeStory() {
  dialog.close();
}

/** Offer marks below the image: `digit`, `text`, `isSet`, and `set` for each; null offers none. */
export function setMarking(marks) {
  marking = marks;
}

dialog.addEventListener("close", () => {
  const onClose = closed;
  closed = undefined;
  editor = null;
  onClose?.();
});
dialog.addEventListener("cancel", (event) => {
  if (!editor) return;
  event.preventDefault();
  leaveEditor();
});

function isBuilt({ action, made_at: time, review }, judged) {
  return judged.some((each) => each.action === action && each.made_at === time && each.review === review);
}

/** Act on a key; return whether it means something here. */
export function storyKey(event) {
  if (editor) return editorKey(event);
  if (event.altKey) return false;
  const mark = marking?.find(({ digit }) => digit === event.key);
  const switches = { b: "boxes", m: "masks", d: "dropped" };
  if (mark) mark.set();
  else if (event.key === "e") edit();
  else if (event.key in switches) flip(switches[event.key]);
  else if (event.key === "ArrowRight" || event.key === "j") move(1);
  else if (event.key === "ArrowLeft" || event.key === "k") move(-1);
  else return false;
  return true;
}

/** Return whether a story is open. */
export function isStoryOpen() {
  return dialog.open;
}

function editorKey(event) {
  if (event.key === "s") save();
  else return editor.key(event);
  return true;
}

/** Edit the boxes of the image. */
async function edit() {
  const { width, height } = sizeOf(story.rows);
  if (!story.rows.ledger.width_px) {
    note("No stage has detected boxes in this image, so there are none to correct", true);
    return;
  }
  const { has_proposals: hasProposals } = await request("api/dataset");
  const things = thingsOf(story.rows);
  const { place, waiting: corrections } = story;
  editor = new Editor({ place, width, height, things, corrections, hasProposals, changed: renderEditorState });
  render();
}

async function save() {
  const { place } = story;
  const saved = await request("api/corrections", { place, changes: editor.changes }).catch(() => null);
  if (!saved) return;
  const number = saved.corrections.length;
  note(number ? `${number} correction${number > 1 ? "s" : ""} saved; the next build takes them in` : "Nothing to correct");
  await openStory(place, go);
}

function leaveEditor() {
  editor = null;
  render();
}

function renderEditorState() {
  const state = dialog.querySelector("#changes");
  if (state) show(state, `${editor.changes.length} changed`);
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
  show(dialog, stageOf(things), editor ? editorPanel() : panelOf(things));
  editor?.render();
}

function editorPanel() {
  return element(
    "aside",
    { class: "panel" },
    element("h1", {}, "Correct the boxes"),
    element("p", { class: "soft" }, story.rows.captions?.caption),
    editor.list,
    element("p", { class: "row" }, element("button", { onclick: () => editor.add() }, "Add a box (A)")),
    element("p", { class: "soft" }, "Drag a box or a corner, or draw a new box. ", keysOf("Tab", "next box"), keysOf("← ↑ → ↓", "move"), keysOf("Alt + arrows", "resize"), keysOf("L", "label"), keysOf("Delete", "remove"), keysOf("S", "save")),
  );
}

function keysOf(key, meaning) {
  return [element("kbd", {}, key), ` ${meaning}  `];
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
    layers.style.width = `min(100%, calc((94vh - 150px) * ${width / height}))`;
    show(
      layers,
      element("img", { src: pictureOf(story.place), alt: story.rows.captions?.caption ?? "" }),
      sheetOver(
        width,
        height,
        !editor && shown.masks && visible.filter((each) => each.outline).map((each) => maskShape(each.outline, each.colour)),
        !editor && shown.boxes && visible.map((each) => rectangle(each.box, each.colour, { class: each.broken.length ? "box broken" : "box" })),
      ),
      editor ? editor.layer : shown.boxes && visible.map((each) => tag(each.label, each.box, each.colour, width, height)),
    );
  } else {
    show(layers, element("p", { class: "empty" }, "There is no image."));
  }
  const button = (name, text) =>
    element("button", { "aria-pressed": String(shown[name]), onclick: () => flip(name) }, text);
  const switches = editor ? editorSwitches() : element(
    "div",
    { class: "switches" },
    marking && element("div", { class: "marks" }, marking.map(markButton)),
    button("boxes", "Boxes (B)"),
    button("masks", "Masks (M)"),
    button("dropped", "Dropped (D)"),
    element("button", { id: "edit", onclick: edit }, "Correct (E)"),
    element("span", { class: "space" }),
    element("button", { onclick: () => move(-1), "aria-label": "Previous image" }, "←"),
    element("button", { onclick: () => move(1), "aria-label": "Next image" }, "→"),
  );
  return element("div", { class: "stage" }, element("div", { class: "canvas" }, layers), switches);
}

function markButton({ digit, text, isSet, set }) {
  return element("button", { class: "mark", "aria-pressed": String(isSet), onclick: set }, element("kbd", {}, digit), ` ${text}`);
}

function editorSwitches() {
  return element(
    "div",
    { class: "switches" },
    element("span", { id: "changes" }, `${editor.changes.length} changed`),
    element("span", { class: "space" }),
    element("button", { onclick: leaveEditor }, "Cancel (Esc)"),
    element("button", { id: "save", class: "primary", onclick: save }, "Save (S)"),
  );
}

/** Return the size of the upright image; without one, nothing. */
export function sizeOf({ images, ledger, sdd }) {
  const source = [sdd, ledger, images].find((row) => row?.width_px) ?? {};
  return { width: source.width_px, height: source.height_px };
}

function panelOf(things) {
  const { ledger, captions } = story.rows;
  const corrections = [...(ledger.corrections ?? []), ...story.waiting.map(waitingOf)];
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

/** Return a saved correction as the ledger would list it. */
function waitingOf({ entity, label, ...correction }) {
  return { ...correction, label: label ?? entity.label, outcome: "waits for the next build" };
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
