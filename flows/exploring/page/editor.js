/** Editing of boxes: move, resize, draw, relabel and remove them by mouse or keyboard. */

import { request } from "./api.js";
import { colourOf, maskShape, rectangle, sheetOver, tag } from "./boxes.js";
import { drawing, element, show } from "./dom.js";

const CORNERS = [["x0", "y0"], ["x1", "y0"], ["x1", "y1"], ["x0", "y1"]];
const LEAST_PX = 2;

/**
 * An editor over an image.
 *
 * `things` are the candidates of the ledger, `corrections` those that no build has taken in yet, and `changed` is called
 * after each change.
 */
export class Editor {
  constructor({ place, width, height, things, corrections, hasProposals, changed }) {
    Object.assign(this, { place, width, height, hasProposals, changed });
    this.boxes = things.map((each) => ({ ...boxOf(each), isRemoved: false, outline: each.outline }));
    corrections.forEach((each) => this.apply(each));
    this.selected = this.boxes.find((each) => !each.broken.length) ?? this.boxes[0] ?? null;
    this.layer = element("div", { class: "editing", style: { position: "absolute", inset: "0" } });
    this.list = element("ol", { class: "things" });
    this.layer.addEventListener("pointerdown", (event) => this.press(event));
    this.render();
  }

  /** The changed boxes, as the server takes them. */
  get changes() {
    return this.boxes.filter(isChanged).map(({ seen, label, box, isRemoved }) => ({ seen, label, box, is_removed: isRemoved }));
  }

