/** The page of images: cards in rows of equal height, selection, and paging. */

import { download, request, thumbnailOf } from "./api.js";
import { colourOf, rectangle, sheetOver } from "./boxes.js";
import { element, note, show } from "./dom.js";
import { changeFilter, changeOrder, currentFilter, currentOrder, EMPTY, toggle } from "./filter.js";
import { showFacets } from "./facets.js";
import { openStory } from "./story.js";

const SIZE = 60;
const ORDERS = [
  ["stored", "by shard and key"],
  ["doubtful", "most likely wrong first"],
];
/** Selected images by key; the selection outlives pages and filters. */
const chosen = new Map();
let pages = [null];
let cards = [];
let isLast = true;
let running = new AbortController();
let parts;

/** Show the view for the filter in the address. */
export async function showBrowse(view) {
  if (!parts || !view.contains(parts.grid)) parts = build(view);
  pages = [null];
  const filter = currentFilter();
  for (const [input, name] of [[parts.search, "text"], [parts.where, "where"]]) {
    if (document.activeElement !== input) input.value = filter[name];
  }
  parts.order.value = currentOrder();
  show(parts.chips, ...chipsOf(filter));
  await turn(0);
  showFacets(parts.facets, filter, running.signal);
  show(parts.total, "…");
  const { count } = await request("api/count", { images: filter }, running.signal).catch(() => ({}));
  if (count !== undefined) show(parts.total, `${count.toLocaleString("en")} images`);
}

/** Act on a key; return whether it means something here. */
export function browseKey(event) {
  const here = cards.indexOf(document.activeElement);
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: rowStep(here, 1), ArrowUp: rowStep(here, -1) };
  if (event.key in moves) focusCard(here < 0 ? 0 : here + moves[event.key]);
  else if (event.key === "/") parts.search.focus();
  else if (event.key === "n" && !isLast) turn(1);
  else if (event.key === "p" && pages.length > 1) turn(-1);
  else if (event.key === " " && here >= 0) cards[here].pick();
  else if (event.key === "Enter" && here >= 0) open(here);
  else if (event.key === "a") cards.forEach((card) => chosen.has(card.place.key) || card.pick());
  else if (event.key === "c") clearChoice();
  else return false;
  return true;
}

function build(view) {
  const made = {
    facets: element("aside", { class: "facets", "aria-label": "Facets" }),
    search: field("search", "Search captions and URLs  ( / )", (text) => changeFilter({ text })),
    where: field("text", "SQL condition: len(labels) > 2 AND width_px > 1024", (where) => changeFilter({ where })),
    order: element("select", { id: "order", "aria-label": "Order" }, ORDERS.map(([value, name]) => element("option", { value }, name))),
    total: element("span", { class: "total", id: "total" }),
    chips: element("div", { class: "chips" }),
    grid: element("div", { class: "grid", id: "grid" }),
    below: element("div", { class: "below" }),
  };
  made.where.classList.add("code");
  made.search.id = "search";
  made.where.id = "where";
  made.order.addEventListener("change", () => changeOrder(made.order.value));
  const tools = element("div", { class: "tools" }, made.search, made.where, made.order, made.total, made.chips);
  const results = element("section", { class: "results" }, tools, made.grid, made.below);
  show(view, element("div", { class: "browse" }, made.facets, results));
  return made;
}

function field(type, placeholder, change) {
  const input = element("input", { type, placeholder, "aria-label": placeholder, spellcheck: "false" });
  input.addEventListener("change", () => change(input.value.trim()));
  input.addEventListener("keydown", (event) => event.key === "Escape" && input.blur());
  return input;
}

/** Show the next page (1), the one before (-1), or the present one again (0). */
async function turn(step) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const last = cards.at(-1)?.place ?? null;
  if (step === 1) pages.push(last);
  if (step === -1) pages.pop();
  const body = { images: currentFilter(), after: pages.at(-1), size: SIZE, order: parts.order.value };
  const page = await request("api/page", body, signal).catch(() => null);
  if (!page || signal.aborted) return;
  isLast = page.is_last;
  cards = page.cards.map(cardOf);
  show(parts.grid, ...(cards.length ? cards : [element("p", { class: "empty" }, "No image meets this filter.")]));
  parts.grid.scrollTop = 0;
  showBelow();
}

