// Elements of the page. Text is only ever set as text, so no name of a model becomes markup.

function element(tag, properties, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function badge(type) {
  if (!type) return element("span", {class: "quiet", title: "does not work on floats"}, "-");
  const name = report.types[type] ?? type;
  return element("span", {class: `badge ${type === report.low ? "low" : "full"}`}, name);
}

// A source of a rule: its address as a link, all else as text.
function linked(source) {
  return source.split(/(https?:\/\/[^\s,;)]+)/).map((part) =>
    /^https?:\/\//.test(part)
      ? element("a", {href: part, target: "_blank", rel: "noopener noreferrer"}, part)
      : part,
  );
}

let speaking = 0;

// Tell a screen reader, once what is being typed has come to rest.
function announce(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    document.getElementById("status").textContent = text;
  }, 250);
}

const PAGE_ROWS = 100;

// A table of any length, a hundred rows at a time. Columns are {name, right, cell(row)}.
function pagedTable(caption, columns, rows) {
  const body = element("tbody");
  const where = element("p", {class: "quiet"});
  let first = 0;
  const show = (start) => {
    first = Math.max(0, Math.min(start, Math.max(0, rows.length - 1)));
    const shown = rows.slice(first, first + PAGE_ROWS);
    body.replaceChildren(...shown.map((row) => element("tr", null, columns.map((column, place) =>
      element(place ? "td" : "th", {
        class: column.right ? "right" : null, scope: place ? null : "row",
      }, column.cell(row))))));
    const last = first + shown.length;
    where.textContent = `Rows ${(rows.length ? first + 1 : 0).toLocaleString("en")} to `
      + `${last.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
    back.disabled = first === 0;
    on.disabled = last >= rows.length;
  };
  const turn = (step) => () => { show(first + step); announce(where.textContent); };
  const back = element("button", {type: "button", onclick: turn(-PAGE_ROWS)}, "Previous");
  const on = element("button", {type: "button", onclick: turn(PAGE_ROWS)}, "Next");
  const table = element("div",
    {class: "scroll", tabindex: 0, role: "region", "aria-label": caption},
    element("table", null,
      element("caption", null, caption),
      element("thead", null, element("tr", null, columns.map((column) =>
        element("th", {scope: "col", class: column.right ? "right" : null}, column.name)))),
      body));
  show(0);
  const turning = rows.length > PAGE_ROWS
    ? element("div", {class: "turning"}, back, on, where) : null;
  return element("div", null, table, turning);
}

// What a figure shows as numbers, made when it is opened.
function asTable(make) {
  const box = element("details", {class: "as-table"}, element("summary", null, "As a table"));
  box.addEventListener("toggle", () => {
    if (box.open && box.childElementCount === 1) box.append(make());
  });
  return box;
}
