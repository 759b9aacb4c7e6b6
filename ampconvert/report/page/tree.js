// The tree of modules and operators, or all operators as a sorted list: one treegrid for both.

const ROW = 30; // pixels; the same as --row in page.css
const HEAD = 40;

const COLUMNS = [
  {key: "name", name: "Module or operator", cell: nameCell},
  {key: "type", name: "Runs in", cell: typeCell},
  {key: "verdict", name: "Verdict", cell: verdictCell, known: () => nodes.some((n) => n.verdict)},
  {key: "flops", name: "FLOPs", sort: "flops", cell: flopsCell, known: () => totalFlops > 0},
  {key: "memory", name: "Memory", sort: "memory", cell: (item) => bytes(item.memory || null),
   known: () => nodes.some((n) => n.memory !== null)},
  {key: "error", name: "Predicted error", sort: "error", cell: (item) => figure(outputError(item)),
   known: () => nodes.some((n) => n.output_error !== null)},
  {key: "measured", name: "Measured diff.", sort: "measured", cell: measuredCell,
   known: () => measured.length > 0},
  {key: "range", name: "Range of values", cell: (item) => strip(item.range),
   known: () => limits && nodes.some((n) => n.range)},
  {key: "safety", name: "Overflow", cell: safetyCell, known: () => nodes.some((n) => n.level)},
];

