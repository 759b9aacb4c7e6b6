// The report's data: operators with their figures, and the modules that they stand in.

const report = JSON.parse(document.getElementById("report-data").textContent);
const nodes = rowsOf(report.nodes);
const casts = rowsOf(report.casts);
const measured = rowsOf(report.measured);
const limits = report.limits.max ? report.limits : null;

const byName = new Map(nodes.map((node, index) => [node.node, index]));
const totalFlops = nodes.reduce((sum, node) => sum + (node.flops ?? 0), 0);
nodes.forEach(complete);
measured.forEach((one) => addMeasured(one));
for (const finding of report.findings) {
  for (const name of finding.nodes ?? []) {
    if (byName.has(name)) nodes[byName.get(name)].findings.push(finding);
  }
}

// Columns as one object for each row. "NaN" and the infinities are text in JSON.
function rowsOf(table) {
  const columns = Object.entries(table).map(([name, column]) => [name, cells(column)]);
  const count = Math.max(0, ...columns.map(([, column]) => column.length));
  return Array.from({length: count}, (_, place) =>
    Object.fromEntries(columns.map(([name, column]) => [name, column[place]])));
}

function cells(column) {
  if (column.words) return column.at.map((place) => column.words[place]);
  if (column.values) return column.values;
  if (column.numbers) return column.numbers.map(numeric);
  return Array(column.count).fill(numeric(column.all));
}

function numeric(value) {
  return value === null || value === undefined ? null : Number(value);
}

function complete(node, index) {
  node.index = index;
  node.kind = "operator";
  node.within = ""; // the module that holds nothing but this operator
  Object.assign(node, report.decisions[node.decision]);
  node.name = shortOp(node.op);
  node.share = totalFlops && node.flops !== null ? node.flops / totalFlops : null;
  node.memory = added(node.result_bytes_after, node.weight_bytes_after);
  if (!node.runs_in) node.output_error = null; // it rounds nothing
  node.rel_l2 = null;
  node.range = mergedRange(node.seen);
  node.findings = [];
}

function added(left, right) {
  return left === null && right === null ? null : (left ?? 0) + (right ?? 0);
}

function addMeasured(one) {
  const index = byName.get(one.node);
  one.index = index ?? null;
  if (index === undefined || one.rel_l2 === null) return;
  nodes[index].rel_l2 = larger(nodes[index].rel_l2, one.rel_l2);
}

// The larger error: NaN is larger than all, null than none.
function larger(left, right) {
  if (left === null || right === null) return left ?? right;
  return Number.isNaN(left) || Number.isNaN(right) ? NaN : Math.max(left, right);
}

function mergedRange(seen) {
  let whole = null;
  for (const [, least, most, unmasked, tiny, nan, inf, elements, subnormal, lost] of seen) {
    if (!elements) continue;
    const [low, high] = [Number(least), Number(most)];
    const part = {
      least: low, most: high, absmax: Math.max(-low, high, 0), unmasked: Number(unmasked),
      tiny: Number(tiny), nan, inf, elements, subnormal, lost,
    };
    whole = whole ? joined(whole, part) : part;
  }
  return whole;
}

function joined(left, right) {
  return {
    least: Math.min(left.least, right.least), most: Math.max(left.most, right.most),
    absmax: Math.max(left.absmax, right.absmax), unmasked: Math.max(left.unmasked, right.unmasked),
    tiny: Math.min(left.tiny, right.tiny), nan: left.nan || right.nan, inf: left.inf || right.inf,
    elements: left.elements + right.elements, subnormal: left.subnormal + right.subnormal,
    lost: left.lost + right.lost,
  };
}

function rangeWords(range) {
  if (!range) return "not seen";
  const parts = [`from ${figure(range.least)} to ${figure(range.most)}`];
  if (Number.isFinite(range.tiny)) parts.push(`smallest magnitude ${figure(range.tiny)}`);
  if (range.subnormal) parts.push(`${percent(range.subnormal / range.elements)} subnormal`);
  if (range.lost) parts.push(`${percent(range.lost / range.elements)} too small for any number`);
  if (limits && range.absmax > limits.max) parts.push(`beyond ${figure(limits.max)}`);
  if (range.nan) parts.push("NaN was seen");
  if (range.inf) parts.push("infinities were seen");
  return parts.join(", ");
}

// The tree of modules, each with the sums over what is in it; `first` orders them as they run.
function moduleTree() {
  const root = newModule("", "the model", null);
  const known = new Map([["", root]]);
  for (const node of nodes) {
    let home = root;
    let path = "";
    for (const part of node.scope ? node.scope.split(".") : []) {
      path = path ? `${path}.${part}` : part;
      if (!known.has(path)) {
        known.set(path, newModule(path, part, home));
        home.children.push(known.get(path));
      }
      home = known.get(path);
    }
    node.home = home;
    home.children.push(node);
    for (let above = home; above; above = above.above) count(above, node);
  }
  shorten(root);
  return root;
}

function newModule(path, name, above) {
  return {
    kind: "module", path, name, above, children: [], operators: 0, floats: 0, low: 0, share: null,
    memory: null, squares: null, rel_l2: null, range: null, findings: 0, risk: 0, last: null,
  };
}

function count(module, node) {
  module.operators += 1;
  module.floats += node.runs_in ? 1 : 0;
  module.low += node.runs_in && node.runs_in === report.low ? 1 : 0;
  module.share = added(module.share, node.share);
  module.memory = added(module.memory, node.memory);
  module.rel_l2 = larger(module.rel_l2, node.rel_l2);
  if (node.output_error !== null) module.squares = (module.squares ?? 0) + node.output_error ** 2;
  if (node.range) module.range = module.range ? joined(module.range, node.range) : {...node.range};
  module.findings += node.findings.length;
  module.risk += node.level === "AT RISK" ? 1 : 0;
}

// A module that holds nothing but one other module goes by both names, and one that holds a single
// operator is that operator.
function shorten(module) {
  for (const [place, child] of module.children.entries()) {
    let inner = child;
    while (inner.kind === "module" && inner.children.length === 1) {
      const [only] = inner.children;
      if (only.kind === "operator") {
        only.within = inner.name;
        only.home = module;
      } else {
        only.name = `${inner.name}.${only.name}`;
        only.above = module;
      }
      inner = only;
    }
    module.children[place] = inner;
    if (inner.kind === "module") shorten(inner);
  }
}

function outputError(item) {
  if (item.kind === "operator") return item.output_error;
  return item.squares === null ? null : Math.sqrt(item.squares);
}
