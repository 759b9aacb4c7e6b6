// The plots: error along the depth, ranges of values, time against error, histograms.

function plotDepth() {
  const box = emptied("depth");
  if (!box) return;
  const predicted = cumulative();
  const inside = measured.filter((one) => one.index !== null && one.rel_l2 !== null)
    .map((one) => ({node: nodes[one.index], index: one.index, y: one.rel_l2, series: "Measured"}));
  const shown = inside.filter((one) => one.y > 0 && Number.isFinite(one.y));
  const bad = inside.filter((one) => !Number.isFinite(one.y));
  const points = [...predicted.filter((one) => one.y > 0 && Number.isFinite(one.y)), ...shown];
  const scale = decades(points.map((one) => one.y));
  const islands = nodes.filter(isIsland).length;
  const last = predicted.at(-1);
  const words = [
    last ? `Predicted error of the outputs after the last operator: ${figure(last.y)}.` : "",
    shown.length ? `Largest measured difference of a result: ${figure(extent(shown.map((p) => p.y))[1])}.` : "",
    bad.length ? `${counted(bad.length, "result is", "results are")} not finite.` : "",
    `${counted(islands, "operator stays", "operators stay")} in FP32.`,
    inside.length > shown.length + bad.length ? "Results without any difference are left out." : "",
  ].filter(Boolean).join(" ");
  addChart(box, {
    words,
    legend: [
      ...(predicted.length ? [["line-predicted", "predicted, of the outputs, all rounding up to here"]] : []),
      ...(inside.length ? [["line-measured", "measured, of this operator's own result"]] : []),
      ...(islands ? [["band-full", "stays in FP32"]] : []),
      ...(bad.length ? [["cross", "not finite"]] : []),
    ],
    draw: (width) => Plot.plot({
      ...alongExecution(width, HEIGHT, {
        type: "log", domain: scale.domain, ticks: scale.ticks, tickFormat: powerOfTen,
        label: "↑ relative L2 error",
      }),
      marks: [
        Plot.gridY({ticks: scale.ticks}),
        islandBand(scale.domain),
        Plot.lineY(withGaps(shown), {x: "index", y: "y", stroke: "var(--measured)", strokeWidth: 1}),
        shown.length <= 600
          ? Plot.dot(shown, {x: "index", y: "y", r: 1.8, fill: "var(--measured)"}) : null,
        Plot.lineY(predicted.filter((p) => p.y > 0 && Number.isFinite(p.y)),
          {x: "index", y: "y", stroke: "var(--predicted)", strokeWidth: 2, curve: "step-after"}),
        Plot.dot(bad, {x: "index", y: scale.domain[1], symbol: "times", stroke: "var(--bad)", r: 4}),
        Plot.tip(points, Plot.pointer({x: "index", y: "y", title: depthTip, maxRadius: 60})),
      ],
    }),
    chosen: (point) => tree.reveal(point.node),
    table: () => depthTable(predicted),
  });
}

// A line is not to bridge a stretch of operators that have no figure.
function withGaps(points) {
  const most = Math.max(4, nodes.length / 40);
  return points.flatMap((point, place) =>
    (place && point.index - points[place - 1].index > most
      ? [{...point, y: NaN}, point] : [point]));
}

// The root of the sum of squares of what each operator adds, along the execution.
function cumulative() {
  if (!nodes.some((node) => node.output_error !== null)) return [];
  let squares = 0;
  return nodes.map((node, index) => {
    squares += (node.output_error ?? 0) ** 2;
    return {node, index, y: Math.sqrt(squares), series: "Predicted"};
  });
}

function depthTip({node, y, series}) {
  const type = node.runs_in ? report.types[node.runs_in] ?? node.runs_in : "not on floats";
  return `${operatorName(node)}\n${node.scope}\n${series} ${figure(y)}, ${type}`;
}

function depthTable(predicted) {
  return pagedTable("Error along the depth", [
    {name: "Operator", cell: (node) => jump(node)},
    {name: "Runs in", cell: (node) => badge(node.runs_in)},
    {name: "Adds, predicted", right: true, cell: (node) => figure(node.output_error)},
    {name: "Up to here, predicted", right: true, cell: (node) => figure(predicted[node.index]?.y ?? null)},
    {name: "Own result, measured", right: true, cell: (node) => figure(node.rel_l2)},
  ], nodes);
}

