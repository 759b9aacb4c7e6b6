// Which rows the tree or the list shows: what is open, what is looked for, how it is sorted.

const SORTS = {
  order: {name: "order of execution", of: (node) => -node.index},
  error: {name: "predicted error", of: (node) => node.output_error},
  measured: {name: "measured difference", of: (node) => node.rel_l2},
  flops: {name: "FLOPs", of: (node) => node.flops},
  memory: {name: "memory", of: (node) => node.memory},
  seconds: {name: "predicted time", of: (node) => node.seconds_after},
  subnormal: {
    name: "share of subnormal values",
    of: (node) => (node.range ? node.range.subnormal / node.range.elements : null),
  },
  absmax: {name: "largest value", of: (node) => (node.range ? node.range.absmax : null)},
};

let haystacks = null;

// Every operator in which all words are found and that passes the filters; null stands for all.
function matching(query, filters) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = Object.entries(filters).filter(([, value]) => value);
  if (!words.length && !wanted.length) return null;
  haystacks ??= nodes.map((node) =>
    [node.node, node.name, node.scope, node.rule, node.reason, node.where, node.level,
     ...node.findings.map((finding) => `${finding.code} ${finding.name}`)]
      .join("\n").toLowerCase());
  const found = new Set();
  nodes.forEach((node, index) => {
    if (words.every((word) => haystacks[index].includes(word))
        && wanted.every(([key, value]) => PASSES[key](node, value))) found.add(node);
  });
  return found;
}

const PASSES = {
  type: (node, value) => (value === "other" ? !node.runs_in : node.runs_in === value),
  verdict: (node, value) => node.verdict === value,
  finding: (node, value) => FINDINGS[value](node),
};

const FINDINGS = {
  hazard: (node) => node.findings.length > 0,
  risk: (node) => node.level === "AT RISK",
  number: (node) => node.evidence === "seen" || node.evidence === "proved",
  search: (node) => node.evidence === "search",
  user: (node) => node.evidence === "user",
  unknown: (node) => Boolean(node.unknown),
  subnormal: (node) => Boolean(node.range?.subnormal),
  notfinite: (node) => node.rel_l2 !== null && !Number.isFinite(node.rel_l2),
};

// The rows of the tree: {item, level, place, size}; `open` holds the modules that are open, while
// something is looked for every module with a match is, unless it is in `closed`. What works on no
// floats stands there only where something is looked for, or with `idle`.
function treeRows(root, open, found, closed, idle) {
  const rows = [];
  const matches = found ? matchesIn(found) : null;
  const walk = (module, level) => {
    const shown = matches
      ? module.children.filter((child) => found.has(child) || matches.has(child))
      : module.children.filter((child) => idle || !isIdle(child));
    shown.forEach((item, place) => {
      rows.push({item, level, place: place + 1, size: shown.length});
      if (item.kind === "module" && isOpen(item, open, found, closed)) walk(item, level + 1);
    });
  };
  walk(root, 1);
  return rows;
}

function isIdle(item) {
  return item.kind === "module" ? !item.floats : !item.runs_in;
}

function isOpen(module, open, found, closed) {
  return found ? !closed.has(module) : open.has(module);
}

// Modules with something found inside.
function matchesIn(found) {
  const matches = new Set();
  for (const node of found) {
    for (let home = node.home; home && !matches.has(home); home = home.above) matches.add(home);
  }
  return matches;
}

function listRows(found, sort, idle) {
  const shown = found ? [...found] : nodes.filter((node) => idle || !isIdle(node));
  const rank = (node) => {
    const value = SORTS[sort].of(node);
    return value === null || value === undefined ? -Infinity : Number.isNaN(value) ? Infinity : value;
  };
  const ranks = new Map(shown.map((node) => [node, rank(node)]));
  const order = (a, b) => {
    const [left, right] = [ranks.get(a), ranks.get(b)];
    return left === right ? a.index - b.index : right > left ? 1 : -1;
  };
  return shown.sort(order).map((item, place) =>
    ({item, level: 1, place: place + 1, size: shown.length}));
}

// What is open at first: level by level what fits on a screen, and always the largest module.
function firstOpen(root, room) {
  const open = new Set();
  let level = [root];
  const count = (module) => module.children.filter((child) => !isIdle(child)).length;
  let shown = count(root);
  while (level.length) {
    const next = level.flatMap((module) => module.children.filter((c) => c.kind === "module"));
    const more = next.reduce((sum, module) => sum + count(module), 0);
    if (next.length && shown + more <= room) {
      next.forEach((module) => open.add(module));
      shown += more;
      level = next;
      continue;
    }
    if (!open.size && next.length) open.add(next.reduce((a, b) => (b.operators > a.operators ? b : a)));
    break;
  }
  return open;
}