  /** Act on a key; return whether it means something here. */
  key(event) {
    const step = event.shiftKey ? 10 : 1;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key === "Tab") this.select(this.neighbour(event.shiftKey ? -1 : 1));
    else if (event.key === "n" || event.key === "a") this.add();
    else if (!this.selected) return false;
    else if (event.key in moves && event.altKey) this.stretch(...moves[event.key]);
    else if (event.key in moves) this.shift(...moves[event.key]);
    else if (event.key === "Delete" || event.key === "Backspace") this.remove(this.selected);
    else if (event.key === "l") this.list.querySelector(".pointed input")?.select();
    else return false;
    return true;
  }

  apply({ action, entity, label, box }) {
    if (action === "added") {
      this.boxes.push({ seen: null, label, box, broken: [], isRemoved: false });
      return;
    }
    const found = this.boxes.find(({ seen }) => seen && seen.label === entity.label && isSame(seen.box, entity.box));
    if (!found) return;
    found.isRemoved = action === "removed";
    if (action === "relabelled") found.label = label;
    if (action === "moved") Object.assign(found, { box, outline: undefined });
  }

  add(box) {
    const { width, height } = this;
    const made = box ?? { x0: Math.round(width * 0.35), y0: Math.round(height * 0.35), x1: Math.round(width * 0.65), y1: Math.round(height * 0.65) };
    this.boxes.push({ seen: null, label: "", box: made, broken: [], isRemoved: false });
    this.select(this.boxes.at(-1));
    if (!box) this.list.querySelector(".pointed input").focus();
  }

  remove(thing) {
    if (thing.seen) thing.isRemoved = !thing.isRemoved;
    else this.boxes = this.boxes.filter((each) => each !== thing);
    if (!this.boxes.includes(this.selected)) this.selected = this.boxes[0] ?? null;
    this.update();
  }

  select(thing) {
    this.selected = thing;
    this.render();
  }

  neighbour(step) {
    const at = this.boxes.indexOf(this.selected) + step;
    return this.boxes[(at + this.boxes.length) % this.boxes.length] ?? null;
  }

  shift(dx, dy) {
    this.selected.box = this.moved(this.selected.box, dx, dy);
    this.changePlace(this.selected);
  }

  stretch(dx, dy) {
    const { x0, y0, x1, y1 } = this.selected.box;
    this.selected.box = this.ordered({ x0, y0, x1: Math.max(x0 + LEAST_PX, x1 + dx), y1: Math.max(y0 + LEAST_PX, y1 + dy) });
    this.changePlace(this.selected);
  }

  moved(box, dx, dy) {
    const right = Math.min(Math.max(dx, -box.x0), this.width - box.x1);
    const down = Math.min(Math.max(dy, -box.y0), this.height - box.y1);
    return { x0: box.x0 + right, y0: box.y0 + down, x1: box.x1 + right, y1: box.y1 + down };
  }

  /** Return a box with its sides in order, in whole pixels inside the image. */
  ordered(box) {
    const x = [box.x0, box.x1].map((side) => Math.round(Math.min(Math.max(side, 0), this.width))).sort((a, b) => a - b);
    const y = [box.y0, box.y1].map((side) => Math.round(Math.min(Math.max(side, 0), this.height))).sort((a, b) => a - b);
    return { x0: x[0], y0: y[0], x1: x[1], y1: y[1] };
  }

  point(event) {
    const { left, top, width, height } = this.layer.getBoundingClientRect();
    return { x: ((event.clientX - left) / width) * this.width, y: ((event.clientY - top) / height) * this.height };
  }

  /** Begin to drag a corner, a box, or a new box. */
  press(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    document.activeElement?.blur();
    const start = this.point(event);
    const corner = event.target.dataset.corner;
    const number = event.target.dataset.box;
    if (number !== undefined) this.select(this.boxes[number]);
    const thing = number !== undefined || corner !== undefined ? this.selected : null;
    const before = thing ? { ...thing.box } : null;
    let drawn = null;
    const drag = (now) => {
      const { x, y } = this.point(now);
      if (!thing) drawn = this.ordered({ x0: start.x, y0: start.y, x1: x, y1: y });
      else if (corner !== undefined) {
        const [across, down] = CORNERS[corner];
        thing.box = { ...before, [across]: x, [down]: y };
      } else thing.box = this.moved(before, x - start.x, y - start.y);
      if (thing) thing.outline = undefined;
      this.render(drawn);
    };
    const drop = () => {
      this.layer.removeEventListener("pointermove", drag);
      if (thing && !isSame(thing.box, before)) {
        thing.box = this.ordered(thing.box);
        this.changePlace(thing);
      }
      if (drawn && drawn.x1 - drawn.x0 > LEAST_PX && drawn.y1 - drawn.y0 > LEAST_PX) {
        this.add(drawn);
        this.changePlace(this.selected);
        this.list.querySelector(".pointed input").focus();
      } else this.render();
    };
    this.layer.setPointerCapture(event.pointerId);
    this.layer.addEventListener("pointermove", drag);
    this.layer.addEventListener("pointerup", drop, { once: true });
  }

  /** Ask for the mask of a box that has changed. */
  async changePlace(thing) {
    thing.outline = undefined;
    this.update();
    if (!this.hasProposals) return;
    const { box } = thing;
    const { outline } = await request("api/masks", { place: this.place, box }).catch(() => ({}));
    if (thing.box === box) {
      thing.outline = outline ?? undefined;
      this.render();
    }
  }

  update() {
    this.render();
    this.changed();
  }

  render(drawn = null) {
    const shapes = this.boxes.map((thing, number) => this.shapeOf(thing, number));
    const handles = this.selected && !this.selected.isRemoved ? CORNERS.map(([x, y], number) => this.handle(this.selected.box[x], this.selected.box[y], number)) : [];
    const sheet = sheetOver(this.width, this.height, ...shapes.flat(), ...handles, ...(drawn ? [rectangle(drawn, "#ffffff", { class: "box broken" })] : []));
    const tags = this.boxes.filter(({ isRemoved }) => !isRemoved).map((each) => tag(each.label || "?", each.box, colourOf(this.boxes.indexOf(each)), this.width, this.height));
    show(this.layer, sheet, tags);
    this.renderList();
  }

  shapeOf(thing, number) {
    const classes = ["box", thing.broken.length && !isChanged(thing) && "broken", thing === this.selected && "selected", thing.isRemoved && "removed"];
    const box = rectangle(thing.box, colourOf(number), { class: classes.filter(Boolean).join(" "), "data-box": number });
    return thing.outline && !thing.isRemoved ? [maskShape(thing.outline, colourOf(number)), box] : [box];
  }

  handle(x, y, number) {
    const size = (11 * this.width) / (this.layer.clientWidth || this.width);
    return drawing("rect", { class: "handle", x: x - size / 2, y: y - size / 2, width: size, height: size, "data-corner": number });
  }

  /** Show the list of boxes, unless a person is writing a label in it. */
  renderList() {
    if (this.list.contains(document.activeElement) && this.list.childElementCount === this.boxes.length) {
      [...this.list.children].forEach((row, number) => row.classList.toggle("pointed", this.boxes[number] === this.selected));
      return;
    }
    show(this.list, ...this.boxes.map((thing, number) => this.rowOf(thing, number)));
  }

  rowOf(thing, number) {
    const input = element("input", { type: "text", value: thing.label, placeholder: "Label", list: "labels", "aria-label": `Label ${number + 1}` });
    input.addEventListener("input", () => {
      thing.label = input.value;
      this.update();
    });
    input.addEventListener("focus", () => this.select(thing));
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      input.blur();
      this.render();
    });
    const share = (100 * (thing.box.x1 - thing.box.x0) * (thing.box.y1 - thing.box.y0)) / (this.width * this.height);
    const aspect = (thing.box.x1 - thing.box.x0) / (thing.box.y1 - thing.box.y0);
    const state = thing.seen ? (isChanged(thing) ? "changed" : "") : "new";
    const facts = [`${share.toFixed(1)} % of the image`, `aspect ${aspect.toFixed(2)}`, state];
    return element(
      "li",
      { class: `thing${thing === this.selected ? " pointed" : ""}${thing.isRemoved ? " removed" : ""}`, style: { "--colour": colourOf(number) }, onclick: () => this.selected !== thing && this.select(thing) },
      element("div", { class: "row" }, input, element("button", { class: "quiet", title: "Delete", onclick: () => this.remove(thing) }, thing.isRemoved ? "Restore" : "Remove")),
      element("div", { class: "figures" }, facts.map((text) => element("span", {}, text))),
    );
  }
}

function boxOf({ label, box, broken }) {
  return { seen: { label, box }, label, box, broken };
}

function isChanged({ seen, label, box, isRemoved }) {
  return !seen || isRemoved || label !== seen.label || !isSame(box, seen.box);
}

function isSame(a, b) {
  return ["x0", "y0", "x1", "y1"].every((side) => a[side] === b[side]);
}