function cardOf(image, number) {
  const { place, width_px: width, height_px: height, entities } = image;
  const aspect = width && height ? Math.min(2.4, Math.max(0.5, width / height)) : 1;
  const boxes = width ? sheetOver(width, height, ...entities.map((each, n) => rectangle(each.box, colourOf(n)))) : null;
  const frame = element("div", { class: "frame" });
  const onerror = () => show(frame, absent(image));
  const picture = () => element("img", { src: thumbnailOf(place), alt: "", loading: "lazy", decoding: "async", onerror });
  show(frame, image.stage === "images" ? absent(image) : [picture(), boxes]);
  const pick = element("button", { class: "pick", tabindex: "-1", "aria-label": "Select" }, "✓");
  const labels = entities.map(({ label }) => label).join(", ") || image.reason.replaceAll("_", " ");
  const card = element(
    "figure",
    { class: `card ${image.state}`, tabindex: "0", style: { "--aspect": aspect }, title: labels, onclick: () => open(cards.indexOf(card)) },
    frame,
    pick,
    element("figcaption", {}, element("span", { class: `dot ${image.state}` }), element("span", {}, labels)),
  );
  card.place = place;
  card.classList.toggle("chosen", chosen.has(place.key));
  card.pick = () => {
    if (!chosen.delete(place.key)) chosen.set(place.key, place);
    card.classList.toggle("chosen", chosen.has(place.key));
    showBelow();
  };
  pick.addEventListener("click", (event) => {
    event.stopPropagation();
    card.pick();
  });
  return card;
}

function absent(image) {
  return element("div", { class: "absent" }, image.reason.replaceAll("_", " ") || "no image");
}

function open(number) {
  if (!cards[number]) return;
  focusCard(number);
  openStory(cards[number].place, (step) => {
    const next = cards[number + step];
    if (!next) return null;
    number += step;
    focusCard(number);
    return next.place;
  });
}

function focusCard(number) {
  const card = cards[Math.max(0, Math.min(cards.length - 1, number))];
  card?.focus();
  card?.scrollIntoView({ block: "nearest" });
}

/** Return the number of cards between a card and the one below (1) or above (-1) it. */
function rowStep(here, way) {
  if (here < 0) return 0;
  const from = cards[here].getBoundingClientRect();
  const middle = (from.left + from.right) / 2;
  for (let next = here + way; cards[next]; next += way) {
    const to = cards[next].getBoundingClientRect();
    if (Math.abs(to.top - from.top) > 4 && to.left <= middle && middle <= to.right) return next - here;
  }
  return way;
}

function showBelow() {
  const number = chosen.size;
  const all = { images: currentFilter() };
  const some = { places: [...chosen.values()] };
  const save = (format) => download("api/keys", { format, ...(number ? some : all) }, `keys.${format}`);
  show(
    parts.below,
    element("span", { id: "chosen" }, number ? `${number.toLocaleString("en")} selected` : "All that meet the filter"),
    element("button", { onclick: () => save("txt"), title: "Keys for other commands" }, "Save keys as TXT"),
    element("button", { onclick: () => save("parquet") }, "as Parquet"),
    number ? element("button", { class: "quiet", onclick: clearChoice }, "Clear") : null,
    element("span", { class: "space" }),
    element("span", { class: "soft" }, `Page ${pages.length.toLocaleString("en")}`),
    element("button", { id: "previous", disabled: pages.length < 2, onclick: () => turn(-1) }, "← Previous"),
    element("button", { id: "next", disabled: isLast, onclick: () => turn(1) }, "Next →"),
  );
}

function clearChoice() {
  chosen.clear();
  cards.forEach((card) => card.classList.remove("chosen"));
  showBelow();
  note("Selection cleared");
}

function chipsOf(filter) {
  const lists = ["states", "reasons", "entities", "labels", "rules"];
  const chips = lists.flatMap((name) =>
    filter[name].map((value) => {
      const text = name === "entities" ? `${value} entities` : String(value).replaceAll("_", " ");
      return element("button", { class: "chip", title: "Remove", onclick: () => toggle(name, value) }, `${text} ×`);
    }),
  );
  if (chips.length) chips.push(element("button", { class: "quiet", onclick: () => changeFilter(EMPTY) }, "Clear all"));
  return chips;
}
