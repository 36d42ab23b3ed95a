/** Requests to the server. */

import { note } from "./dom.js";

/** Return the JSON that the server answers; show its error, and throw it. */
export async function request(path, body, signal) {
  const response = await send(path, body, signal);
  return response.json();
}

/** Save the file that the server answers. */
export async function download(path, body, name) {
  const response = await send(path, body);
  const url = URL.createObjectURL(await response.blob());
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Return the address of an image. */
export function pictureOf({ shard, key }) {
  return `pictures/${shard}/${key}`;
}

/** Return the address of a thumbnail. */
export function thumbnailOf({ shard, key }) {
  return `thumbnails/${shard}/${key}.webp`;
}

async function send(path, body, signal) {
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const response = await fetch(path, { ...options, headers: { "Content-Type": "application/json" }, signal });
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  signal?.throwIfAborted();
  const message = answer.error?.message ?? `the server answered ${response.status}`;
  note(message, true);
  throw new Error(message);
}