// Builds the treegrid in `box`; `select(item)` is called for what is chosen.
function makeTree(box, select) {
  const root = moduleTree();
  const columns = COLUMNS.filter((column) => !column.known || column.known());
  const state = {
    view: "tree", sort: "error", query: "", filters: {}, found: null, rows: [], at: 0,
    open: firstOpen(root, 34), closed: new Set(), idle: nodes.every(isIdle),
  };
  const body = element("div", {class: "rows", role: "rowgroup"});
  const head = element("div", {class: "row head", role: "row", "aria-rowindex": 1});
  const grid = element("div", {
    class: "grid", role: "treegrid", tabindex: 0, id: "tree",
    "aria-label": "Operators by module", "aria-describedby": "tree-keys",
    "aria-colcount": columns.length,
  }, element("div", {role: "rowgroup", class: "head-group"}, head), body);
  for (const column of columns) grid.classList.add(`has-${column.key}`);
  const list = windowed(grid, body, ROW, (place) => rowElement(place));

  function rowElement(place) {
    const {item, level, place: position, size} = state.rows[place];
    const open = item.kind === "module" ? isOpen(item, state.open, state.found, state.closed) : null;
    const active = place === state.at;
    return element("div", {
      class: `row ${item.kind}${active ? " active" : ""}${
        item.kind === "operator" && !item.runs_in ? " idle" : ""}`,
      role: "row", id: `row-${place}`, "aria-level": level, "aria-posinset": position,
      "aria-setsize": size, "aria-rowindex": place + 2, "aria-selected": active ? "true" : "false",
      "aria-expanded": open === null ? null : String(open),
      onclick: (event) => clicked(event, place),
    }, columns.map((column) => {
      const cell = element("div", {
        class: `cell of-${column.key}`, role: column.key === "name" ? "rowheader" : "gridcell",
      }, column.cell(item, {open, level, list: state.view === "list"}));
      if (column.key === "name") cell.style.setProperty("--level", state.view === "list" ? 0 : level - 1);
      return cell;
    }));
  }

  function refresh({keep = null, quiet = false} = {}) {
    state.found = matching(state.query, state.filters);
    state.rows = state.view === "list"
      ? listRows(state.found, state.sort, state.idle)
      : treeRows(root, state.open, state.found, state.closed, state.idle);
    const place = keep ? state.rows.findIndex((row) => row.item === keep) : -1;
    state.at = Math.max(0, Math.min(place >= 0 ? place : 0, state.rows.length - 1));
    grid.setAttribute("aria-rowcount", state.rows.length + 1);
    if (place < 0) grid.scrollTop = 0;
    drawHead();
    list.reset(state.rows.length);
    point(state.at);
    const hidden = state.found || state.idle ? 0 : nodes.filter(isIdle).length;
    total.textContent = state.found
      ? `${state.found.size.toLocaleString("en")} of ${counted(nodes.length, "operator")} match`
      : `${counted(nodes.length, "operator")}${
        hidden ? `, ${hidden.toLocaleString("en")} without floats not shown` : ""}`;
    if (!quiet) announce(total.textContent);
  }

  function point(place) {
    state.at = place;
    list.keep(place, HEAD);
    if (state.rows.length) grid.setAttribute("aria-activedescendant", `row-${place}`);
    else grid.removeAttribute("aria-activedescendant");
  }

  function drawHead() {
    head.replaceChildren(...columns.map((column) => {
      const sorted = state.view === "list" && column.sort === state.sort;
      return element("div", {
        class: `cell of-${column.key}`, role: "columnheader", "aria-sort": sorted ? "descending" : null,
      }, column.sort ? element("button", {
        type: "button", tabindex: -1, title: `List all operators by ${SORTS[column.sort].name}`,
        onclick: () => sortBy(column.sort),
      }, column.name, sorted ? " ↓" : "") : column.name);
    }));
  }

  function sortBy(key) {
    state.view = "list";
    state.sort = key;
    controls.sync(state);
    refresh();
  }

  function toggle(item, wanted) {
    if (item.kind !== "module") return;
    const open = isOpen(item, state.open, state.found, state.closed);
    if (wanted === open) return;
    if (state.found) state.closed[open ? "add" : "delete"](item);
    else state.open[open ? "delete" : "add"](item);
    refresh({keep: item, quiet: true});
    announce(`${item.name} ${open ? "closed" : "open"}`);
  }

  function clicked(event, place) {
    const {item} = state.rows[place];
    grid.focus({preventScroll: true});
    point(place);
    if (item.kind === "module" && event.target.closest(".toggle, .of-name")) toggle(item);
    select(item);
  }

  grid.addEventListener("keydown", (event) => {
    if (event.target !== grid || event.ctrlKey || event.metaKey || event.altKey) return;
    const move = KEYS[event.key];
    if (!move || !state.rows.length) return;
    event.preventDefault();
    const to = move({state, list, toggle, select, item: state.rows[state.at].item});
    if (typeof to === "number") point(Math.max(0, Math.min(to, state.rows.length - 1)));
  });

  const total = element("p", {class: "quiet total"});
  const controls = makeControls(state, refresh, () => grid.focus(), () => {
    const modules = modulesOf(root);
    const close = modules.every((module) => isOpen(module, state.open, state.found, state.closed));
    state.open = new Set(close ? [] : modules);
    state.closed = new Set(close ? modules : []);
    refresh({quiet: true});
    announce(close ? "All modules closed" : "All modules open");
  });
  box.append(
    controls.box, total,
    element("p", {id: "tree-keys", class: "unseen"},
      "Arrows move, open and close; Home and End go to the ends; Enter shows details."),
    element("div", {class: "split"}, grid, element("aside", {
      id: "details", class: "details", "aria-label": "Details of what is chosen", tabindex: 0,
    })));
  refresh({quiet: true});
  new ResizeObserver(() => list.draw()).observe(grid);

  return {
    root,
    // Show one operator, whatever is searched for or closed at the moment.
    reveal(node) {
      if (state.found && !state.found.has(node)) {
        Object.assign(state, {query: "", filters: {}});
        controls.sync(state);
      }
      if (isIdle(node) && !state.idle) {
        state.idle = true;
        controls.sync(state);
      }
      for (let home = node.home; home; home = home.above) {
        state.open.add(home);
        state.closed.delete(home);
      }
      refresh({keep: node, quiet: true});
      select(node);
      document.getElementById("model").scrollIntoView();
      grid.focus({preventScroll: true});
    },
    focusSearch: () => controls.focus(),
  };
}

const KEYS = {
  ArrowDown: ({state}) => state.at + 1,
  ArrowUp: ({state}) => state.at - 1,
  PageDown: ({state, list}) => state.at + list.room,
  PageUp: ({state, list}) => state.at - list.room,
  Home: () => 0,
  End: ({state}) => state.rows.length - 1,
  ArrowRight: ({state, item, toggle}) => {
    if (item.kind !== "module" || state.view === "list") return null;
    if (isOpen(item, state.open, state.found, state.closed)) return state.at + 1;
    return toggle(item, true);
  },
  ArrowLeft: ({state, item, toggle}) => {
    if (state.view === "list") return null;
    if (item.kind === "module" && isOpen(item, state.open, state.found, state.closed)) {
      return toggle(item, false);
    }
    const above = item.kind === "module" ? item.above : item.home;
    const place = state.rows.findIndex((row) => row.item === above);
    return place >= 0 ? place : null;
  },
  Enter: ({item, toggle, select}) => {
    toggle(item);
    select(item);
  },
  " ": ({item, toggle, select}) => {
    toggle(item);
    select(item);
  },
};