function plotRanges() {
  const box = emptied("ranges");
  if (!box) return;
  const shown = nodes.filter((node) => node.range?.absmax > 0);
  const tiny = (node) => (Number.isFinite(node.range.tiny) ? node.range.tiny : node.range.absmax);
  const seen = shown.flatMap((node) => [tiny(node), node.range.absmax]);
  const lines = limitLines(extent(seen));
  const floor = limits ? limits.smallest / 1e3 : 0;
  const scale = decades([...seen.filter((value) => value > floor), ...lines.map((line) => line.value)]);
  const beyond = shown.filter((node) => limits && node.range.absmax > limits.max);
  const settled = shown.filter((node) => node.class === "deny" && SETTLED.has(node.evidence));
  const clamped = casts.filter((cast) => cast.clamp).map((cast) => nodes[byName.get(cast.maker)])
    .filter((node) => node?.range);
  const subnormal = shown.filter((node) => node.range.subnormal);
  const low = report.types[report.low] ?? report.low;
  const words = [
    `${counted(shown.length, "operator")} with results from ${figure(extent(seen)[0])} to `
      + `${figure(extent(seen)[1])} in magnitude.`,
    limits && !lines.some((line) => line.value === limits.max)
      ? `${low} reaches to ${figure(limits.max)}, far outside this plot.` : "",
    extent(seen)[0] < floor ? "What is smaller than the plot shows is cut off at its foot." : "",
    beyond.length ? `${counted(beyond.length, "operator goes", "operators go")} beyond ${low}'s largest number.` : "",
    subnormal.length ? `${counted(subnormal.length, "operator has", "operators have")} subnormal results.` : "",
    settled.length ? `${counted(settled.length, "operator is", "operators are")} kept in FP32 by these numbers.` : "",
    clamped.length ? `${counted(clamped.length, "value is", "values are")} limited before a cast.` : "",
  ].filter(Boolean).join(" ");
  addChart(box, {
    words,
    legend: [
      ["band-seen", "seen, smallest to largest magnitude"],
      ...(lines.length ? [["line-limit", `limits of ${low}`]] : []),
      ...(beyond.length ? [["cross", "beyond the largest number"]] : []),
      ...(settled.length ? [["triangle", "kept in FP32 by a number"]] : []),
      ...(clamped.length ? [["square", "limited before a cast"]] : []),
      ...(nodes.some(isIsland) ? [["band-full", "stays in FP32"]] : []),
    ],
    draw: (width) => Plot.plot({
      ...alongExecution(width, HEIGHT, {
        type: "log", domain: scale.domain, ticks: scale.ticks, tickFormat: powerOfTen,
        label: "↑ magnitude", clamp: true,
      }),
      marks: [
        Plot.gridY({ticks: scale.ticks}),
        islandBand(scale.domain),
        Plot.rectY(bands(shown, tiny, (node) => node.range.absmax, width), {
          x1: "from", x2: "to", y1: "low", y2: "high", fill: "var(--seen)",
        }),
        Plot.ruleY(lines, {y: "value", stroke: "var(--limit)", strokeDasharray: "5 3"}),
        Plot.text(lines, {
          y: "value", text: "name", frameAnchor: "right", textAnchor: "end", dx: -4, dy: -7,
          fill: "var(--limit)", stroke: "var(--surface)", strokeWidth: 3,
        }),
        Plot.dot(beyond, {x: "index", y: (n) => n.range.absmax, symbol: "times", stroke: "var(--bad)", r: 4}),
        Plot.dot(settled, {
          x: "index", y: (n) => n.range.absmax, symbol: "triangle", fill: "var(--full)", r: 4, dy: -7,
        }),
        Plot.dot(clamped, {
          x: "index", y: (n) => n.range.absmax, symbol: "square", stroke: "var(--full)", r: 3.5, dy: -7,
        }),
        Plot.tip(shown, Plot.pointerX({
          x: "index", y: (n) => n.range.absmax, title: (n) =>
            `${operatorName(n)}\n${n.scope}\n${rangeWords(n.range)}`,
        })),
      ],
    }),
    chosen: (node) => tree.reveal(node),
    table: () => rangeTable(shown),
  });
  if (subnormal.length) plotSubnormal(box, subnormal);
}

const SETTLED = new Set(["seen", "proved"]);

// A band for each operator; where there are more than pixels, for each group of neighbours.
function bands(shown, bottom, top, width) {
  const group = Math.max(1, Math.ceil(nodes.length / Math.max(200, width - 70) * 2));
  const found = new Map();
  for (const node of shown) {
    const place = Math.floor(node.index / group);
    const known = found.get(place);
    const [low, high] = [bottom(node), top(node)];
    if (known) Object.assign(known, {low: Math.min(known.low, low), high: Math.max(known.high, high)});
    else found.set(place, {from: place * group - 0.5, to: (place + 1) * group - 0.5, low, high});
  }
  return [...found.values()];
}

