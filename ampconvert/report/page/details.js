// What is above the tree, to search and to filter, and what is beside it on the row chosen.

function makeControls(state, refresh, enterTree, toggleAll) {
  const search = element("input", {
    type: "search", id: "search", placeholder: "Name, operator, module, rule, reason",
    autocomplete: "off", spellcheck: "false",
  });
  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      state.query = search.value;
      state.closed.clear();
      refresh();
    }, nodes.length > 3000 ? 120 : 0);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "Enter") {
      event.preventDefault();
      enterTree();
    }
  });
  const selects = [
    filter("type", "Runs in", [...new Set(nodes.map((n) => n.runs_in))].map((type) =>
      [type || "other", type ? report.types[type] ?? type : "not on floats"])),
    filter("verdict", "Verdict", [...new Set(nodes.map((n) => n.verdict))].map((v) => [v, v])),
    filter("finding", "Only with", Object.entries(FINDING_NAMES).filter(([key]) =>
      nodes.some(FINDINGS[key]))),
  ];
  function filter(key, name, options) {
    const made = element("select", {
      id: `filter-${key}`,
      onchange: () => {
        state.filters[key] = made.value;
        state.closed.clear();
        refresh();
      },
    }, element("option", {value: ""}, "any"),
    options.map(([value, shown]) => element("option", {value}, shown)));
    return {key, made, box: options.length > 1 || key === "finding" && options.length
      ? labelled(name, made) : null};
  }
  const view = element("select", {
    id: "view",
    onchange: () => {
      state.view = view.value === "tree" ? "tree" : "list";
      if (view.value !== "tree") state.sort = view.value;
      all.hidden = state.view === "list";
      refresh();
    },
  }, element("option", {value: "tree"}, "tree of modules"),
  Object.entries(SORTS).filter(([key, {of}]) => key === "order" || nodes.some((n) => of(n) !== null))
    .map(([key, {name}]) => element("option", {value: key}, `list by ${name}`)));
  const idle = element("input", {
    type: "checkbox", id: "idle",
    onchange: () => {
      state.idle = idle.checked;
      refresh();
    },
  });
  const some = nodes.some(isIdle) && !nodes.every(isIdle);
  const all = element("button", {type: "button", onclick: toggleAll}, "Open or close all");
  return {
    box: element("div", {class: "controls", role: "search"},
      labelled("Search", search, "grow"), labelled("Show as", view),
      selects.map((one) => one.box),
      some ? element("label", {class: "check"}, idle, element("span", null, "Without floats, too"))
        : null, all),
    focus: () => search.focus(),
    sync({query, filters, view: shown, sort, idle: both}) {
      search.value = query;
      idle.checked = both;
      for (const one of selects) one.made.value = filters[one.key] ?? "";
      view.value = shown === "tree" ? "tree" : sort;
      all.hidden = shown === "list";
    },
  };
}

const FINDING_NAMES = {
  hazard: "a hazard", risk: "overflow at risk", notfinite: "results that are not finite",
  number: "a verdict settled by a number", search: "a verdict from the parity search",
  user: "a rule of yours", unknown: "no rule", subnormal: "subnormal values",
};

function labelled(name, control, kind = "") {
  return element("label", {class: kind}, element("span", null, name), control);
}

// Fills the panel beside the tree.
function showDetails(item) {
  const panel = document.getElementById("details");
  panel.replaceChildren(...(item.kind === "module" ? moduleDetails(item) : operatorDetails(item)));
  panel.scrollTop = 0;
}

function emptyDetails() {
  document.getElementById("details").replaceChildren(element("p", {class: "quiet"},
    "Choose an operator to see why it runs in the type it runs in. "
    + "Press / to search, and the arrow keys to move in the tree."));
}

function moduleDetails(module) {
  const low = report.types[report.low] ?? report.low;
  return [
    element("h3", null, module.path || module.name),
    terms([
      ["Operators", `${module.operators.toLocaleString("en")}, `
        + `${module.floats.toLocaleString("en")} on floats, `
        + `${module.low.toLocaleString("en")} in ${low}`],
      ["FLOPs", module.share === null ? null : percent(module.share)],
      ["Weights and results", module.memory === null ? null : bytes(module.memory)],
      ["Predicted error", module.squares === null ? null : figure(outputError(module))],
      ["Largest difference measured inside", module.rel_l2 === null ? null : figure(module.rel_l2)],
      ["Values", module.range ? rangeWords(module.range) : null],
      ["Hazards", module.findings || null],
    ]),
  ];
}

function operatorDetails(node) {
  return [
    element("h3", null, node.node),
    element("p", null, badge(node.runs_in), ` ${node.verdict ?? ""}`, node.evidence
      ? element("span", {class: "quiet"}, `, ${EVIDENCE[node.evidence] ?? node.evidence}`) : null),
    element("p", {class: "reason"}, node.reason || "No reason is recorded."),
    node.findings.map((finding) => element("p", {class: "warn"},
      element("strong", null, `${finding.code} ${finding.name ?? ""}`), ` ${finding.message}`
        + (finding.handled ? ` (${finding.handled})` : ""))),
    terms([
      ["Operator", node.op],
      ["Module", node.scope || null],
      ["Line", node.where || null],
      ["Rule", node.rule || null],
      ["Figure", node.figure === null ? null : figure(node.figure)],
      ["Source", node.source ? linked(node.source) : null],
      ["Kept in FP32", node.keep_inputs.length ? node.keep_inputs.join(", ") : null],
      ["FLOPs", node.flops ? `${operations(node.flops)}, ${percent(node.share)} of all` : null],
      ["Predicted time", node.seconds_after
        ? `${microseconds(node.seconds_before)} in FP32, ${microseconds(node.seconds_after)} here` : null],
      ["Results", pair(node.result_bytes_before, node.result_bytes_after)],
      ["Weights read", pair(node.weight_bytes_before, node.weight_bytes_after)],
      ["Predicted error", node.output_error === null ? null
        : `${figure(node.output_error)} of the outputs, relative L2`],
      ["Measured difference", node.rel_l2 === null ? null
        : `${figure(node.rel_l2)} of its own result, relative L2`],
      ["Alone in the low type", node.alone_measured === null ? null
        : `predicted ${figure(node.alone_predicted)}, measured ${figure(node.alone_measured)}`],
      ["Overflow", node.level ? `${node.level}: ${node.safety_reason}` : null],
      ["Room to the limit", node.margin === null ? null : `${figure(node.margin)} times`],
      ["Reads", node.inputs.join(", ") || null],
      ["Makes", node.outputs.join(", ") || null],
    ]),
    node.seen.length ? element("h4", null, "Values seen in FP32") : null,
    node.seen.map(([value, ...rest]) => {
      const range = mergedRange([[value, ...rest]]);
      return element("div", {class: "seen-value"}, element("code", null, value), strip(range),
        element("p", null, rangeWords(range)));
    }),
  ].flat().filter(Boolean);
}

const EVIDENCE = {
  rule: "by rule", user: "by your rule", seen: "seen in data or weights", proved: "proved",
  search: "found by the parity search",
};

function pair(before, after) {
  return before ? `${bytes(before)} in FP32, ${bytes(after)} here` : null;
}

function terms(rows) {
  return element("dl", {class: "facts narrow"}, rows.filter(([, told]) => told !== null)
    .map(([name, told]) => element("div", null, element("dt", null, name), element("dd", null, told))));
}