function modulesOf(root) {
  return root.children.flatMap((c) => (c.kind === "module" ? [c, ...modulesOf(c)] : []));
}

function nameCell(item, {open, list}) {
  if (item.kind === "module") {
    return [
      element("span", {class: `toggle ${open ? "open" : ""}`, "aria-hidden": "true"}),
      element("span", {class: "label", title: item.path}, item.name),
      element("span", {class: "count"}, item.operators.toLocaleString("en")),
    ];
  }
  const same = item.node.replace(/[_\d]+$/, "") === item.name.replace(/_+$/, "");
  const place = list ? item.scope || item.node : same ? "" : item.node;
  return [
    element("span", {class: "label", title: item.node},
      item.within && !list ? element("span", {class: "within"}, `${item.within} `) : null,
      element("span", {class: "op"}, item.name),
      place ? element("span", {class: "path"}, ` ${place}`) : null),
    item.findings.length
      ? element("span", {class: "flag", title: item.findings.map((f) => f.code).join(", ")}, "! hazard")
      : null,
  ];
}

function typeCell(item) {
  if (item.kind === "operator") return badge(item.runs_in);
  if (!item.floats) return badge("");
  const low = report.types[report.low] ?? report.low;
  const share = item.low / item.floats;
  const bar = element("span", {class: "share", "aria-hidden": "true"}, element("span"));
  bar.firstChild.style.width = `${share === 1 ? 100 : Math.min(share * 100, 90)}%`;
  const few = share >= 0.5 ? `${item.floats - item.low} in FP32` : `${item.low} in ${low}`;
  const told = share === 1 ? `all ${low}` : share === 0 ? "all FP32" : few;
  return [bar, element("span", {class: "told"}, told)];
}

function verdictCell(item) {
  return item.kind === "operator" ? item.verdict ?? "-" : "";
}

function flopsCell(item) {
  if (!item.share) return "-";
  const bar = element("span", {class: "meter", "aria-hidden": "true"}, element("span"));
  bar.firstChild.style.width = `${Math.max(item.share > 0 ? 1 : 0, item.share * 100)}%`;
  return [element("span", {class: "number"}, percent(item.share)), bar];
}

function measuredCell(item) {
  const text = figure(item.rel_l2);
  return item.rel_l2 !== null && !Number.isFinite(item.rel_l2)
    ? element("span", {class: "flag"}, `${text} !`) : text;
}

function safetyCell(item) {
  if (item.kind === "module") return item.risk ? `${item.risk} AT RISK` : "";
  if (!item.level) return "-";
  return element("span", {class: `level ${item.level.replace(" ", "-").toLowerCase()}`}, item.level);
}

// From the smallest to the largest magnitude, on the low type's range: subnormal, normal, beyond.
function strip(range) {
  if (!range || !limits) return "-";
  const [least, most] = [Math.log2(limits.smallest), Math.log2(limits.max)];
  const pad = (most - least) * 0.12;
  const at = (value) => 100 * Math.max(0, Math.min(1,
    (Math.log2(value) - least + pad) / (most - least + 2 * pad)));
  const piece = (kind, from, to) => {
    const made = element("span", {class: kind});
    made.style.left = `${at(from)}%`;
    made.style.width = `${Math.max(1.5, at(to) - at(from))}%`;
    return made;
  };
  const words = rangeWords(range);
  const tiny = Number.isFinite(range.tiny) ? range.tiny : null;
  return element("span", {class: "strip", role: "img", "aria-label": words, title: words},
    piece("subnormal", limits.smallest, limits.smallest_normal),
    piece("normal", limits.smallest_normal, limits.max),
    tiny && range.absmax ? piece("seen", tiny, range.absmax) : null,
    range.absmax > limits.max ? piece("beyond", limits.max, range.absmax) : null);
}
