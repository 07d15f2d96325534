"use strict";

// Tables: sort by the value of a column; what has none stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const rising = heading.getAttribute("aria-sort") !== "ascending";
      const sign = rising ? 1 : -1;
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => ({ row, value: row.cells[column].dataset.value }));
      rows.sort((a, b) => {
        if (a.value === "" || b.value === "") return (a.value === "") - (b.value === "");
        const numbers = Number(a.value) - Number(b.value);
        return sign * (Number.isNaN(numbers) ? a.value.localeCompare(b.value) : numbers);
      });
      body.append(...rows.map((entry) => entry.row));
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    });
  });
}

for (const input of document.querySelectorAll("input[data-table]")) {
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of document.getElementById(`t-${input.dataset.table}`).tBodies[0].rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    }
  });
}

// A table that is wider than its place says so.
const hints = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    target.parentElement.querySelector(".hint").hidden = target.scrollWidth <= target.clientWidth + 1;
  }
});
document.querySelectorAll(".scroll").forEach((place) => hints.observe(place));

// Outlines: one switch for all slices of the page, wherever it is pressed.
const main = document.querySelector("main");
const switches = [...document.querySelectorAll("input[data-kind]")];
for (const input of switches) {
  input.addEventListener("change", () => {
    main.classList.toggle(`show-${input.dataset.kind}`, input.checked);
    for (const other of switches) if (other.dataset.kind === input.dataset.kind) other.checked = input.checked;
  });
}

// Slices: a slider under a case steps through a plane; the enlarged slice has one as well, and both move together.
const dialog = document.getElementById("large");
const place = dialog.querySelector("div");
const dialogStepper = dialog.querySelector(".stepper");
let enlarged = null; // the stack that the dialog shows

function draw(svg, [image, outlines], title) {
  svg.querySelector("image").setAttribute("href", image);
  svg.querySelector("g").replaceChildren(...outlines.map(([kind, color, data]) => {
    const path = document.createElementNS(svg.namespaceURI, "path");
    path.setAttribute("class", `${kind} c${color}`);
    path.setAttribute("d", data);
    return path;
  }));
  svg.setAttribute("aria-label", title);
}

function label(stepper, index, count) {
  const slider = stepper.querySelector("input");
  slider.max = count - 1;
  slider.value = index;
  stepper.querySelector("output").textContent = `${index + 1} of ${count}`;
  slider.setAttribute("aria-valuetext", `${index + 1} of ${count}`);
}

class Stack {
  constructor(stepper) {
    this.stepper = stepper;
    this.button = stepper.closest("article").querySelector(".zoom");
    this.slider = stepper.querySelector("input");
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    this.button.addEventListener("keydown", (event) => this.step(event));
    stepper.hidden = false;
  }

  get slices() { // parsed when first needed
    return (this.parsed ??= JSON.parse(this.stepper.querySelector("script").textContent));
  }

  step(event) {
    const change = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!change) return;
    event.preventDefault();
    this.show(Number(this.slider.value) + change);
  }

  show(wanted) {
    const count = this.slices.length;
    const index = Math.min(Math.max(wanted, 0), count - 1);
    const svg = this.button.querySelector("svg");
    const title = svg.getAttribute("aria-label").replace(/\d+ of \d+$/, `${index + 1} of ${count}`);
    draw(svg, this.slices[index], title);
    this.button.setAttribute("aria-label", `enlarge ${title}`);
    label(this.stepper, index, count);
    if (enlarged !== this) return;
    draw(place.querySelector("svg"), this.slices[index], title);
    label(dialogStepper, index, count);
  }
}

const stacks = new Map();
for (const stepper of document.querySelectorAll("article .stepper")) {
  const stack = new Stack(stepper);
  stacks.set(stack.button, stack);
}

for (const button of document.querySelectorAll(".zoom")) {
  button.addEventListener("click", () => {
    place.className = main.className;
    place.replaceChildren(button.querySelector("svg").cloneNode(true));
    enlarged = stacks.get(button) ?? null;
    dialogStepper.hidden = !enlarged;
    dialog.showModal();
    if (!enlarged) return;
    enlarged.show(Number(enlarged.slider.value));
    dialogStepper.querySelector("input").focus();
  });
}
dialogStepper.querySelector("input").addEventListener("input", (event) => enlarged.show(Number(event.target.value)));
dialog.addEventListener("wheel", (event) => {
  if (!enlarged) return;
  event.preventDefault();
  enlarged.show(Number(enlarged.slider.value) + Math.sign(event.deltaY));
}, { passive: false });
dialog.addEventListener("close", () => { enlarged = null; });
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
