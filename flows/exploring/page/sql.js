/** Free SQL over the views of the dataset. */

import { request } from "./api.js";
import { element, show } from "./dom.js";
import { openStory } from "./story.js";

const EXAMPLES = ["FROM labels LIMIT 20", "FROM funnel", "FROM broken_rules", "FROM hosts LIMIT 20", "SELECT key, label, score FROM entities ORDER BY score LIMIT 50"];
let parts;
let running;

/** Show the view. */
export function showSql(view) {
  if (parts && view.contains(parts.query)) return;
  const query = element("textarea", { class: "code", id: "query", spellcheck: "false", "aria-label": "SQL" }, EXAMPLES[0]);
  const examples = EXAMPLES.map((text) => element("button", { class: "code", onclick: () => run((query.value = text)) }, text));
  const state = element("span", { class: "soft", id: "state" });
  const stop = element("button", { id: "stop", onclick: () => running?.abort() }, "Stop");
  stop.hidden = true;
  const go = element("button", { class: "primary", id: "run", onclick: () => run(query.value) }, "Run (Ctrl+Enter)");
  parts = { query, state, stop, table: element("div", { class: "table", id: "result" }) };
  query.addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && run(query.value));
  show(view, element("div", { class: "sql" }, query, element("div", { class: "row" }, go, stop, examples, state), parts.table));
  query.focus();
}

async function run(sql) {
  running?.abort();
  const own = (running = new AbortController());
  show(parts.state, "Running…");
  parts.stop.hidden = false;
  const table = await request("api/sql", { sql }, own.signal).catch(() => null);
  if (own !== running) return;
  parts.stop.hidden = true;
  const rows = table && `${table.rows.length}${table.is_cut ? " first" : ""} rows in ${table.seconds.toFixed(2)} s`;
  show(parts.state, own.signal.aborted ? "Stopped" : rows);
  if (table) show(parts.table, tableOf(table));
}

function tableOf({ columns, rows }) {
  const head = element("tr", {}, columns.map((name) => element("th", {}, name)));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, rows.map((row) => element("tr", {}, row.map((value, n) => cellOf(columns[n], value))))));
}

function cellOf(column, value) {
  const text = value !== null && typeof value === "object" ? JSON.stringify(value) : String(value ?? "");
  if (column !== "key" || !/^[0-9a-f]{32}$/.test(text)) return element("td", { title: text }, text);
  return element("td", {}, element("a", { href: "#", class: "code", onclick: (event) => find(event, text) }, text));
}

/** Open the story of a key. */
async function find(event, key) {
  event.preventDefault();
  const { cards } = await request("api/page", { images: { where: `key = from_hex('${key}')` }, size: 1 });
  if (cards.length) openStory(cards[0].place, () => null);
}
