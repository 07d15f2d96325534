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

// Outlines: one switch for all slices of the page, wherever it is pressed.
const main = document.querySelector("main");
const switches = [...document.querySelectorAll("input[data-kind]")];
for (const input of switches) {
  input.addEventListener("change", () => {
    main.classList.toggle(`show-${input.dataset.kind}`, input.checked);
    for (const other of switches) if (other.dataset.kind === input.dataset.kind) other.checked = input.checked;
  });
}

const dialog = document.getElementById("large");
for (const button of document.querySelectorAll(".zoom")) {
  button.addEventListener("click", () => {
    const place = dialog.querySelector("div");
    place.className = main.className;
    place.replaceChildren(button.querySelector("svg").cloneNode(true));
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
