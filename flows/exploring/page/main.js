/** The page: its views, theme and keyboard. */

import { auditKey, showAudit } from "./audit.js";
import { request } from "./api.js";
import { element, isWriting, show } from "./dom.js";
import { browseKey, showBrowse } from "./grid.js";
import { showSql } from "./sql.js";
import { isStoryOpen, storyKey } from "./story.js";

const VIEWS = {
  browse: { title: "Browse", show: showBrowse, key: browseKey },
  audit: { title: "Audit", show: showAudit, key: auditKey },
  sql: { title: "SQL", show: showSql, key: () => false },
};
const KEYS = [
  ["/", "search"],
  ["← ↑ → ↓", "move between images"],
  ["Enter", "open an image; Esc closes it"],
  ["Space", "select an image; A selects the page, C clears"],
  ["N  P", "next and previous page"],
  ["J  K", "next and previous image, when one is open"],
  ["B  M  D", "boxes, masks, dropped boxes"],
  ["E", "correct the boxes; S saves, Esc cancels"],
  ["1 – 5", "mark an image of an audit"],
  ["T", "light or dark"],
];

function currentView() {
  const name = location.hash.slice(2).split("?")[0];
  return name in VIEWS ? name : "browse";
}

function showView() {
  const name = currentView();
  const links = Object.entries(VIEWS).map(([view, { title }]) =>
    element("a", { href: `#/${view}`, "aria-current": view === name && "page" }, title),
  );
  show(document.getElementById("tabs"), ...links);
  VIEWS[name].show(document.getElementById("view"));
}

function setTheme(isDark) {
  document.documentElement.classList.toggle("dark", isDark);
}

function flipTheme() {
  const isDark = !document.documentElement.classList.contains("dark");
  localStorage.setItem("theme", isDark ? "dark" : "light");
  setTheme(isDark);
}

function showKeys() {
  const sheet = document.getElementById("keys");
  const rows = KEYS.map(([keys, meaning]) => [element("dt", {}, keys.split("  ").map((each) => element("kbd", {}, each))), element("dd", {}, meaning)]);
  show(sheet, element("h2", {}, "Keyboard"), element("dl", {}, rows));
  sheet.showModal();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || isWriting(event)) return;
  const anywhere = { t: flipTheme, "?": showKeys }[event.key];
  const isDone = isStoryOpen() ? storyKey(event) : VIEWS[currentView()].key(event);
  if (!isDone) anywhere?.();
  if (isDone || anywhere) event.preventDefault();
}

setTheme((localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark");
document.getElementById("theme").addEventListener("click", flipTheme);
document.getElementById("help").addEventListener("click", showKeys);
addEventListener("hashchange", showView);
addEventListener("keydown", onKey);
showView();
const { root } = await request("api/dataset");
show(document.getElementById("root"), root);
document.title = `${root.split("/").pop()} · Explorer`;
