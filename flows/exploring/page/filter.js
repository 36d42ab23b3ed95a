/** The filter of the images, kept in the address of the page, so that it can be shared and undone. */

export const EMPTY = { states: [], reasons: [], labels: [], rules: [], entities: [], text: "", where: "" };

/** Return the filter in the address. */
export function currentFilter() {
  const text = new URLSearchParams(location.hash.split("?")[1] ?? "").get("filter");
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
  const query = Object.keys(set).length ? `?${new URLSearchParams({ filter: JSON.stringify(set) })}` : "";
  location.hash = `#/browse${query}`;
}

/** Add a value to a list of the filter, or remove it. */
export function toggle(name, value) {
  const values = currentFilter()[name];
  changeFilter({ [name]: values.includes(value) ? values.filter((each) => each !== value) : [...values, value] });
}