// The limits that are near enough to what was seen to be drawn.
function limitLines([least, most]) {
  if (!limits) return [];
  return [
    {name: `largest ${figure(limits.max)}`, value: limits.max},
    {name: `smallest normal ${figure(limits.smallest_normal)}`, value: limits.smallest_normal},
    {name: `smallest ${figure(limits.smallest)}`, value: limits.smallest},
  ].filter(({value}) => value < most * 1e8 && value > least / 1e8);
}

function plotSubnormal(box, subnormal) {
  const share = (node) => node.range.subnormal / node.range.elements;
  const worst = subnormal.reduce((a, b) => (share(a) >= share(b) ? a : b));
  addChart(box, {
    height: 130,
    words: `Share of each operator's results that is subnormal in the low type; the largest is `
      + `${percent(share(worst))} at ${worst.node}.`,
    draw: (width) => Plot.plot({
      ...alongExecution(width, 130, {
        label: "↑ subnormal share", tickFormat: percent, ticks: 3,
        domain: [0, Math.min(1, share(worst) * 1.1)],
      }),
      marks: [
        Plot.gridY({ticks: 3}),
        Plot.rectY(bands(subnormal, () => 0, share, width), {
          x1: "from", x2: "to", y1: "low", y2: "high", fill: "var(--subnormal)",
        }),
        Plot.tip(subnormal, Plot.pointerX({
          x: "index", y: share, title: (n) => `${operatorName(n)}\n${n.scope}\n${rangeWords(n.range)}`,
        })),
      ],
    }),
    chosen: (node) => tree.reveal(node),
  });
}

function rangeTable(shown) {
  return pagedTable("Values seen", [
    {name: "Operator", cell: (node) => jump(node)},
    {name: "Runs in", cell: (node) => badge(node.runs_in)},
    {name: "Least", right: true, cell: (node) => figure(node.range.least)},
    {name: "Most", right: true, cell: (node) => figure(node.range.most)},
    {name: "Smallest magnitude", right: true, cell: (node) => figure(node.range.tiny)},
    {name: "Subnormal", right: true, cell: (node) => percent(node.range.subnormal / node.range.elements)},
    {name: "Lost", right: true, cell: (node) => percent(node.range.lost / node.range.elements)},
  ], shown);
}

function plotFront() {
  const box = report.front && emptied("front");
  if (!box) return;
  const all = report.front.points.map((point) => ({
    ...point, time: point.seconds * 1e6, error: numeric(point.error), measured: numeric(point.measured),
  }));
  const drawn = (key) => all.filter((point) => point[key] > 0 && Number.isFinite(point[key]));
  const [predicted, tried] = [drawn("error"), drawn("measured")];
  const scale = decades([...predicted.map((p) => p.error), ...tried.map((p) => p.measured)]);
  const full = numeric(report.front.seconds_full);
  const marked = all.filter((point) => point.chosen || point.default);
  const height = (point) => (point.measured > 0 && Number.isFinite(point.measured) ? point.measured : point.error);
  addChart(box, {
    words: `${counted(all.length, "plan")}, ${all.filter((p) => p.measured !== null).length} of them measured; predicted times from `
      + `${microseconds(extent(all.map((p) => p.seconds))[0])} to `
      + `${microseconds(extent(all.map((p) => p.seconds))[1])}, FP32 ${microseconds(full)}. The numbers stand in the table below.`,
    legend: [
      ["ring-predicted", "predicted error"],
      ...(tried.length ? [["dot-measured", "measured error"]] : []),
    ],
    draw: (width) => Plot.plot({
      className: "plot", width, height: HEIGHT, marginLeft: 56, marginRight: 30, marginTop: 24,
      marginBottom: 36, inset: 14,
      x: {label: "predicted time of one run, us →", ticks: Math.max(2, width / 110), nice: true},
      y: {type: "log", domain: scale.domain, ticks: scale.ticks, tickFormat: powerOfTen,
          label: "↑ relative L2 error"},
      marks: [
        Plot.gridY({ticks: scale.ticks}),
        full ? Plot.ruleX([full * 1e6], {stroke: "var(--full)", strokeDasharray: "5 3"}) : null,
        full ? Plot.text([full * 1e6], {
          x: (x) => x, frameAnchor: "top", text: () => "FP32", dy: -4, fill: "var(--full)",
        }) : null,
        Plot.lineY(predicted, {x: "time", y: "error", stroke: "var(--predicted)", strokeOpacity: 0.5,
          sort: "time"}),
        Plot.dot(predicted, {x: "time", y: "error", stroke: "var(--predicted)", r: 3.5}),
        Plot.dot(tried, {x: "time", y: "measured", fill: "var(--measured)", r: 3.5}),
        Plot.text(marked, {
          x: "time", y: height, dy: -13, fontWeight: 600, stroke: "var(--surface)",
          strokeWidth: 3, fill: "currentColor",
          text: (p) => [p.chosen ? "chosen" : "", p.default ? "default" : ""].filter(Boolean).join(", "),
        }),
        Plot.tip(all, Plot.pointer({
          x: "time", y: height, title: (p) => `Point ${p.point}\n${p.time.toPrecision(4)} us predicted\n`
            + `error predicted ${figure(p.error)}, measured ${figure(p.measured)}\n`
            + `${p.full} operators in FP32`,
        })),
      ],
    }),
  });
}

