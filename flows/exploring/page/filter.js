/** The filter and the order of the images, kept in the address of the page, so that it can be shared and undone. */

export const EMPTY = { states: [], reasons: [], labels: [], rules: [], entities: [], text: "", where: "" };

/** Return the filter in the address. */
export function currentFilter() {
  const text = parameters().get("filter");
  try {
    return { ...EMPTY, ...JSON.parse(text ?? "{}") };
  } catch {
    return EMPTY;
  }
}

/** Change the filter; the page shows it. */
export function changeFilter(changes) {
  const filter = { ...currentFilter(), ...changes };
  const set = Object.fromEntries(Object.entries(filter).filter(([, value]) => value.length));
  browse({ filter: Object.keys(set).length ? JSON.stringify(set) : "" });
}

/** Return the order in the address. */
export function currentOrder() {
  return parameters().get("order") ?? "stored";
}

/** Change the order; the page shows it. */
export function changeOrder(order) {
  browse({ order: order === "stored" ? "" : order });
}

function parameters() {
  return new URLSearchParams(location.hash.split("?")[1] ?? "");
}

/** Go to the address with these parameters changed; an empty one is left out. */
function browse(changes) {
  const set = parameters();
  for (const [name, value] of Object.entries(changes)) value ? set.set(name, value) : set.delete(name);
  location.hash = set.size ? `#/browse?${set}` : "#/browse";
}

/** Add a value to a list of the filter, or remove it. */
export function toggle(name, value) {
  const values = currentFilter()[name];
  changeFilter({ [name]: values.includes(value) ? values.filter((each) => each !== value) : [...values, value] });
}