const HISTOGRAMS = 6;

function plotHistograms() {
  const box = emptied("histograms");
  if (!box) return;
  const outputs = report.outputs.filter((output) => output.histogram);
  box.append(element("h3", null, "Errors and values by magnitude"));
  for (const output of outputs.slice(0, HISTOGRAMS)) plotHistogram(box, output);
  if (outputs.length > HISTOGRAMS) {
    box.append(element("p", {class: "quiet"}, `and ${counted(outputs.length - HISTOGRAMS, "output")} more`));
  }
}

function plotHistogram(box, {output, histogram}) {
  const bars = (pairs) => pairs.map(([exponent, count]) => ({exponent, count}));
  const [errors, values] = [bars(histogram.errors), bars(histogram.values)];
  const all = [...errors, ...values];
  const total = all.reduce((sum, bar) => sum + bar.count, 0);
  if (!total) {
    box.append(element("p", null, histogram.exact
      ? `${output}: ${counted(histogram.exact, "element")}, all equal to FP32's.`
      : `${output}: no element is finite on both sides, so there is no error to count.`));
    return;
  }
  const first = firstShown(all, total);
  const cut = errors.filter((bar) => bar.exponent < first).reduce((sum, bar) => sum + bar.count, 0);
  const shown = (bar) => bar.exponent >= first;
  const mode = (list) => list.reduce((a, b) => (a.count >= b.count ? a : b), {count: 0, exponent: 0});
  const words = `${output}: most errors are near ${powerOfTwo(mode(errors).exponent)}, most values near `
    + `${powerOfTwo(mode(values).exponent)}; ${counted(histogram.exact, "element")} without any error`
    + `${cut ? `, ${cut.toLocaleString("en")} with a smaller error than is shown` : ""}.`;
  addChart(box, {
    height: 200,
    words,
    legend: [["bar-error", "absolute error"], ["bar-value", "magnitude of the value in FP32"]],
    draw: (width) => Plot.plot({
      className: "plot", width, height: 200, marginLeft: 56, marginTop: 22, marginBottom: 34,
      x: {label: "power of two →", ticks: Math.max(2, width / 80), tickFormat: powerOfTwo},
      y: {label: "↑ elements", grid: true, ticks: 4},
      marks: [
        Plot.rectY(values.filter(shown), {
          x1: "exponent", x2: (bar) => bar.exponent + 1, y: "count", fill: "var(--other)",
          fillOpacity: 0.25, stroke: "var(--other)", insetLeft: 0.5, insetRight: 0.5,
        }),
        Plot.rectY(errors.filter(shown), {
          x1: "exponent", x2: (bar) => bar.exponent + 1, y: "count", fill: "var(--measured)",
          fillOpacity: 0.75, insetLeft: 2, insetRight: 2,
        }),
        Plot.ruleY([0]),
      ],
    }),
    table: () => pagedTable(`Errors and values of ${output}`, [
      {name: "Magnitude from", cell: (row) => powerOfTwo(row.exponent)},
      {name: "Elements with such an error", right: true, cell: (row) => row.error.toLocaleString("en")},
      {name: "Elements of such a value", right: true, cell: (row) => row.value.toLocaleString("en")},
    ], bothCounts(errors, values)),
  });
}

// The exponent below which less than a hundredth of the elements lie.
function firstShown(bars, total) {
  let below = 0;
  for (const bar of [...bars].sort((a, b) => a.exponent - b.exponent)) {
    below += bar.count;
    if (below > total / 100) return bar.exponent;
  }
  return -Infinity;
}

function bothCounts(errors, values) {
  const found = new Map();
  const row = (exponent) => found.get(exponent)
    ?? found.set(exponent, {exponent, error: 0, value: 0}).get(exponent);
  for (const bar of errors) row(bar.exponent).error = bar.count;
  for (const bar of values) row(bar.exponent).value = bar.count;
  return [...found.values()].sort((a, b) => b.exponent - a.exponent);
}
